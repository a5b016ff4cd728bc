"""Tables and plots of results: of several runs side by side, or all of experiments/README.md where none is named.

python -m experiments.report [WORKDIR... [--output DIR]]
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.reports.plots import draw_comparison
from experiments.reports.table import markdown
from experiments.runs.command_line import refuse
from experiments.runs.records import Results, renew_results


@dataclass(frozen=True)
class Arguments:
    """What to report on."""

    # Folders of finished runs; without any, experiments/README.md is made anew from experiments/results.
    workdirs: tyro.conf.Positional[tuple[Path, ...]] = ()
    output: Path = Path("report")  # Folder for report.md and report.png.


def report(workdirs: tuple[Path, ...], output: Path) -> str:
    """Write report.md, whose table is returned, and report.png of finished runs into a folder.

    Raises:
        ValueError: where a folder holds no finished run.
    """
    if not workdirs:
        raise ValueError("a report needs at least one workdir: python -m experiments.report WORKDIR...")
    runs = [_finished(workdir) for workdir in workdirs]
    text = markdown(runs)
    output.mkdir(parents=True, exist_ok=True)
    (output / "report.md").write_text(f"{text}\n\n![accuracy against time steps](report.png)\n", encoding="utf-8")
    draw_comparison(runs, output / "report.png")
    return text


def _finished(workdir: Path) -> Results:
    path = workdir / "results.json"
    if (workdir / "stages.json").exists():
        results = renew_results(workdir)
    else:  # results that were kept alone
        results = json.loads(path.read_text()) if path.exists() else {}
    if "evaluate" not in results.get("seconds", {}):
        raise ValueError(f"{workdir} holds no finished run: run `python -m experiments.hybrid --workdir {workdir}`.")
    return results


if __name__ == "__main__":
    arguments = tyro.cli(Arguments, prog="python -m experiments.report", description=__doc__)
    try:
        if arguments.workdirs:
            print(report(arguments.workdirs, arguments.output))
        else:
            from experiments.study import page  # and with it pandas, which the runs' own tables do without

            page.rebuild()
    except Exception as error:
        sys.exit(refuse(error, debug=False))
