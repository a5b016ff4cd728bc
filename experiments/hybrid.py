"""The whole pipeline of a preset: train an ANN, convert it, fine-tune it with a surrogate gradient, evaluate, report.

    python -m experiments.hybrid [PRESET] [--workdir DIR] [--field value ...]

Stages that the workdir already holds are not run again; an interrupted training goes on from its last checkpoint.
"""

from experiments.convert import convert_ann
from experiments.evaluate import evaluate, show
from experiments.finetune import finetune
from experiments.runs.command_line import run_command
from experiments.runs.progress import say
from experiments.runs.stages import is_done
from experiments.runs.workdir import STAGES, Run
from experiments.train_ann import train_ann

WORK_OF = dict(zip(STAGES, (train_ann, convert_ann, finetune, evaluate), strict=True))


def hybrid(run: Run) -> None:
    """Run all stages that are not done yet, in order, and show the results."""
    was_done = is_done(run, STAGES[-1])
    up_to(STAGES[-1], run)
    if was_done:
        show(run)
    say(f"all of it is in {run.directory}")


def up_to(last: str, run: Run) -> None:
    """Run the stages up to the last one named that are not done yet, in order."""
    for name in STAGES[: STAGES.index(last) + 1]:
        if is_done(run, name):
            say(f"{name}: done before")
        else:
            WORK_OF[name](run)


if __name__ == "__main__":
    run_command("hybrid", __doc__, hybrid)
