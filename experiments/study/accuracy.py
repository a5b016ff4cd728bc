"""Accuracies that the study measures beside those of the runs."""

import jax

from experiments.convert import chosen_factor, converted_snn
from experiments.finetune import last_snn
from experiments.runs.networks import stream_keys
from experiments.runs.presentation import present
from experiments.runs.workdir import Run
from jsnn.conversion import scale_thresholds
from jsnn.datasets import VALIDATION
from jsnn.simulation import Variables


def over_streams(run: Run) -> dict[str, list[float]]:
    """Accuracies on the validation split at num_steps, one for each of several streams of noise.

    No choice was made on these streams, so that the best of many factors has no advantage on them.

    Args:
        run: the run, its net fine-tuned.

    Returns:
        {"converted": accuracies of the converted net at its factor, "hybrid": of the net after the last epoch}.
    """
    config = run.config
    keys = stream_keys(config, VALIDATION, config.evaluate.streams)

    def of(net: str, snn: Variables) -> list[float]:
        scores = (present(config, snn, config.convert.num_steps, VALIDATION, key, net) for key in keys)
        return [float(score.accuracy[-1]) for score in scores]

    converted = scale_thresholds(converted_snn(run), chosen_factor(run))
    return {"converted": of("converted", converted), "hybrid": of("hybrid", last_snn(run))}


def by_step(
    run: Run, snn: Variables, num_steps: int, split: str, key: jax.Array, images: int | None = None
) -> list[float]:
    """Accuracy after each of several time steps.

    Args:
        run: whose data and network they are.
        snn: SNN variables.
        num_steps: how many steps.
        split: of the data.
        key: of the noise.
        images: how many of the split, see `experiments.runs.presentation.present`.

    Returns:
        An accuracy for each step.
    """
    scores = present(run.config, snn, num_steps, split, key, split, images)
    return [float(accuracy) for accuracy in scores.accuracy]
