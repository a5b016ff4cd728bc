"""Convert the trained ANN: balance its thresholds, choose their scaling factor on the validation split.

python -m experiments.convert [PRESET] [--workdir DIR] [--field value ...]
"""

import dataclasses
import time
from functools import partial

import jax
import numpy as np

from experiments import command
from experiments.config import AUTO
from experiments.networks import build_snn, chunk_of, encoding_of, num_batches, open_source, random_key, snn_like
from experiments.progress import say, watcher
from experiments.train_ann import trained_ann
from experiments.workdir import Run, checkpoints, finish, read_results, require, restored
from jsnn.augment import scale
from jsnn.balancing import balance_thresholds
from jsnn.checkpoint import save
from jsnn.conversion import Thresholds, convert, scale_thresholds
from jsnn.datasets import TRAIN, VALIDATION
from jsnn.evaluation import sweep_factors
from jsnn.parallel import evaluate_split, parallel_evaluation
from jsnn.simulation import Variables

FACTORS = tuple(round(0.1 + 0.05 * i, 2) for i in range(19))  # 0.1 to 1


def convert_ann(run: Run) -> None:
    """Balance the thresholds of a run's ANN and choose their scaling factor.

    Args:
        run: the run, its ANN trained; gets a checkpoint in converted/, and `converted` in results.json.
    """
    begin = time.perf_counter()
    ann = trained_ann(run)
    thresholds = balance(run, ann)
    found = {"thresholds": {layer: float(threshold) for layer, threshold in thresholds.items()}}
    snn = convert(ann, thresholds)
    say("converted thresholds  " + "  ".join(f"{layer} {value:.3g}" for layer, value in found["thresholds"].items()))
    if run.config.scaling_factor == AUTO:
        found |= _choose_factor(run, snn)
    else:
        found["scaling_factor"] = run.config.scaling_factor
    record = {"config": dataclasses.asdict(run.config), "scaling_factor": found["scaling_factor"]}
    save(checkpoints(run, "converted"), 0, snn, record)
    finish(run, "convert", time.perf_counter() - begin, {"converted": found})


def balance(run: Run, ann: Variables) -> Thresholds:
    """Thresholds for an ANN's weights, on training images as evaluation sees them."""
    config = run.config
    model = build_snn(config)
    return balance_thresholds(
        model,
        ann,
        _training_images(run),
        encoding_of(config),
        random_key(config, "balance"),
        num_steps=config.balance_steps,
        percentile=config.percentile,
        layers=model.stem_layers if config.balance == "stem" else None,
        chunk=chunk_of(config, config.balance_steps),
        batch_size=config.eval_batch_size,
        watch=watcher("balancing", len(model.spiking_layers)),
    )


def converted_snn(run: Run, factor: float = 1.0) -> Variables:
    """The run's converted net (IF), its thresholds times a factor.

    Raises:
        ValueError: where it is not converted yet.
    """
    require(run, "convert")
    expected = jax.eval_shape(lambda: snn_like(run.config))
    return scale_thresholds(restored(run, "converted", expected), factor)


def chosen_factor(run: Run) -> float:
    """The scaling factor of the run's thresholds."""
    return read_results(run.directory)["converted"]["scaling_factor"]


def _training_images(run: Run) -> jax.Array:
    """The first images of the training split, not augmented, [B, H, W, C] in [-1, 1]."""
    source = open_source(run.config, TRAIN)
    count = min(run.config.balance_images, source.num_examples)
    item = next(iter(source.in_order(count)))
    images = source.take(source.resident, item).images
    return scale(jax.device_put(images, jax.local_devices()[0]))


def _choose_factor(run: Run, snn: Variables) -> dict[str, object]:
    """The factor with the best validation accuracy at num_steps; of equal ones the largest, which spikes least."""
    config = run.config
    source = open_source(config, VALIDATION)
    chunk = chunk_of(config, config.num_steps)
    sweep = partial(sweep_factors, build_snn(config), encoding_of(config), config.num_steps, chunk, source, FACTORS)
    scores = evaluate_split(
        parallel_evaluation(sweep),
        snn,
        source,
        config.eval_batch_size,
        random_key(config, "validation"),
        watcher("factors", num_batches(config, source)),
    )
    accuracy = np.asarray(scores.accuracy[:, -1])
    best = int(np.flatnonzero(accuracy == accuracy.max())[-1])
    say(f"converted factor {FACTORS[best]} of {FACTORS[0]} to {FACTORS[-1]}: validation {accuracy[best]:.2%}")
    sweep_result = {str(factor): float(value) for factor, value in zip(FACTORS, accuracy, strict=True)}
    return {"scaling_factor": FACTORS[best], "validation_accuracy_by_factor": sweep_result}


if __name__ == "__main__":
    command.run_stage("convert", __doc__, convert_ann)
