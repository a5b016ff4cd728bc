"""The site: `sphinx-build -W --keep-going -b html docs docs/_build/html`; tutorials run while it is built."""

import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")  # for the kernels of tutorials: pictures without a white box
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from sphinx.domains.python import PyObject  # noqa: E402

import jsnn  # noqa: E402

project, author, release = "jsnn", "the authors of jsnn", jsnn.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
exclude_patterns = ["_build", "requirements.txt"]
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme, html_title = "furo", f"jsnn {release}"
smartquotes_action = "D"  # dashes alone: quotes and dots of code stay as they are
html_static_path, html_css_files = ["_static"], ["site.css"]
html_show_copyright = html_show_sphinx = html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "github-dark"

myst_enable_extensions = ["deflist"]  # no mathematics: equations are text, as in docstrings, and need no script
myst_heading_anchors = 3
nb_execution_mode = "cache"  # a page whose code is as it was does not run again
nb_execution_cache_path = str(HERE / "_build" / "programs")
nb_execution_timeout, nb_execution_raise_on_error, nb_merge_streams = 600, True, True

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True
napoleon_numpy_docstring, napoleon_use_ivar, napoleon_use_rtype = False, True, False
default_role = "py:obj"  # a name in single backticks is a link where the site has the name, and code elsewhere

next(field for field in PyObject.doc_field_types if field.name == "variable").label = "Fields"  # for "Variables"
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")


def as_rest(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: equations, indented behind a paragraph, become literal, and signs stay signs."""
    text, last = [], ""
    for number, line in enumerate(lines):
        is_equation = line.startswith("    ") and not SECTION.match(last)
        if is_equation and number and not lines[number - 1]:
            text += [".. code-block:: text", ""]
        text.append(line if is_equation else re.sub(r"(`[^`]*`)|([*|])", _escaped, line))
        last = line if line and not line.startswith(" ") else last
    lines[:] = text


def with_short_types(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Types of fields without the modules that they come from."""
    lines[:] = [re.sub(r"\b(\w+\.)+(?=\w)", "", line) if line.startswith(":vartype") else line for line in lines]


def _escaped(match: re.Match) -> str:
    return match[1] or f"\\{match[2]}"


def without_flax(app: Any, what: str, name: str, thing: Any, options: Any, signature: str, returns: str) -> Any:
    """The signature of a Flax module without the two arguments that every module has."""
    return signature and re.sub(r", parent=.*, name=None\)", ")", signature), returns


def by_page(app: Any, path: Path, page: str, content: list[str]) -> None:
    """Links of a text that is shown on a page elsewhere than where it lies lead to the pages of the site."""
    content[0] = content[0].replace("](../../docs/", "](").replace("](results/README.md)", "](results.md)")
    content[0] = content[0].replace("](results)", "](results.md)")


def setup(app: Any) -> None:
    """What is made of docstrings, before napoleon reads their sections, and of texts from elsewhere."""
    app.connect("autodoc-process-docstring", as_rest, priority=100)
    app.connect("autodoc-process-docstring", with_short_types, priority=900)
    app.connect("include-read", by_page)
    app.connect("autodoc-process-signature", without_flax)
