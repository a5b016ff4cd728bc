"""The programs of a preset, with the shapes that they are called with: its own stages' functions, and no data."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import finetune, train_ann
from experiments.compile.report import Images
from experiments.fields import Config
from experiments.runs.machine import Machine, evaluation_samples
from experiments.runs.networks import build_ann, init_variables, logit_unit, presentation_of, snn_like
from jsnn.conversion.balancing import KEEP_BYTES, maximum
from jsnn.conversion.layerwise import Probe, bytes_of_spikes, layers_run, probe_layer
from jsnn.conversion.percentile import upper_histogram
from jsnn.data.datasets import Split, info
from jsnn.data.sources import Batch, Source, resident_source
from jsnn.training.evaluation import snn_evaluation
from jsnn.training.forward import Forward
from jsnn.training.loss import Loss, cross_entropy
from jsnn.training.parallel import parallel_evaluation, parallel_train_step
from jsnn.training.step import init_state, train_step

ANN_STEP, HYBRID_STEP = "ann step", "hybrid step"
# Images of the training split (validation's are taken off) and of the test split.
IMAGES = {
    "digits": (1294, 360),
    "mnist": (55_000, 10_000),
    "fashion_mnist": (55_000, 10_000),
    "cifar10": (45_000, 10_000),
    "cifar100": (45_000, 10_000),
    "imagenet2012": (1_276_167, 50_000),
}


class Program(NamedTuple):
    """A function of arrays: how it is lowered for all devices, what it is on one, and the images that it takes."""

    lower: Callable[[], Any]
    on_one: Callable[..., Any]
    arguments: tuple  # of that, as shapes
    gathered: tuple[int, ...]  # places of arguments of which only rows are taken: the data set's
    images: Images  # over all devices


def ann_step(config: Config, machine: Machine) -> Program:
    """A training step of the ANN."""
    rule = train_ann.rule_of(config, _steps_per_epoch(config))
    state = jax.eval_shape(lambda: init_state(init_variables(config, "init"), rule))
    return _training(config, machine, train_ann.forward_of(config), rule, state)


def hybrid_step(config: Config, machine: Machine) -> Program:
    """A training step of the SNN."""
    rule = finetune.rule_of(config, _steps_per_epoch(config))
    state = jax.eval_shape(lambda: finetune.state_of(config, snn_like(config), init_variables(config, "init"), rule))
    return _training(config, machine, finetune.forward_of(config, 1.0, machine), rule, state, finetune.loss_of(config))


def balancing(config: Config, machine: Machine) -> Program:
    """The pass of balancing over the second layer and the first, those of most neurons; on one device, as it runs."""
    options, batch, snn = config.convert, config.run.eval_batch_size, jax.eval_shape(lambda: snn_like(config))
    presentation = presentation_of(config, options.balance_steps, machine._replace(num_devices=1))
    shape = info(config.data.dataset).image_shape
    graph, _ = presentation.snn.trace(snn, jax.ShapeDtypeStruct((batch, *shape), jnp.float32))
    layer = (build_ann(config).stem_layers if options.balance == "stem" else list(graph.layers))[:2][-1]
    statistic = maximum if options.percentile == 100 else upper_histogram
    kept = {
        name: bytes_of_spikes(presentation, one.shape, options.balance_images) for name, one in graph.layers.items()
    }
    wanted = tuple(name for name in layers_run(graph, layer, {}) if kept[name] <= KEEP_BYTES)
    probe = Probe(layer, wanted, statistic)
    presented = jax.ShapeDtypeStruct((batch, *shape), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32), _key()
    place = None if machine.devices is None else jax.sharding.SingleDeviceSharding(machine.devices[0])
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), (snn, presented, {}))
    lower = partial(probe_layer.lower, presentation, probe, *arguments)
    return Program(
        lower, partial(probe_layer, presentation, probe), arguments, (), Images(batch, options.balance_images)
    )


def evaluation(config: Config, machine: Machine) -> Program:
    """The evaluation of a batch by the SNN, beside the training images, which stay on the device."""
    source, snn = _source(config), jax.eval_shape(lambda: snn_like(config))
    presentation = presentation_of(config, config.convert.num_steps, machine)
    evaluate = snn_evaluation(presentation, source, partial(logit_unit, config))
    resident, per_device = _shapes(source.resident), evaluation_samples(config, machine)
    together, alone = _item(config, machine.num_devices, per_device), _item(config, per_device)
    lower = partial(parallel_evaluation(evaluate, machine.devices).lower, snn, resident, together, _key())
    images = Images(config.run.eval_batch_size, IMAGES[config.data.dataset][1])
    return Program(lower, evaluate, (snn, resident, alone, _key()), (1,), images)


def is_run(config: Config, name: str) -> bool:
    """Whether a run of a config has a program: QCFS balances nothing, and what is not trained takes no step."""
    return {"balancing": config.network.levels is None, HYBRID_STEP: bool(config.finetune.trained)}.get(name, True)


PROGRAMS = {ANN_STEP: ann_step, HYBRID_STEP: hybrid_step, "balancing": balancing, "evaluation": evaluation}


def _training(
    config: Config,
    machine: Machine,
    forward: Forward,
    rule: optax.GradientTransformation,
    state: Any,
    loss: Loss = cross_entropy,
) -> Program:
    source, parts, batch = _source(config), config.run.accumulate, config.data.batch_size
    on_all = parallel_train_step(source, forward, rule, loss, parts, machine.devices)
    resident, per_device = _shapes(source.resident), batch // machine.num_devices
    together, alone = _item(config, machine.num_devices, per_device), _item(config, per_device)
    lower = partial(on_all.lower, state, resident, together, _key())
    on_one = train_step(source, forward, rule, None, loss, parts)
    images = Images(batch, IMAGES[config.data.dataset][0])
    return Program(lower, on_one, (state, resident, alone, _key()), (1,), images)


def _steps_per_epoch(config: Config) -> int:
    return IMAGES[config.data.dataset][0] // config.data.batch_size


def _source(config: Config) -> Source:
    """The training split of a config's data set, of the shape that it has but without its images."""
    data, about = config.data, info(config.data.dataset)
    if about.streamed:
        from jsnn.data.streaming import Examples, source_of  # grain takes a second to import

        return source_of(Examples(data.dataset, about, range(IMAGES[data.dataset][0])))
    images = np.broadcast_to(np.uint8(0), (IMAGES[data.dataset][0], *about.image_shape))
    return resident_source(Split(images, np.zeros(len(images), np.int32)), data.crop_padding, data.flip)


def _item(config: Config, *batch: int) -> Any:
    """The shape of an item of the source."""
    index, about = jax.ShapeDtypeStruct(batch, jnp.int32), info(config.data.dataset)
    images = jax.ShapeDtypeStruct((*batch, *about.image_shape), jnp.uint8)
    return Batch(images, index, index) if about.streamed else index


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
