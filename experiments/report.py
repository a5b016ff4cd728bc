"""Tables and plots of results: of several runs side by side, or all of the pages' where none is named.

python -m experiments.report [WORKDIR... [--output DIR]]
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.reports.plots import draw_comparison
from experiments.reports.table import markdown
from experiments.runs.command_line import guarded
from experiments.runs.progress import say
from experiments.runs.workdir import STAGES, read_record, read_results


@dataclass(frozen=True)
class Arguments:
    """What to report on."""

    # Folders of finished runs; without any, experiments/README.md, docs/accelerators.md and docs/benchmark.md are made
    # anew from experiments/results.
    workdirs: tyro.conf.Positional[tuple[Path, ...]] = ()
    output: Path = Path("report")  # Folder for report.md and report.png.
    debug: bool = False  # Show the traceback of an error.


def report(workdirs: tuple[Path, ...], output: Path) -> str:
    """Write report.md, whose table is returned, and report.png of finished runs; ValueError where there are none."""
    if not workdirs:
        raise ValueError("a report needs at least one workdir: python -m experiments.report WORKDIR...")
    for workdir in workdirs:
        record = read_record(workdir)
        if record is None or STAGES[-1] not in record.stages:
            command = f"python -m experiments.hybrid --workdir {workdir}"
            raise ValueError(f"{workdir} holds no finished run: run `{command}`.")
    runs = [*map(read_results, workdirs)]
    text = markdown(runs)
    output.mkdir(parents=True, exist_ok=True)
    (output / "report.md").write_text(f"{text}\n\n![accuracy against time steps](report.png)\n", encoding="utf-8")
    draw_comparison(runs, output / "report.png")
    return text


def main() -> None:
    """Report on what the command line names."""
    arguments = tyro.cli(Arguments, prog="python -m experiments.report", description=__doc__)
    if arguments.workdirs:
        say(report(arguments.workdirs, arguments.output))
    else:
        from experiments.benchmark import report as benchmark
        from experiments.compile import page as accelerators
        from experiments.study import page  # and with it pandas, which the runs' own tables do without

        for made in (page, accelerators, benchmark):
            made.rebuild()


if __name__ == "__main__":
    sys.exit(guarded(main))
