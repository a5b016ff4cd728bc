"""Bad input to the commands and to the public functions is told in one sentence and changes nothing."""

import json
import shutil
from functools import partial
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsnn
from experiments import hybrid, report, train_ann
from experiments.runs.command_line import main
from jsnn import conversion, encoding, models
from jsnn.conversion.thresholds import scale_paper_thresholds
from jsnn.data.augment import scale
from jsnn.data.datasets import Info, Split, load_split, register
from jsnn.data.sources import resident_source, subset
from jsnn.network import simulation
from jsnn.neurons import lif, over_time, surrogate
from jsnn.neurons.neuron import record
from jsnn.training import optimizers
from jsnn.training.checkpoint import restore, save
from jsnn.training.loss import Outputs, few_steps_loss
from jsnn.training.parallel import check_batch_size, split_over_devices
from jsnn.training.step import init_state
from tests.commands import TINY, finish, run, start
from tests.networks import IMAGE_SHAPE, SMALL_VGG, random_snn


def refused(capsys, *arguments) -> str:
    """What a command that must be refused says on stderr."""
    try:
        status = main("python -m experiments.hybrid", hybrid.__doc__, hybrid.hybrid, arguments)
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in captured.err
    return " ".join(captured.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["cifar10_vgg5"], "Available subcommands: digits, fashion_mnist_cpu"),
        (["--num-stepz", "4"], "--num-steps"),
        (["--num-steps", "many"], "Error parsing --num-steps"),
        (["--num-steps"], "--num-steps"),
        (["--num-steps", "0"], "error: num_steps must be at least 1 and at most 100000, got 0."),
        (["--num-steps", "4.5"], "Error parsing --num-steps"),
        (["--num-steps", "4", "--eval-steps", "2"], "error: eval_steps must be at least num_steps, 4, got 2."),
        (
            ["--num-steps", "999999999", "--eval-steps", "999999999"],
            "error: num_steps must be at least 1 and at most 100000, got 999999999.",
        ),
        (["--balance-steps", "0"], "error: balance_steps must be at least 1 and at most 100000, got 0."),
        (["--balance-steps", "10000000"], "error: balance_steps must be at least 1 and at most 100000, got 10000000."),
        (["--balance-images", "-5"], "error: balance_images must be at least 1 and below 2^31, got -5."),
        (["--chunk", "0"], "error: chunk must be at least 1 and below 2^31, or auto, got 0."),
        (["--precision", "float16"], "bfloat16"),
        (["--finetune.leak", "0"], "error: finetune.leak must be in (0, 1], got 0.0."),
        (["--finetune.leak", "1.5"], "error: finetune.leak must be in (0, 1], got 1.5."),
        (["--finetune.leak", "nan"], "error: finetune.leak must be in (0, 1], got nan."),
        (["--scaling-factor", "-0.5"], "error: scaling_factor must be above 0 and finite, or auto, got -0.5."),
        (["--scaling-factor", "inf"], "error: scaling_factor must be above 0 and finite, or auto, got inf."),
        (["--percentile", "0"], "error: percentile must be in (0, 100], got 0.0."),
        (["--percentile", "100.1"], "error: percentile must be in (0, 100], got 100.1."),
        (["--batch-size", "66"], "error: batch_size 66 can't be split evenly over 4 devices: choose a multiple of 4."),
        (["--eval-batch-size", "6"], "error: eval_batch_size 6 can't be split evenly over 4 devices"),
        (["--batch-size", "4000"], "error: a batch of 4000 is larger than the training split of 1294 images"),
        (["--architecture", "vgg16"], "error: the image is too small for this model"),
        (["--architecture", "vgg6"], "vgg5"),
        (["--balance", "stem"], "error: balance stem is for ResNets"),
        (["--dataset", "cifar11"], "cifar10"),
        (["--dataset", "cifar100", "--data-dir", "nowhere"], "`tfds build cifar100 --file_format=array_record"),
        (["--ann.lr", "0"], "error: ann.lr must be above 0 and finite, got 0.0."),
        (["--ann.lr", "1e999"], "error: ann.lr must be above 0 and finite, got inf."),
        (["--ann.epochs", "0"], "error: ann.epochs must be at least 1 and at most 100000, got 0."),
        (["--ann.weight-decay", "nan"], "error: ann.weight_decay must be at least 0 and finite, got nan."),
        (["--conv-dropout", "1"], "error: conv_dropout must be in [0, 1), got 1.0."),
        (["--hidden", "0"], "error: hidden must be at least 1 and at most 65536 units each, got (0,)."),
        (["--width", "64", "--hidden", "65536", "65536"], "weights, which training takes 88 GB for"),
        (["--width", "0"], "error: width must be above 0 and at most 64, got 0.0."),
        (["--width", "1e9"], "error: width must be above 0 and at most 64, got 1000000000.0."),
        (["--finetune.alpha", "0"], "error: finetune.alpha must be above 0"),
        (["--finetune.beta", "inf"], "error: finetune.beta must be at least 0 and finite, got inf."),
        (["--seed", "-1"], "error: seed must be at least 0 and below 2^32, got -1."),
        (["--seed", "4294967296"], "error: seed must be at least 0 and below 2^32, got 4294967296."),
        (["--streams", "0"], "error: streams must be at least 1 and at most 1000, got 0."),
        (["--on-nan", "ignore"], "skip"),
        (["--ann.epochs", str(2**63)], f"error: ann.epochs must be at least 1 and at most 100000, got {2**63}."),
        (["--hidden", str(10**9)], "error: hidden must be at least 1 and at most 65536 units each, got (1000000000,)."),
        (
            ["--eval-batch-size", str(10**19)],
            "error: eval_batch_size must be at least 1 and below 2^31, got 1000",
        ),
        (["--crop-padding", str(10**9)], "error: crop_padding must be at least 0 and at most 1024, got 1000000000."),
        (["--data-dir", ""], "error: --data-dir has an empty value: name one, or leave it out."),
        (["--from-run="], "error: --from-run has an empty value: name one, or leave it out."),
        (["--keep-checkpoints", "0"], "error: keep_checkpoints must be at least 1 and below 2^31, got 0."),
        (["--checkpoint-steps", "0"], "error: checkpoint_steps must be at least 1 and below 2^31, or None, got 0."),
        (["--checkpoint-minutes", "0"], "error: checkpoint_minutes must be above 0 and finite, got 0.0."),
        (["--process-id", "1"], "error: coordinator, num_processes and process_id go together, got"),
        (["--coordinator", "host:1", "--num-processes", "2", "--process-id", "2"], "error: needed are host:port, a"),
        (["--coordinator", "host", "--num-processes", "2", "--process-id", "0"], "error: needed are host:port, a"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_a_sentence(arguments, sentence, capsys, tmp_path):
    workdir = tmp_path / "run"
    assert sentence in refused(capsys, *arguments, "--workdir", str(workdir))
    assert not workdir.exists()


def test_the_exit_status_of_the_process_is_2():
    assert finish(start("--num-steps", "0")) == (2, "error: num_steps must be at least 1 and at most 100000, got 0.\n")


def test_the_traceback_is_there_on_demand():
    status, output = finish(start("--num-steps", "0", "--debug"))
    assert status == 2
    assert "Traceback" in output


def state_of(folder):
    """All files of a folder with their contents, but for the lock."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"}


def newer(workdir):
    fields = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps({**fields, "unheard_of": 1}))


def garbled(workdir):
    (workdir / "config.json").write_text("{")


def another_kind(workdir):
    (workdir / "config.json").write_text("[]")


def undone(workdir, stage="evaluate"):
    stages = json.loads((workdir / "stages.json").read_text())
    (workdir / "stages.json").write_text(json.dumps({name: done for name, done in stages.items() if name != stage}))


def of_another_network(workdir):
    undone(workdir)
    state = init_state(random_snn(SMALL_VGG, 0, leak=1.0)[1], optax.adam(1e-3))
    save(workdir / "ann", 60, state, {"journal": {}})


def with_garbled_metrics(workdir):
    undone(workdir)
    undone(workdir, "finetune")
    text = (workdir / "metrics.jsonl").read_text()
    (workdir / "metrics.jsonl").write_text(text.replace('{"stage": "ann", "step": 2', "\0\0\0"))


@pytest.mark.parametrize(
    ("arguments", "change", "sentence"),
    [
        (
            [*TINY, "--finetune.leak", "0.9"],
            lambda workdir: None,
            "belongs to another config: finetune.leak is 0.99 there and 0.9 here",
        ),
        ([], newer, "config.json is not a config of this version of jsnn"),
        ([], garbled, "config.json is not a config of this version of jsnn"),
        ([], another_kind, "config.json is not a config of this version of jsnn"),
        ([], of_another_network, "/ann/60 holds another network than this configuration's"),
        ([], with_garbled_metrics, "line 2 of"),
    ],
)
def test_a_workdir_that_cannot_be_used_is_refused_and_left_alone(arguments, change, sentence, tiny, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(tiny, workdir)
    change(workdir)
    before = state_of(workdir)
    assert sentence in refused(capsys, *arguments, "--workdir", str(workdir))
    assert state_of(workdir) == before


def test_folders_that_cannot_be_written_are_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere", "/dev/null/x"):
        assert refused(capsys, *TINY, "--workdir", str(workdir)).startswith("error: ")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_log_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").mkdir()
    assert "Is a directory" in refused(capsys, *TINY, "--workdir", str(tmp_path))
    (tmp_path / "metrics.jsonl").rmdir()
    assert run(train_ann.train_ann, tmp_path, *TINY) == 0


def hot_pixel(bunch):
    bunch.images[3, 2, 1] = 17


def no_images(bunch):
    bunch.images, bunch.target = bunch.images[:0], bunch.target[:0]


def unknown_label(bunch):
    bunch.target[5] = 10


def negative_label(bunch):
    bunch.target[5] = -1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (hot_pixel, "error: digits has pixel values outside the range: 0 to 16, got 0 to 17."),
        (no_images, "error: digits has 0 training images, of which a tenth is held out for validation: 20 are needed"),
        (unknown_label, "error: digits has labels from 0 to 10, outside 0 to 9."),
        (negative_label, "error: digits has labels from -1 to 9, outside 0 to 9."),
    ],
)
def test_bad_data_is_refused(change, sentence, tmp_path, capsys, monkeypatch):
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    change(bunch)
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: bunch)
    seed = str(100 + len(sentence))  # data that was read is kept by config
    assert sentence in refused(capsys, *TINY, "--seed", seed, "--workdir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["truncated", "garbled"])
def test_data_that_cannot_be_read_is_refused(kind, data_dir, tmp_path, capsys):
    shutil.copytree(f"{data_dir}/imagenet2012", tmp_path / "imagenet2012")
    for path in (tmp_path / "imagenet2012").rglob("*train*array_record*"):
        content = path.read_bytes()
        half = len(content) // 2
        path.write_bytes(content[:half] + (b"" if kind == "truncated" else bytes(half)))
    options = "--architecture vgg5 --width 0.0625 --hidden 4 --batch-size 60 --workers 0".split()
    options += ["--data-dir", str(tmp_path), "--workdir", str(tmp_path / "run")]
    assert "error: the data set imagenet2012 can't be read" in refused(capsys, "vgg16_imagenet", *options)
    assert not (tmp_path / "run").exists()


KEY = jax.random.key(0)
IMAGES = jnp.zeros((2, *IMAGE_SHAPE))
SNN, VARIABLES = random_snn(SMALL_VGG, 0, leak=1.0)
PIXELS = np.zeros((3, 4, 4, 1), np.uint8)
balance = partial(conversion.balance_thresholds, encode=encoding.poisson, key=KEY)
ANN = {"params": VARIABLES["params"]}
NAN_WEIGHTS = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), ANN)
DEAD = jax.tree.map(lambda leaf: -jnp.abs(leaf), ANN)
THRESHOLDS = dict.fromkeys(SMALL_VGG.spiking_layers, 1.0)
FIRST, OTHERS = jnp.zeros((1, *IMAGE_SHAPE)), {**THRESHOLDS, "conv9": 1.0}
SOURCE, STREAM = resident_source(Split(PIXELS, np.zeros(3, np.int32))), Info((8, 8, 3), 10, streamed=True)
ADAPTIVE = jsnn.spiking(SMALL_VGG.apply, jsnn.adaptive_lif())
OWN = jsnn.spiking(SMALL_VGG.apply, jsnn.Neuron(lambda: {"threshold": 1.0, "leak": 0.9}, lif().init, lif().step))
LOGITS = Outputs(jnp.zeros((2, 10)), None, {})
AT_REST = lif().init(lif().parameters(), jnp.ones(2))
drive = partial(over_time, lif(), lif().parameters(), AT_REST)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: models.build("vgg7", 10), "unknown architecture 'vgg7'"),
        (lambda: models.build("vgg5", 1), "at least 2 classes, got num_classes 1"),
        (lambda: models.build("vgg5", 10, width=float("nan")), "width must be above 0 and finite, got nan"),
        (lambda: models.build("vgg5", 10, hidden=(-3,)), "hidden dense layers need at least 1 unit"),
        (lambda: models.build("vgg5", 10, conv_dropout=1.0), r"conv_dropout must be in \[0, 1\), got 1.0"),
        (lambda: surrogate.stdb(float("nan")), "alpha above 0 and finite, got nan"),
        (lambda: surrogate.stdb(0.3, -1), "beta of at least 0 and finite, got -1"),
        (lambda: surrogate.linear(float("inf")), "gamma above 0 and finite, got inf"),
        (
            lambda: encoding.poisson(PIXELS, jax.random.key(0), np.arange(3), np.arange(2)),
            "floating-point .* got uint8",
        ),
        (lambda: encoding.constant(PIXELS, None, None, np.arange(2)), "floating-point numbers, got uint8"),
        (lambda: encoding.poisson(IMAGES, jax.random.key(0), np.arange(3), np.arange(2)), "each image needs its index"),
        (lambda: scale(IMAGES), "images must be uint8 pixels from 0 to 255, got float32"),
        (
            lambda: encoding.poisson(IMAGES + 2, jax.random.key(0), np.arange(2), np.arange(2)),
            r"in \[-1, 1\], got up to 2",
        ),
        (lambda: drive(jnp.ones((4, 3))), "does not fit"),
        (lambda: drive(jnp.ones((4, 2), int)), "got int32"),
        (lambda: record(lif(), lif().parameters(), AT_REST, jnp.ones((33, 2))), "32 time steps of spikes, got 33"),
        (lambda: simulation.check_steps(0, 8), "num_steps must be at least 1 time step, got 0"),
        (lambda: simulation.time_chunks(4, 0), "chunk must be at least 1 time step, got 0"),
        (lambda: SNN.initial_state(ANN, FIRST), 'variables have no "neurons": get them from snn.init or jsnn.convert'),
        (lambda: conversion.convert(SNN, NAN_WEIGHTS, THRESHOLDS), "params/conv0/kernel holds NaN or infinity"),
        (lambda: conversion.convert(SNN, ANN, {**THRESHOLDS, "conv0": 0.0}), "the threshold of conv0 must be above 0"),
        (lambda: conversion.convert(SNN, ANN, {**THRESHOLDS, "conv0": jnp.inf}), "conv0 must be above 0 and finite"),
        (lambda: SNN.initial_state(conversion.convert(SNN, ANN, OTHERS), FIRST), "have neurons for .*dense1, conv9"),
        (lambda: SNN.initial_state(conversion.convert(SNN, ANN, {"conv0": 1.0}), FIRST), "its variables .* for conv0"),
        (lambda: conversion.convert(SNN, ANN, THRESHOLDS, initial=jnp.nan), "initial must be finite, got nan"),
        (lambda: conversion.convert(SNN, ANN, THRESHOLDS, leak=1.5), r"leak must be in \(0, 1\], got 1.5: 1 keeps"),
        (lambda: conversion.convert(OWN, ANN, THRESHOLDS, leak=0.0), r"leak must be in \(0, 1\], got 0.0"),
        (lambda: conversion.convert(ADAPTIVE, ANN, THRESHOLDS, decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: conversion.convert(ADAPTIVE, ANN, THRESHOLDS, strength=-1.0), "strength must be at least 0, got -1.0"),
        (
            lambda: conversion.convert(SNN, ANN, THRESHOLDS, leek=1.0),
            "these neurons have no 'leek', but threshold, leak",
        ),
        (lambda: conversion.scale_thresholds(VARIABLES, 0.0), "scaling factor must be above 0 and finite, got 0.0"),
        (lambda: balance(SNN, DEAD, -IMAGES - 1, num_steps=4), "the input current of conv1 .* never spike"),
        (lambda: balance(SNN, NAN_WEIGHTS, IMAGES, num_steps=4), "params/conv0/kernel holds NaN or infinity"),
        (lambda: balance(SNN, DEAD, IMAGES, num_steps=4, layers=["conv9"]), "no layer 'conv9' to balance"),
        (lambda: balance(SNN, DEAD, IMAGES, num_steps=4, layers=[]), "no layers to balance"),
        (lambda: balance(SNN, DEAD, IMAGES[:0], num_steps=4), "balancing needs images"),
        (lambda: balance(SNN, DEAD, IMAGES, num_steps=0), "num_steps must be at least 1"),
        (lambda: balance(SNN, DEAD, IMAGES, num_steps=4, percentile=101), r"percentile must be in \(0, 100\]"),
        (lambda: optimizers.learning_rate("sawtooth", 0.1, 2, 2), "unknown schedule 'sawtooth'"),
        (lambda: optimizers.learning_rate("tenths", float("inf"), 2, 2), "finite learning rate above 0"),
        (lambda: optimizers.learning_rate("tenths", 0.1, 0, 2), "at least one epoch"),
        (lambda: optimizers.optimizer("lion", optax.constant_schedule(1.0), 0.0), "unknown optimiser 'lion'"),
        (lambda: optimizers.optimizer("adam", optax.constant_schedule(1.0), float("nan")), "weight_decay must be"),
        (lambda: optimizers.optimizer("adam", optax.constant_schedule(1.0), 0.0, clip=0.0), "clip must be above 0"),
        (lambda: optimizers.learning_rate("tenths", 0.1, 2, 2, warmup=-1.0), "warmup must be at least 0 epochs"),
        (lambda: load_split("cifar11", "train"), "unknown data set 'cifar11'"),
        (lambda: resident_source(Split(PIXELS, np.zeros(2, np.int32))), "each image needs an integer label"),
        (lambda: resident_source(Split(PIXELS, np.zeros(3))), "each image needs an integer label, got .* float64"),
        (lambda: resident_source(Split(PIXELS[..., 0], np.zeros(3, int))), r"images must be \[N, H, W, C\] uint8"),
        (lambda: resident_source(Split(PIXELS[:0], np.zeros(0, int))), "at least one, got"),
        (lambda: resident_source(Split(PIXELS.astype(float), np.zeros(3, int))), "uint8, at least one, got .* float64"),
        (lambda: check_batch_size(6, "batch_size"), "batch_size 6 can't be split evenly over 4 devices"),
        (lambda: split_over_devices(np.zeros((6, 2))), "can't be split evenly over 4 devices"),
        (lambda: report.report((), None), "a report needs at least one workdir"),
        (lambda: load_split("digits", "training"), "no split 'training': choose one of train, validation, test"),
        (lambda: register("tall", STREAM._replace(image_shape=(8, 6, 3))), "'tall' can't be streamed"),
        (lambda: register("grey", STREAM._replace(image_shape=(8, 8, 1))), r"must be \(S, S, 3\)"),
        (lambda: register("arrays", STREAM._replace(origin=dict)), "its origin a name or a folder of TFDS"),
        (lambda: subset(SOURCE, range(5, 9)), r"a split of 3 images has no range\(5, 9\)"),
        (lambda: subset(SOURCE, range(-1, 2)), r"has no range\(-1, 2\)"),
        (lambda: subset(SOURCE, range(0, 3, 2)), r"has no range\(0, 3, 2\)"),
        (lambda: jsnn.spiking(SMALL_VGG.apply, operands="int8"), "operands must be a floating-point dtype"),
        (lambda: jsnn.accelerate(SMALL_VGG.apply, "int32"), "operands must be a floating-point dtype"),
        (lambda: jsnn.spiking(SMALL_VGG.apply, operands="bfloat16", forward_mode=True), "leave out operands"),
        (lambda: scale_paper_thresholds(VARIABLES, 0.7, ("conv0",)), "the order must name the layers .* got conv0"),
        (lambda: few_steps_loss(0.5)(LOGITS, None), "distillation needs a teacher's logits"),
        (lambda: jsnn.layer_shapes(SMALL_VGG.apply, ANN, IMAGES), r"pass x of shape \[1, ...\], got \(2, "),
        (lambda: jsnn.qcfs(jnp.arange(3), 0.5, 4), "qcfs needs a floating-point current, got int32"),
        (lambda: models.fold_batch_norm(ANN), 'these variables have no "batch_stats"'),
    ],
    ids=count(),
)
def test_public_functions_refuse_what_they_cannot_use(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)


def test_checkpoints_refuse_what_they_cannot_use(tmp_path):
    with pytest.raises(ValueError, match="at least 1 checkpoint is kept, got keep 0"):
        save(tmp_path / "new", 1, {"x": jnp.ones(2)}, {}, keep=0)
    assert not (tmp_path / "new").exists()
    save(tmp_path, 1, {"x": jnp.ones(2)}, {})
    for like in ({"x": jnp.ones(3)}, {"x": jnp.ones(2, int)}, {"y": jnp.ones(2)}, {"x": {"y": jnp.ones(2)}}):
        with pytest.raises(ValueError, match="holds another network"):
            restore(tmp_path, like)


@pytest.mark.parametrize("damage", ["array", "empty", "truncated", "another"])
def test_files_that_hold_no_network_are_refused(damage, tmp_path):
    path = tmp_path / "net.npz"
    jsnn.save(path, SNN, VARIABLES, IMAGES[None])
    content = path.read_bytes()
    if damage in ("empty", "truncated"):
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    elif damage == "array":
        with path.open("wb") as file:
            np.save(file, PIXELS)
    else:
        np.savez(path, pixels=PIXELS)
    with pytest.raises(ValueError, match=r"net\.npz holds no network, or is damaged: write it with jsnn.save"):
        jsnn.load(path)
