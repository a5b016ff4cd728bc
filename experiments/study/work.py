"""What the runs of the study do and measure; those that serve a choice never see the test split.

Question c asks where surrogate gradients lead, layer by layer, whether batches agree, and which neurons have none.
Spikes have no gradient to compare a surrogate's with, but weights can be moved a little with and against it, and the
spiking network run on both sides. Gradients come from the first half of the validation split, slopes from the second.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.config import with_fields
from experiments.convert import FACTORS, balance, calibrated_scale, scaled_snn
from experiments.fields import Config
from experiments.finetune import last_snn, logit_scale, starting_snn
from experiments.hybrid import up_to
from experiments.networks import build_snn, logit_unit, presentation_of, random_key, scaled, stream_keys
from experiments.runs.data import open_source
from experiments.runs.progress import say
from experiments.runs.workdir import Results, Run, read_results
from experiments.scoring import score_ann, score_snn
from experiments.train_ann import trained_ann
from jsnn.conversion import convert, paper_thresholds
from jsnn.data.augment import scale
from jsnn.data.datasets import TEST, VALIDATION
from jsnn.data.sources import Batch
from jsnn.network.simulation import Observer, simulate_images
from jsnn.network.transformation import Variables
from jsnn.training.loss import correct, cross_entropies

# Question a: thresholds, numbers of steps, and factors for them, chosen on so many images of the validation split.
PERCENTILES = (100.0, 99.7)
SHORT, IMAGES_FOR_SHORT = (8, 16, 32), 2048
LONG, FACTORS_FOR_LONG, IMAGES_FOR_LONG = (64, 128, 256, 512), (0.4, 0.55, 0.7, 0.85, 1.0), 512  # smaller ones saturate
# Question c: images in each half of the validation split, and the first ones of it; a step's share of a layer's norm.
IMAGES, IMAGES_FOR_SILENCE, BATCH, MOVE = 2048, 1024, 256, 0.02


def as_far_as(stage: str, run: Run) -> Results:
    """The pipeline up to a stage."""
    up_to(stage, run)
    return read_results(run.directory)


def ann_tested(run: Run) -> Results:
    """The ANN alone, with its accuracy on the test split."""
    results = as_far_as("train_ann", run)
    return results | {"ann": results["ann"] | {"accuracy": score_ann(run.config, trained_ann(run), TEST)}}


def tested(run: Run) -> Results:
    """The whole pipeline, with the test split, and spikes per pixel and step that its images are encoded into."""
    source = open_source(run.config, TEST)
    images = jnp.asarray(source.resident.images)[: source.num_examples]
    return as_far_as("evaluate", run) | {"input_rate": float(jnp.abs(scale(images)).mean())}


def validated(run: Run) -> Results:
    """The pipeline up to the fine-tune, and validation accuracies of nets before and after it, by new streams."""
    results, config, streams = as_far_as("finetune", run), run.config, {}
    keys = stream_keys(config, VALIDATION, config.evaluate.streams)
    for name, snn in {"converted": scaled_snn(run), "hybrid": last_snn(run)}.items():
        scores = (score_snn(config, snn, config.convert.num_steps, VALIDATION, key) for key in keys)
        streams[name] = [float(of_stream.accuracy[-1]) for of_stream in scores]
    return results | {"streams": streams}


def explained(run: Run) -> Results:
    """The pipeline up to the conversion, and what steps along each surrogate's gradient would do."""
    return as_far_as("convert", run) | {"descent": descent(run)}


def diagnosed(run: Run) -> Results:
    """As `validated`, and which neurons never fire and how far batches agree, before the fine-tune and after it."""
    results, nets = validated(run), {"before": starting_snn(run), "after": last_snn(run)}
    silent = {name: silent_neurons(run.config, snn) for name, snn in nets.items()}
    return results | {"silence": silent, "agreement": {name: agreement(run, snn) for name, snn in nets.items()}}


def conversion(images: int, run: Run) -> Results:
    """Accuracies of the converted net by percentile and number of steps, on so many test images for LONG ones."""
    ann, results = trained_ann(run), {}
    for percentile in PERCENTILES:
        config = with_fields(run.config, {"convert.percentile": percentile})
        thresholds = balance(run._replace(config=config), ann)
        snn = convert(build_snn(config), ann, thresholds)
        short, on_short = by_steps(run, snn, SHORT, FACTORS, range(IMAGES_FOR_SHORT), None)
        long, on_long = by_steps(run, snn, LONG, FACTORS_FOR_LONG, range(IMAGES_FOR_LONG), range(images))
        by_layer = {layer: float(value) for layer, value in paper_thresholds(thresholds).items()}
        scores = {"validation": short | long, "test": on_short | on_long}
        results[f"{percentile:g}"] = {"thresholds": by_layer} | scores
        say(f"percentile {percentile:g}: {scores['test']}")
    score = partial(score_ann, run.config, ann, TEST)
    of_ann = {"accuracy": score(), "accuracy_for_long": score(range(images))}
    return {"config": asdict(run.config), "ann": of_ann, "images_for_long": images, "percentiles": results}


def by_steps(
    run: Run, snn: Variables, steps: Sequence[int], factors: Sequence[float], chosen_on: range, tested_on: range | None
) -> tuple[Results, Results]:
    """Number of steps -> accuracies by factor on validation images, and on test images with factor 1 and the best."""

    def accuracies(factor: float, split: str, key: jax.Array, images: range | None) -> list[float]:
        net = scaled(run.config, snn, factor)
        return score_snn(run.config, net, max(steps), split, key, images=images).accuracy.tolist()

    key, (of_test, *_) = random_key(run.config, VALIDATION), stream_keys(run.config, TEST, 1)
    tried = {factor: accuracies(factor, VALIDATION, key, chosen_on) for factor in factors}
    best = {t: max(factors, key=lambda factor: (tried[factor][t - 1], factor)) for t in steps}
    tests = {factor: accuracies(factor, TEST, of_test, tested_on) for factor in {1.0, *best.values()}}
    validation = {str(t): {f"{factor:g}": curve[t - 1] for factor, curve in tried.items()} for t in steps}
    test = {str(t): {"factor_1": tests[1.0][t - 1], "factor": best[t], "chosen": tests[best[t]][t - 1]} for t in steps}
    return validation, test


def descent(run: Run) -> Results:
    """Gradient -> `changes` of the net that fine-tuning starts with by steps along it; their loss is the calibrated."""
    snn, calibrated, results = starting_snn(run), calibrated_scale(run), {}
    for name in ("stdb", "linear"):
        config = with_fields(run.config, {"finetune.surrogate": name})
        for kind, factor in (("plain", 1.0), ("calibrated", calibrated)):
            gradients = batch_gradients(config, snn, batched(config, 0, IMAGES, BATCH), factor)
            results[f"{name}, {kind}"] = changes(run.config, snn, gradients, calibrated)
    return results


def agreement(run: Run, snn: Variables) -> Results:
    """By layer the "share" on which the run's batches agree on gradients of a net, and the "loss" of a step along."""
    config, factor = run.config, logit_scale(run)
    gradients = batch_gradients(config, snn, batched(config, 0, IMAGES, config.data.batch_size), factor)
    shares = {layer: float(agreed_share(own["kernel"])) for layer, own in gradients.items() if "kernel" in own}
    return {"share": shares, "loss": changes(config, snn, gradients, factor)["loss"]}


def agreed_share(gradients: jax.Array) -> jax.Array:
    """The mean over weights with a gradient of |mean over n of g[n]| / sqrt(mean of g[n]^2): 1 where all N agree."""
    root_mean_square = jnp.sqrt((gradients**2).mean(0))
    ratios = jnp.abs(gradients.mean(0)) / jnp.where(root_mean_square > 0, root_mean_square, 1)
    return ratios.sum() / jnp.maximum((root_mean_square > 0).sum(), 1)


def changes(config: Config, snn: Variables, gradients: Any, factor: float) -> Results:
    """What a small step down a gradient does to `scores` on the second half, in one layer at a time: score -> layer.

        change = (score(w - s) - score(w + s)) / 2    with    s = MOVE * |w| * g / |g|

    of a layer's weights w and the mean g of its gradients [N, ...]: about -|g| |s| if g is the score's own. No g, no s.
    """
    batches, by_score = batched(config, IMAGES, IMAGES, BATCH), {"loss": {}, "accuracy": {}}
    for layer, weights in snn["params"].items():
        along = jax.tree.map(lambda of_batches: of_batches.mean(0), gradients[layer])
        share = MOVE * optax.tree.norm(weights) / (float(optax.tree.norm(along)) or 1.0)
        moved = (jax.tree.map(lambda w, g, by=by: w + by * g, weights, along) for by in (-share, share))
        down, up = (scores(config, {**snn, "params": {**snn["params"], layer: new}}, batches, factor) for new in moved)
        for name, of_layers in by_score.items():
            of_layers[layer] = float(down[name] - up[name]) / 2
    return by_score


@partial(jax.jit, static_argnums=0)
def scores(config: Config, snn: Variables, batches: Batch, factor: float) -> Results:
    """Means over batches [N, B, ...] of the "loss" [nats] of an SNN's logits times a factor, and of "accuracy"."""

    def of_batch(batch: Batch) -> Results:
        logits = factor * logit_unit(config, snn) * _present(config, snn, batch, lambda observed: observed.total)[-1]
        return {"loss": cross_entropies(logits, batch.labels), "accuracy": correct(logits, batch.labels)}

    return jax.tree.map(jnp.mean, jax.lax.map(of_batch, batches))


@partial(jax.jit, static_argnums=0)
def batch_gradients(config: Config, snn: Variables, batches: Batch, factor: float) -> Any:
    """The gradient of the loss of each batch, see `scores`, by the config's surrogate, [N, ...] for each weight."""

    def loss(params: Any, batch: Batch) -> jax.Array:
        return scores(config, {**snn, "params": params}, jax.tree.map(lambda leaf: leaf[None], batch), factor)["loss"]

    return jax.lax.map(partial(jax.grad(loss), snn["params"]), batches)


def silent_neurons(config: Config, snn: Variables) -> Results:
    """By layer, of all (neuron, image): the share that "never" has a spike in a presentation."""
    batches = batched(config, 0, IMAGES_FOR_SILENCE, config.run.eval_batch_size)

    def of_batch(batch: Batch) -> dict[str, jax.Array]:
        spikes = _present(config, snn, batch, lambda observed: observed.layers["spikes"], "spikes")
        return {layer: (train.sum(0) == 0).mean() for layer, train in spikes.items()}

    shares = jax.jit(partial(jax.lax.map, of_batch))(batches)
    return {"never": {layer: float(of_batches.mean()) for layer, of_batches in shares.items()}}


def _present(config: Config, snn: Variables, batch: Batch, observe: Observer, *collect: str) -> Any:
    """What is observed while the network is presented a batch, dropout off."""
    presentation, key = presentation_of(config, config.convert.num_steps), random_key(config, VALIDATION)
    return simulate_images(presentation, snn, scale(batch.images), batch.index, key, observe, collect=collect)


def batched(config: Config, start: int, count: int, batch_size: int) -> Batch:
    """Images of the validation split, these from one on, in batches [N, B, ...]."""
    source = open_source(config, VALIDATION)
    index = jnp.arange(start, start + count, dtype=jnp.int32).reshape(-1, batch_size)
    return jax.device_put(source.take(source.resident, index), jax.devices()[0])
