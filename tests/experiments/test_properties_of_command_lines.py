"""Any command line that hypothesis thinks of is taken or refused, without a traceback."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.config import check
from experiments.fields import PREFIXED, Config
from experiments.presets import PRESETS
from experiments.runs import command_line

FIELDS = [
    f"{group}.{name}" if group in PREFIXED else name
    for group, values in dataclasses.asdict(Config()).items()
    for name in (values if isinstance(values, dict) else [group])
]
FLAGS = [f"--{name.replace('_', '-')}" for name in (*FIELDS, "workdir", "process_id", "no-flip")]
values = st.sampled_from(
    "0 1 -1 3 0.5 nan inf -inf 1e999 1e-400 none None auto True vgg5 adam digits stdb {} [] () '' \"\" ü 💥 --".split()
)
FEW_PRESETS = {name: PRESETS[name] for name in ("digits", "vgg5_cifar10")}  # for all, each parse takes half a second
words = st.sampled_from(FLAGS) | values | st.sampled_from(list(FEW_PRESETS)) | st.text(max_size=8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(words, max_size=7))
def test_no_command_line_ends_in_a_traceback(arguments):
    """It is taken, or refused with status 2; --help ends with 0."""

    def opened(config, workdir):
        check(config)
        assert isinstance(workdir, Path)
        return nullcontext()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line, "open_run", opened)
        patch.setattr(command_line, "PRESETS", FEW_PRESETS)
        patch.setattr(command_line, "set_compiler", lambda effort, folder: None)
        try:
            status = command_line.main("test", "", lambda run: None, arguments)
        except SystemExit as exit:
            status = exit.code
    assert status in (0, 2)
