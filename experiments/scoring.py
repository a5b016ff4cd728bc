"""Networks scored on a split of the data, by programs that all networks of a run share."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.fields import AUTO, Config
from experiments.networks import ann_function, logit_unit, presentation_of, random_key
from experiments.runs.data import evaluated_images, open_source
from experiments.runs.progress import watched
from jsnn.data.datasets import VALIDATION
from jsnn.data.sources import subset
from jsnn.network.transformation import Variables
from jsnn.training.early_exit import Exits, exit_evaluation
from jsnn.training.evaluation import Evaluate, Evaluation, ann_evaluation, snn_evaluation
from jsnn.training.parallel import evaluate_split, fitting_batch_size, parallel_evaluation

FACTOR = "factor"  # the collection of variables that holds the factor on an SNN's logits


def score(
    config: Config, program: Evaluate, variables: Variables, split: str, key: jax.Array, images: range | None = None
) -> Any:
    """Means over a split, or a range of its images, by a compiled evaluation."""
    source = open_source(config, split)
    source = source if images is None else subset(source, images)
    # The same for all splits and ranges of them, so that they share programs.
    batch_size = fitting_batch_size(config.run.eval_batch_size, evaluated_images(config))
    return evaluate_split(program, variables, source, batch_size, key, progress=watched, name=split)


def score_ann(config: Config, variables: Variables, split: str, images: range | None = None) -> float:
    """The share of the images of a split, or of a range of them, that an ANN classifies correctly."""
    scores = score(config, ann_program(config), variables, split, random_key(config, split), images)
    return float(scores.accuracy[-1])


def score_snn(
    config: Config, variables: Variables, num_steps: int, split: str, key: jax.Array, images: range | None = None
) -> Evaluation:
    """Scores of one stream of noise after each of `num_steps` time steps, see `score`."""
    return score(config, snn_program(config, num_steps), variables, split, key, images)


def score_exits(config: Config, variables: Variables, split: str, logit_scale: float) -> Exits:
    """Accuracy and mean number of steps where samples stop at each of CONFIDENCES, see `jsnn.training.early_exit`.

    The confidence is that of the logits in the loss of fine-tuning, of a presentation of num_steps.
    """
    factored = {**variables, FACTOR: {"logits": jnp.float32(logit_scale)}}
    return score(config, _exit_program(config), factored, split, random_key(config, split))


def validator(config: Config, program: Evaluate) -> Callable[[Variables], float]:
    """Accuracy of variables on the validation split after the last step, by a program for that split."""
    key = random_key(config, "validation")
    return lambda variables: float(score(config, program, variables, VALIDATION, key).accuracy[-1])


def images_for_choices(config: Config) -> range:
    """The validation images for choices among many: the first half."""
    return range(open_source(config, VALIDATION).num_examples // 2)


def images_for_comparison(config: Config) -> range:
    """The validation images that chose nothing of a converted net: the second half, or all where nothing is chosen."""
    chooses = AUTO in (config.convert.scaling_factor, config.finetune.logit_scale)
    return range(len(images_for_choices(config)) if chooses else 0, open_source(config, VALIDATION).num_examples)


@cache
def ann_program(config: Config) -> Evaluate:
    """The compiled evaluation of a batch by the ANN, of any split."""
    return parallel_evaluation(ann_evaluation(ann_function(config), open_source(config, VALIDATION)))


@cache
def snn_program(config: Config, num_steps: int) -> Evaluate:
    """The compiled evaluation of a batch by SNNs, of any split."""
    presentation, unit = presentation_of(config, num_steps), partial(logit_unit, config)
    return parallel_evaluation(snn_evaluation(presentation, open_source(config, VALIDATION), unit))


@cache
def _exit_program(config: Config) -> Evaluate:
    """The compiled evaluation of early exits of any split, of variables with the FACTOR on their logits."""
    presentation, source = presentation_of(config, config.convert.num_steps), open_source(config, VALIDATION)

    def scale(variables: Variables) -> jax.Array:
        return presentation.num_steps * variables[FACTOR]["logits"] * logit_unit(config, variables)

    return parallel_evaluation(exit_evaluation(presentation, source, scale))
