"""The programs of a preset, with the shapes that they are called with: its own stages' functions, and no data."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import finetune, train_ann
from experiments.fields import Config
from experiments.machine import Machine
from experiments.networks import build_ann, init_variables, logit_unit, presentation_of, snn_like
from jsnn.conversion.balancing import KEEP_BYTES, maximum
from jsnn.conversion.layerwise import Probe, bytes_of_spikes, layers_run, probe_layer
from jsnn.conversion.percentile import upper_histogram
from jsnn.data.datasets import Split, info
from jsnn.data.sources import Batch, Source, resident_source
from jsnn.training.evaluation import snn_evaluation
from jsnn.training.loss import cross_entropy
from jsnn.training.parallel import parallel_evaluation, parallel_train_step
from jsnn.training.step import init_state, train_step

ANN_STEP, HYBRID_STEP = "ann step", "hybrid step"
KEY = jax.eval_shape(lambda: jax.random.key(0))
# Images of the training split (validation's are taken off) and of the test split.
IMAGES = {
    "digits": (1294, 360),
    **dict.fromkeys(("mnist", "fashion_mnist"), (55_000, 10_000)),
    **dict.fromkeys(("cifar10", "cifar100"), (45_000, 10_000)),
    "imagenet2012": (1_276_167, 50_000),
}


class Program(NamedTuple):
    """A function of arrays: how it is lowered for all devices, what it is on one, and the images that it takes."""

    lower: Callable[[], Any]
    on_one: Callable[..., Any]
    arguments: tuple  # of that, as shapes
    gathered: tuple[int, ...]  # places of arguments of which only rows are taken: the data set's
    images: dict[str, int]  # of a "call", over all devices, and of an "epoch", or pass over the data


def ann_step(config: Config, machine: Machine) -> Program:
    """A training step of the ANN."""
    rule = train_ann.rule_of(config, _num_images(config) // config.data.batch_size)
    state = jax.eval_shape(lambda: init_state(init_variables(config, "init"), rule))
    return _training(config, machine, state, (train_ann.forward_of(config), rule, cross_entropy))


def hybrid_step(config: Config, machine: Machine) -> Program:
    """A training step of the SNN."""
    rule = finetune.rule_of(config, _num_images(config) // config.data.batch_size)
    state = jax.eval_shape(lambda: finetune.state_of(config, snn_like(config), init_variables(config, "init"), rule))
    parts = finetune.forward_of(config, 1.0, machine), rule, finetune.loss_of(config)
    return _training(config, machine, state, parts)


def evaluation(config: Config, machine: Machine) -> Program:
    """The evaluation of a batch by the SNN, beside the training images, which stay on the device."""
    source, snn = _source(config), jax.eval_shape(lambda: snn_like(config))
    presentation = presentation_of(config, config.convert.num_steps, machine)
    evaluate = snn_evaluation(presentation, source, partial(logit_unit, config))
    images = {"call": config.run.eval_batch_size, "epoch": IMAGES[config.data.dataset][1]}
    on_all = parallel_evaluation(evaluate, machine.devices)
    return _of_batches(config, on_all, evaluate, snn, images, machine.num_devices)


def balancing(config: Config, machine: Machine) -> Program:
    """The pass of balancing over the second layer and the first, those of most neurons; on one device, as it runs."""
    options, batch, snn = config.convert, config.run.eval_batch_size, jax.eval_shape(lambda: snn_like(config))
    presentation = presentation_of(config, options.balance_steps, machine._replace(num_devices=1))
    shown = jax.ShapeDtypeStruct((batch, *info(config.data.dataset).image_shape), jnp.float32)
    graph, _ = presentation.snn.trace(snn, shown)
    layer = (build_ann(config).stem_layers if options.balance == "stem" else list(graph.layers))[:2][-1]
    kept = {name: bytes_of_spikes(presentation, of.shape, options.balance_images) for name, of in graph.layers.items()}
    wanted = tuple(name for name in layers_run(graph, layer, {}) if kept[name] <= KEEP_BYTES)
    probe = Probe(layer, wanted, maximum if options.percentile == 100 else upper_histogram)
    place = None if machine.devices is None else jax.sharding.SingleDeviceSharding(machine.devices[0])
    presented = shown, jax.ShapeDtypeStruct((batch,), jnp.int32), KEY
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), (snn, presented, {}))
    lower, on_one = (partial(call, presentation, probe) for call in (probe_layer.lower, probe_layer))
    images = {"call": batch, "epoch": options.balance_images}
    return Program(partial(lower, *arguments), on_one, arguments, (), images)


def is_run(config: Config, name: str) -> bool:
    """Whether a run of a config has a program: QCFS balances nothing, and what is not trained takes no step."""
    return {"balancing": config.network.levels is None, HYBRID_STEP: bool(config.finetune.trained)}.get(name, True)


PROGRAMS = {ANN_STEP: ann_step, HYBRID_STEP: hybrid_step, "balancing": balancing, "evaluation": evaluation}


def _training(config: Config, machine: Machine, state: Any, of_step: tuple[Any, Any, Any]) -> Program:
    """A training step of forward function, optimiser and loss."""
    (forward, rule, loss), source, parts = of_step, _source(config), config.run.accumulate
    on_all = parallel_train_step(source, forward, rule, loss, parts, machine.devices)
    on_one = train_step(source, forward, rule, None, loss, parts)
    images = {"call": config.data.batch_size, "epoch": _num_images(config)}
    return _of_batches(config, on_all, on_one, state, images, machine.num_devices)


def _of_batches(
    config: Config, on_all: Any, on_one: Any, variables: Any, images: dict[str, int], num_devices: int
) -> Program:
    """A program of variables, the data set and an item of it, of equally many images on each device."""
    about, samples = info(config.data.dataset), images["call"] // num_devices
    resident = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), _source(config).resident)

    def item(*batch: int) -> Any:
        index = jax.ShapeDtypeStruct(batch, jnp.int32)
        pixels = jax.ShapeDtypeStruct((*batch, *about.image_shape), jnp.uint8)
        return Batch(pixels, index, index) if about.streamed else index

    lower = partial(on_all.lower, variables, resident, item(num_devices, samples), KEY)
    return Program(lower, on_one, (variables, resident, item(samples), KEY), (1,), images)


def _num_images(config: Config) -> int:
    return IMAGES[config.data.dataset][0]


def _source(config: Config) -> Source:
    """The training split of a config's data set, of the shape that it has but without its images."""
    data, about = config.data, info(config.data.dataset)
    if about.streamed:
        from jsnn.data.streaming import Examples, source_of  # grain takes a second to import

        return source_of(Examples(data.dataset, about, range(_num_images(config))))
    images = np.broadcast_to(np.uint8(0), (_num_images(config), *about.image_shape))
    return resident_source(Split(images, np.zeros(len(images), np.int32)), data.crop_padding, data.flip)
