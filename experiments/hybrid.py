"""The whole pipeline of a preset: train an ANN, convert it, fine-tune it with STDB, evaluate, report.

    python -m experiments.hybrid [PRESET] [--workdir DIR] [--field value ...]

Stages that the workdir already holds are not run again; an interrupted one goes on from its last checkpoint.
"""

from experiments.command import run_command
from experiments.convert import convert_ann
from experiments.evaluate import evaluate, show
from experiments.finetune import finetune
from experiments.progress import say
from experiments.train_ann import train_ann
from experiments.workdir import STAGES, Run, is_done


def hybrid(run: Run) -> None:
    """Run all stages that are not done yet, in order.

    Args:
        run: the run.
    """
    for name, stage in zip(STAGES, (train_ann, convert_ann, finetune, evaluate), strict=True):
        if is_done(run, name):
            say(f"{name}: done before")
            if stage is evaluate:
                show(run)
        else:
            stage(run)
    say(f"all of it is in {run.directory}")


if __name__ == "__main__":
    run_command("hybrid", __doc__, hybrid)
