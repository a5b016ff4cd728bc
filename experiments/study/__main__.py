"""The study: variations of a preset that answer the questions of experiments/README.md, each with several seeds.

python -m experiments.study PRESET [--questions NAME...] [--seeds N...] [--data-dir DIR]

Runs whose results are there are not run again, and interrupted ones go on. Results go to experiments/results/study/,
from which `python -m experiments.report` makes all tables and plots.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.config import with_fields
from experiments.fields import Config
from experiments.runs import stopping
from experiments.runs.command_line import guarded
from experiments.runs.programs import keep_freed_memory
from experiments.runs.progress import say
from experiments.runs.stages import adopt, has_done
from experiments.runs.workdir import open_run
from experiments.study.plan import ANN, STUDIES, Trial, config_of_trial
from experiments.study.results import RESULTS, keep, kept


@dataclass(frozen=True)
class Arguments:
    """Which part of the study to run, and where."""

    preset: tyro.conf.Positional[str]  # A preset that has a study.
    questions: tuple[str, ...] = ()  # Which questions; all where none is named.
    seeds: tuple[int, ...] = ()  # Which seeds; all where none is named.
    data_dir: str | None = None  # Folder of prepared TFDS data sets.
    workdir: Path = Path("runs/study")  # Folder of the runs' workdirs.
    results: Path = RESULTS  # Folder of what is kept of them.
    debug: bool = False  # Show the traceback of an error.


def study(arguments: Arguments) -> None:
    """Run all trials without results, and the ANNs that they lack, as in a fresh clone; ValueError by unknown names."""
    preset, questions = arguments.preset, STUDIES.get(arguments.preset)
    if questions is None:
        raise ValueError(f"there is no study of {preset!r}, only of {', '.join(STUDIES)}.")
    for unknown in (name for name in arguments.questions if name not in questions):
        raise ValueError(f"there is no question {unknown!r}, only {', '.join(questions)}.")
    by_name = {ANN.name: ANN} | {one.name: one for trials in questions.values() for one in trials}
    asked = [one for name in arguments.questions or questions for one in questions[name]]
    planned = [(one, seed) for one in asked for seed in one.seeds]
    seeds = {seed for _, seed in planned}
    for unknown in (seed for seed in arguments.seeds if seed not in seeds):
        raise ValueError(f"no trial has the seed {unknown}, only {', '.join(map(str, sorted(seeds)))}.")
    for trial, seed in planned:
        done = kept(arguments.results, preset)
        if (trial.name, seed) in done or (arguments.seeds and seed not in arguments.seeds):
            continue
        ann, config = by_name[trial.ann], config_of_trial(preset, trial, seed)
        if trial is not ann and not ((ann.name, seed) in done and _donor(arguments.workdir / preset, config)):
            _work(arguments, ann, ann, seed)
        _work(arguments, trial, ann, seed)


def _work(arguments: Arguments, trial: Trial, ann: Trial, seed: int) -> None:
    """Run a trial with a seed, from the ANN of another that trains it, and keep its results where none are kept."""
    say(f"{arguments.preset} {trial.name} seed {seed}")
    config = with_fields(config_of_trial(arguments.preset, trial, seed), {"run.data_dir": arguments.data_dir})
    folder = arguments.workdir / arguments.preset
    with open_run(config, folder / trial.name / f"seed{seed}") as run:
        if trial is not ann:
            adopt(run, _donor(folder, config))
        results = trial.work(run)
    if (trial.name, seed) not in kept(arguments.results, arguments.preset):
        keep(arguments.results, arguments.preset, trial.name, results)


def _donor(folder: Path, config: Config) -> Path | None:
    """A run of the config's seed whose conversion is the same, else one whose ANN is; None where there is none."""
    runs = sorted(folder.glob(f"*/seed{config.seed}"))
    return next((one for stage in ("convert", "train_ann") for one in runs if has_done(one, config, stage)), None)


def main() -> None:
    """Run what the command line names."""
    keep_freed_memory()
    arguments = tyro.cli(Arguments, prog="python -m experiments.study", description=__doc__)
    with stopping.on_signals():
        study(arguments)


if __name__ == "__main__":
    sys.exit(guarded(main))
