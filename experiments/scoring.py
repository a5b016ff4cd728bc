"""Networks scored on a split of the data, by programs that all networks of a run share."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.fields import AUTO, Config
from experiments.networks import ann_function, logit_unit, presentation_of, random_key
from experiments.runs.data import evaluated_images, open_source
from experiments.runs.progress import say, watched
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
    scores = score(config, _ann_program(config), variables, split, random_key(config, split), images)
    return float(scores.accuracy[-1])


def score_snn(
    config: Config, variables: Variables, num_steps: int, split: str, key: jax.Array, images: range | None = None
) -> Evaluation:
    """Scores of one stream of noise after each of `num_steps` time steps, see `score`."""
    return score(config, _snn_program(config, num_steps), variables, split, key, images)


def score_exits(config: Config, variables: Variables, split: str, logit_scale: float) -> Exits:
    """Accuracy and mean steps where samples stop at each of CONFIDENCES, which are those of fine-tuning's logits."""
    factored = {**variables, FACTOR: {"logits": jnp.float32(logit_scale)}}
    return score(config, _exit_program(config), factored, split, random_key(config, split))


def validator(config: Config) -> Callable[[Variables], float]:
    """The accuracy of SNNs on the validation split at num_steps."""
    score_of = partial(score_snn, num_steps=config.convert.num_steps, split=VALIDATION)
    return lambda snn: float(score_of(config, snn, key=random_key(config, VALIDATION)).accuracy[-1])


def images_for_choices(config: Config) -> range:
    """The validation images for choices among many: the first half."""
    return range(open_source(config, VALIDATION).num_examples // 2)


def images_for_comparison(config: Config) -> range:
    """The validation images that chose nothing of a converted net: the second half, or all where nothing is chosen."""
    chooses = AUTO in (config.convert.scaling_factor, config.finetune.logit_scale)
    return range(len(images_for_choices(config)) if chooses else 0, open_source(config, VALIDATION).num_examples)


def warn_of_silent_layers(network: str, spikes: Mapping[str, float]) -> None:
    """Warn of layers without a spike for any image: their neurons have no say, and STDB can't train them."""
    silent = [layer for layer, count in spikes.items() if count == 0]
    if silent:
        say(
            f"warning: the {network} net is dead: no neuron of {', '.join(silent)} spikes for any image; train the ANN "
            "longer or with larger dense_std, raise num_steps or lower scaling_factor."
        )


@cache
def _ann_program(config: Config) -> Evaluate:
    return parallel_evaluation(ann_evaluation(ann_function(config), open_source(config, VALIDATION)))


@cache
def _snn_program(config: Config, num_steps: int) -> Evaluate:
    presentation, unit = presentation_of(config, num_steps), partial(logit_unit, config)
    return parallel_evaluation(snn_evaluation(presentation, open_source(config, VALIDATION), unit))


@cache
def _exit_program(config: Config) -> Evaluate:
    """The compiled evaluation of early exits of any split, of variables with the FACTOR on their logits."""
    num_steps, source = config.convert.num_steps, open_source(config, VALIDATION)

    def scale(snn: Variables) -> jax.Array:
        return num_steps * snn[FACTOR]["logits"] * logit_unit(config, snn)

    return parallel_evaluation(exit_evaluation(presentation_of(config, num_steps), source, scale))
