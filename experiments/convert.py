"""Convert the trained ANN: balance its thresholds, choose their scaling factor and calibrate the logits on the first
half of the validation split.

python -m experiments.convert [PRESET] [--workdir DIR] [--field value ...]
"""

import time
from functools import partial

import jax
import numpy as np

from experiments import networks
from experiments.fields import AUTO
from experiments.machine import this_machine
from experiments.runs import command_line
from experiments.runs.data import open_source
from experiments.runs.progress import watched
from experiments.runs.stages import finish, require, restored, save_network
from experiments.runs.workdir import Results, Run, read_results
from experiments.scoring import images_for_choices, score, warn_of_silent_layers
from experiments.train_ann import trained_ann
from jsnn.conversion import Thresholds, balance_thresholds, convert, paper_thresholds
from jsnn.data.augment import scale
from jsnn.data.datasets import TRAIN, VALIDATION
from jsnn.network.transformation import Variables
from jsnn.training.evaluation import factor_sweep
from jsnn.training.hosts import all_gather
from jsnn.training.parallel import parallel_evaluation

FACTORS = tuple(round(0.1 + 0.05 * i, 2) for i in range(19))  # on thresholds, 0.1 to 1
SCALES = tuple(2 ** (-i / 2) for i in range(25))  # on logits, 1 to 1/4096


def convert_ann(run: Run) -> None:
    """Convert the trained ANN of a run: a checkpoint in converted/, and `converted` in results.json."""
    begin, ann = time.perf_counter(), networks.folded(run.config, trained_ann(run))
    thresholds = balance(run, ann)
    snn = convert(networks.build_snn(run.config), ann, thresholds, initial=run.config.convert.initial)
    by_layer = {layer: float(threshold) for layer, threshold in paper_thresholds(thresholds).items()}
    results = {"thresholds": by_layer, **_best_factor(run, snn)}
    save_network(run, "converted", 0, snn, {})
    summary = f"factor {results['scaling_factor']:g}, validation {results['validation_accuracy']:.2%}"
    finish(run, "convert", time.perf_counter() - begin, {"converted": results}, summary)


def balance(run: Run, ann: Variables) -> Thresholds:
    """Thresholds for the weights of an ANN, as it is converted, on training images as evaluation sees them."""
    config, options, source = run.config, run.config.convert, open_source(run.config, TRAIN)
    presentation = networks.presentation_of(config, options.balance_steps, this_machine()._replace(num_devices=1))
    count = min(options.balance_images, source.num_examples)
    count -= count % jax.process_count()  # all processes have as many, each its own share
    batch = source.take(source.resident, next(source.in_order(count)))
    images, index = jax.device_put((batch.images, batch.index), jax.local_devices()[0])
    return balance_thresholds(
        presentation.snn,
        ann,
        scale(images),  # in [-1, 1], not augmented
        presentation.encode,
        networks.random_key(config, "balance"),
        num_steps=presentation.num_steps,
        percentile=options.percentile,
        layers=networks.build_ann(config).stem_layers if options.balance == "stem" else None,
        chunk=presentation.chunk,
        batch_size=config.run.eval_batch_size,
        index=index,
        progress=watched,
        all_gather=all_gather,
    )


def converted_snn(run: Run) -> Variables:
    """The run's converted net (IF), its thresholds as they were balanced; ValueError where it is not converted yet."""
    require(run, "convert")
    return restored(run, "converted", jax.eval_shape(lambda: networks.snn_like(run.config)))


def scaled_snn(run: Run, snn: Variables | None = None) -> Variables:
    """The run's converted net (IF), or another, its thresholds scaled by the chosen factor."""
    factor = read_results(run.directory)["converted"]["scaling_factor"]
    return networks.scaled(run.config, snn or converted_snn(run), factor)


def calibrated_scale(run: Run) -> float:
    """The factor that calibrates the logits of the run's converted net."""
    return read_results(run.directory)["converted"]["logit_scale"]


def _best_factor(run: Run, snn: Variables) -> Results:
    """The factor with the best accuracy at num_steps on the images for choices, and the logits' scale of least loss."""
    config, options = run.config, run.config.convert
    factors = FACTORS if options.scaling_factor == AUTO else (options.scaling_factor,)
    presentation, source = networks.presentation_of(config, options.num_steps), open_source(config, VALIDATION)
    scaled, unit = partial(networks.scaled, config), partial(networks.logit_unit, config)
    sweep = parallel_evaluation(factor_sweep(presentation, source, factors, SCALES, scaled, unit))
    key, images = networks.random_key(config, "validation"), images_for_choices(config)
    scores = score(config, sweep, snn, VALIDATION, key, images=images)
    accuracy = np.asarray(scores.accuracy[:, -1])
    best = int(np.flatnonzero(accuracy == accuracy.max())[-1])  # of equal ones the largest, which spikes least
    losses = scores.loss[best, -1]
    warn_of_silent_layers("converted", {layer: float(spikes[best].sum()) for layer, spikes in scores.spikes.items()})
    return {
        "scaling_factor": factors[best],
        "validation_accuracy": float(accuracy[best]),
        "validation_accuracy_by_factor": {str(f): float(value) for f, value in zip(factors, accuracy, strict=True)},
        "validation_loss": float(losses[0]),
        "logit_scale": SCALES[int(np.argmin(losses))],
    }


if __name__ == "__main__":
    command_line.run_stage("convert", __doc__, convert_ann)
