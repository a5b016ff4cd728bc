"""The study: variations of a preset that answer the questions of experiments/README.md, each with several seeds.

python -m experiments.study PRESET [--questions NAME...] [--seeds N...] [--data-dir DIR]

Runs whose results are there are not run again, and interrupted ones go on. Results go to experiments/results/, from
which `python -m experiments.report` makes all tables and plots.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.config import difference, with_fields
from experiments.fields import Config
from experiments.runs import compilation, stopping
from experiments.runs.adopt import adopt
from experiments.runs.allocation import keep_freed_memory
from experiments.runs.command_line import guarded
from experiments.runs.progress import say
from experiments.runs.records import GROUP_OF, config_of, read_stages
from experiments.runs.workdir import open_run
from experiments.study.plan import STUDIES
from experiments.study.results import RESULTS, results_path, write_results
from experiments.study.trials import ANN, Trial, config_of_trial


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
    """Run all trials that have no results yet; ValueError where there is no such study, question or seed."""
    questions = STUDIES.get(arguments.preset)
    if questions is None:
        raise ValueError(f"there is no study of {arguments.preset!r}, only of {', '.join(STUDIES)}.")
    for unknown in (name for name in arguments.questions if name not in questions):
        raise ValueError(f"there is no question {unknown!r}, only {', '.join(questions)}.")
    trials = {trial.name: trial for name in questions for trial in questions[name]} | {ANN.name: ANN}
    chosen = [trial for name in arguments.questions or questions for trial in questions[name]]
    seeds = {seed for trial in chosen for seed in trial.seeds}
    for unknown in (seed for seed in arguments.seeds if seed not in seeds):
        raise ValueError(f"no trial has the seed {unknown}, only {', '.join(map(str, sorted(seeds)))}.")
    for trial in chosen:
        for seed in trial.seeds:
            if not arguments.seeds or seed in arguments.seeds:
                run_trial(arguments, trial, trials[trial.ann], seed)


def run_trial(arguments: Arguments, trial: Trial, ann: Trial, seed: int) -> None:
    """Run a trial with a seed, from the ANN of another that trains it, and keep its results.

    Of an ANN whose results are kept, but of which there is no run, as in a fresh clone, the run is made again.
    """
    if _has_results(arguments, trial, seed):
        return
    folder, config = arguments.workdir / arguments.preset, config_of_trial(arguments.preset, trial, seed)
    if trial is not ann and not (_has_results(arguments, ann, seed) and _donor(folder, config)):
        _work(arguments, ann, ann, seed)
    _work(arguments, trial, ann, seed)


def _work(arguments: Arguments, trial: Trial, ann: Trial, seed: int) -> None:
    say(f"{arguments.preset} {trial.name} seed {seed}")
    here = {"run.data_dir": arguments.data_dir, "run.tensorboard": False}
    config = with_fields(config_of_trial(arguments.preset, trial, seed), here)
    folder = arguments.workdir / arguments.preset
    with open_run(config, folder / trial.name / f"seed{seed}") as run:
        if trial is not ann:
            adopt(run, _donor(folder, config))
        results = trial.work(run)
    if not _has_results(arguments, trial, seed):
        write_results(results_path(arguments.results, arguments.preset, trial.name, seed), results)


def _has_results(arguments: Arguments, trial: Trial, seed: int) -> bool:
    return results_path(arguments.results, arguments.preset, trial.name, seed).exists()


def _donor(folder: Path, config: Config) -> Path | None:
    """A run of the config's seed whose conversion is the same, else one whose ANN is; None where there is none."""
    for stage in ("convert", "train_ann"):
        for other in sorted(folder.glob(f"*/seed{config.seed}")):
            done = read_stages(other).get(stage)
            if done and not difference(config_of(other, done["config"]), config, GROUP_OF[stage]):
                return other
    return None


def main() -> None:
    """Run what the command line names."""
    compilation.return_memory()
    keep_freed_memory()
    arguments = tyro.cli(Arguments, prog="python -m experiments.study", description=__doc__)
    with stopping.on_signals():
        study(arguments)


if __name__ == "__main__":
    sys.exit(guarded(main))
