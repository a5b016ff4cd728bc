"""Bad arguments of models, neurons, encodings, data and training are refused in one sentence."""

from functools import partial
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from experiments import report
from jsnn import encoding, lif, models, surrogate
from jsnn.conversion import convert, parameters_by_channel, scale_paper_thresholds
from jsnn.data import Info, Split, load_split, register, resident_source, subset
from jsnn.data.augment import scale
from jsnn.data.datasets import check_split
from jsnn.training.forward import with_teacher
from jsnn.training.loss import Outputs, few_steps_loss
from jsnn.training.optimizers import learning_rate, optimizer
from jsnn.training.parallel import check_batch_size, split_over_devices
from tests.networks import IMAGE_SHAPE, SMALL_VGG, random_snn

KEY, RATE = jax.random.key(0), optax.constant_schedule(1.0)
IMAGES = jnp.zeros((2, *IMAGE_SHAPE))
SNN, VARIABLES = random_snn(SMALL_VGG, 0, leak=1.0)
PIXELS, LABELS = np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, int)
ANN = {"params": VARIABLES["params"]}
THRESHOLDS = dict.fromkeys(SMALL_VGG.spiking_layers, 1.0)
SOURCE, STREAM = resident_source(Split(PIXELS, np.zeros(3, np.int32))), Info((8, 8, 3), 10, streamed=True)
ADAPTIVE = jsnn.spiking(SMALL_VGG.apply, jsnn.adaptive_lif())
OWN = jsnn.spiking(SMALL_VGG.apply, jsnn.Neuron(lambda: {"threshold": 1.0, "leak": 0.9}, lif().init, lif().step))
LOGITS = Outputs(jnp.zeros((2, 10)), None, {})
GIVES_LOGITS, OTHER_NORM = lambda *_: (LOGITS.logits, {}), {"BatchNorm_0": {"mean": 0.0, "var": 1.0}}
NO_OUTPUTS = "must give Outputs, got ArrayImpl: make it with the readout"
NO_BYTES = [jnp.zeros((2, 4, 4, 1), dtype) for dtype in ("float32", "int32", "uint16")]


def checked(shape, *labels, dtype=np.uint8):
    """Black images of a data set of which three classes and images of 4 x 4 grey pixels are known."""
    return check_split("made up", Split(np.zeros(shape, dtype), np.array(labels, np.int32)), Info((4, 4, 1), 3))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: models.build("vgg5", 10, width=float("nan")), "width must be above 0 and finite, got nan"),
        (lambda: encoding.poisson(PIXELS, KEY, np.arange(3), np.arange(2)), "floating-point .* got uint8"),
        (lambda: encoding.constant(PIXELS, None, None, np.arange(2)), "floating-point numbers, got uint8"),
        (lambda: encoding.poisson(IMAGES, KEY, np.arange(3), np.arange(2)), "each image needs its index"),
        (lambda: convert(SNN, ANN, THRESHOLDS, initial=jnp.nan), "initial must be finite, got nan"),
        (lambda: convert(OWN, ANN, THRESHOLDS, leak=0.0), r"leak must be in \(0, 1\], got 0.0"),
        (lambda: convert(ADAPTIVE, ANN, THRESHOLDS, decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: convert(ADAPTIVE, ANN, THRESHOLDS, strength=-1.0), "strength must be at least 0, got -1.0"),
        (lambda: convert(SNN, ANN, 1.0), "thresholds are a mapping of layers to theirs, got 1.0"),
        (lambda: jsnn.balance_thresholds(SNN, ANN, IMAGES[:0], encoding.poisson, KEY, num_steps=4), "needs images"),
        (lambda: learning_rate("sine", 1.0, 10, 5), "unknown schedule 'sine'"),
        *((partial(learning_rate, "tenths", rate, 2, 2), "finite learning rate above 0") for rate in (0.0, np.inf)),
        (lambda: learning_rate("tenths", 1.0, 0, 5), "at least one epoch"),
        (lambda: learning_rate("tenths", 0.1, 2, 2, warmup=-1.0), "warmup must be at least 0 epochs"),
        (lambda: optimizer("lion", RATE, 0.0), "unknown optimiser 'lion'"),
        *((partial(optimizer, "adam", RATE, decay), "weight_decay must be") for decay in (-1.0, np.nan)),
        (lambda: optimizer("adam", RATE, 0.0, clip=0.0), "clip must be above 0"),
        (lambda: surrogate.stdb(alpha=0), "stdb needs alpha above 0 and finite, got 0"),
        (lambda: surrogate.stdb(alpha=float("inf")), "stdb needs alpha above 0 and finite, got inf"),
        (lambda: surrogate.stdb(beta=-1), "beta"),
        (lambda: surrogate.linear(gamma=-0.1), "gamma"),
        (lambda: surrogate.arctan(0), "arctan needs alpha above 0 and finite, got 0"),
        (lambda: surrogate.fast_sigmoid(-1.0), "fast_sigmoid needs slope above 0 and finite, got -1.0"),
        (lambda: surrogate.boxcar(0.0), "boxcar needs width above 0 and finite, got 0.0"),
        (lambda: surrogate.boxcar(1.0, float("nan")), "boxcar needs height above 0 and finite, got nan"),
        (lambda: resident_source(Split(PIXELS, np.zeros(2, np.int32))), "each image needs an integer label"),
        (lambda: resident_source(Split(PIXELS, np.zeros(3))), "each image needs an integer label, got .* float64"),
        (lambda: resident_source(Split(PIXELS[..., 0], LABELS)), r"images must be \[N, H, W, C\] uint8"),
        (lambda: resident_source(Split(PIXELS[:0], np.zeros(0, int))), "at least one, got"),
        (lambda: resident_source(Split(PIXELS.astype(float), LABELS)), "uint8, at least one, got .* float64"),
        (lambda: resident_source(Split(PIXELS.astype(object), LABELS)), "images must be .* got one of object"),
        *((partial(scale, pixels), "must be uint8 pixels") for pixels in NO_BYTES),
        *((partial(checked, (1, 4, 4, 1), 0, dtype=one.dtype), "outside the range") for one in NO_BYTES),
        *((partial(checked, (2, 4, 4, 1), 0, label), "made up has labels from") for label in (3, -1)),
        *((partial(checked, *given), "needs images of shape") for given in (((2, 4, 4, 3), 0, 1), ((0, 4, 4, 1),))),
        (lambda: split_over_devices(np.zeros((6, 2))), "can't be split evenly over 4 devices"),
        *((partial(check_batch_size, n, "size"), f"size {n} can't be split evenly over 4 devices") for n in (0, 6, 9)),
        (lambda: report.report((), None), "a report needs at least one workdir"),
        (lambda: load_split("digits", "training"), "no split 'training': choose one of train, validation, test"),
        (lambda: load_split("cifar11", "train"), "unknown data set 'cifar11'"),
        (lambda: register("tall", STREAM._replace(image_shape=(8, 6, 3))), "'tall' can't be streamed"),
        (lambda: register("grey", STREAM._replace(image_shape=(8, 8, 1))), r"must be \(S, S, 3\)"),
        (lambda: register("arrays", STREAM._replace(origin=dict)), "its origin a name or a folder of TFDS"),
        *(
            (partial(subset, SOURCE, places), rf"a split of 3 images has no range\({places.start}, {places.stop}")
            for places in (range(-1, 2), range(0, 3, 2), range(2, 2), range(3, 30), range(0))
        ),
        (lambda: subset(SOURCE, range(2)).shuffled(1, 0, 0), "a part of a split is for evaluation"),
        (lambda: resident_source(SOURCE.resident, crop_padding=-1), "crop_padding"),
        (lambda: SOURCE.shuffled(4, 0, 0), "batch_size must be at least 1 and at most the split's 3 samples, got 4"),
        (lambda: SOURCE.in_order(0), "batch_size must be at least 1, got 0"),
        (lambda: resident_source(Split(PIXELS, np.array([0, -1, 2]))), "labels must be at least 0, got -1"),
        (lambda: convert(SNN, ANN, THRESHOLDS, threshold=9.0), "leave out threshold, got 9.0"),
        (lambda: parameters_by_channel(SNN, VARIABLES, IMAGES, ("intial",)), "no 'intial', but threshold, leak, in"),
        (lambda: scale_paper_thresholds(VARIABLES, 0.7, ("conv0",)), "the order must name the layers .* got conv0"),
        (lambda: few_steps_loss(0.5)(LOGITS, None), "distillation needs a teacher's logits"),
        (lambda: few_steps_loss()(LOGITS.logits, None), NO_OUTPUTS),
        (lambda: with_teacher(GIVES_LOGITS, SMALL_VGG.apply)(ANN, IMAGES, None, KEY), NO_OUTPUTS),
        (lambda: jsnn.qcfs(jnp.arange(3), 0.5, 4), "qcfs needs a floating-point current, got int32"),
        (lambda: models.fold_batch_norm(ANN), 'these variables have no "batch_stats"'),
        (lambda: models.fold_batch_norm({**ANN, "batch_stats": OTHER_NORM}), "BatchNorm_0 is no batch norm of a model"),
    ],
    ids=count(),
)
def test_a_bad_argument_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)
