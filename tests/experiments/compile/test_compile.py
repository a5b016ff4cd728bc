"""Programs for accelerators that are not there: a TPU's compiler on them, their page, and chunks that fit."""

import json
from dataclasses import asdict
from importlib.util import find_spec
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from experiments.compile import __main__ as main
from experiments.compile import compiled, page
from experiments.compile.__main__ import Arguments
from experiments.compile.chips import CHIPS, Target, target_of
from experiments.compile.counting import Work
from experiments.compile.programs import ANN_STEP, HYBRID_STEP, IMAGES, PROGRAMS, hybrid_step, is_run
from experiments.config import with_fields
from experiments.machine import Machine
from experiments.networks import build_snn, presentation_of, snn_like, training_presentation
from experiments.presets import PRESETS
from experiments.recipes import with_recipe
from jsnn.network.chunks import fitting_chunk, time_chunks

VGG5 = with_fields(PRESETS["vgg5_cifar10"].config, {"network.width": 0.25, "network.hidden": (256,)})
RESNET = with_fields(PRESETS["resnet8_cifar10"].config, {"network.width": 0.25})
ACCUMULATE = "It fits with --accumulate 4, 16 images at a time on a device"
libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'jax[tpu]'")

TEXT = """
  %a = (f32[3,4]{1,0:T(8,128)}, bf16[2]{0}) all-reduce(%x, %y), replica_groups={}
  %b = f32[8]{0} all-reduce-start(%x), channel_id=1
  %c = f32[8]{0} all-reduce-done(%b)
  %d = (s32[2]{0}, s32[8]{0}) all-gather-start(%z)
  %e = f32[4]{0} add(%all-reduce.1, %p)
  %f = (pred[16]{0}, pred[16]{0}, u32[], u32[]) collective-permute-start(%z)
"""


def test_collectives_are_read_from_a_programs_text():
    assert compiled.collectives(TEXT) == {
        "all-reduce": {"count": 2, "bytes": 4 * 12 + 4 + 32},
        "all-gather": {"count": 1, "bytes": 32},
        "collective-permute": {"count": 1, "bytes": 16},
    }


@pytest.mark.parametrize(
    ("name", "count", "precision", "work", "exchanged", "seconds"),
    [
        ("v5e", 4, "float32", Work(197e12, 8.19e9), int(CHIPS["v5e"].link_bytes_per_second), (1, 0.01, 1.5, 1.5)),
        ("h100", 1, "bfloat16", Work(989.5e12, 0), 10**9, (1, 0, 0, 1)),
    ],
)
def test_the_least_time_is_that_of_the_longest_part(name, count, precision, work, exchanged, seconds):
    target = Target(CHIPS[name], Machine(None, count, CHIPS[name].device_bytes))
    least = compiled.bounds(target, precision, {"call": 1, "epoch": 1}, work, exchanged)["least_seconds"]
    assert least == pytest.approx(dict(zip(("computing", "moving", "exchanging", "total"), seconds, strict=True)))


def test_the_page_says_what_was_compiled(tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(page.PAGE.read_text())
    page.rebuild(copy)
    assert copy.read_text() == page.PAGE.read_text()


def test_a_row_begins_with_the_command_that_made_it():
    config = with_fields(PRESETS["vgg16_cifar10"].config, {"finetune.surrogate": "linear", "run.chunk": 8})
    numbers = {"preset": "vgg16_cifar10", "topology": "v5e:1x1", "optimize": True, "config": asdict(config)}
    fields = "--finetune.surrogate linear --chunk 8"
    assert page.command(numbers) == f"`vgg16_cifar10 --topology v5e:1x1 --optimize {fields}`"


@pytest.mark.parametrize("num_steps", [3, 4, 24, 75, 100, 250])
def test_chunks_are_as_long_as_memory_allows(num_steps):
    fitting = fitting_chunk(num_steps)
    assert 8 <= fitting <= 12
    assert time_chunks(num_steps, fitting).size <= 1.03 * max(num_steps, 8) + 1
    few = [num_steps if num_steps <= most else shorter for most, shorter in ((3, 2), (7, 4))]
    assert [fitting_chunk(num_steps, most) for most in (0, 1, 3, 7, 1000)] == [1, 1, *few, fitting]


def test_a_device_with_less_memory_takes_shorter_chunks():
    config = PRESETS["vgg16_cifar10"].config  # 64 images, 65536 neurons in the largest layer, 16.8 MB at a step
    chunks = [training_presentation(config, Machine(None, 1, gib << 30)).chunk for gib in (1, 8, 16, 80)]
    assert chunks == [1, 2, 4, fitting_chunk(100)]
    assert training_presentation(config, Machine(None, 1, None)).chunk == fitting_chunk(100)
    assert training_presentation(config, Machine(None, 4, 8 << 30)).chunk == 8
    in_parts = with_fields(config, {"run.accumulate": 4})
    assert training_presentation(in_parts, Machine(None, 1, 8 << 30)).chunk == 8
    assert presentation_of(config, 100, Machine(None, 1, 8 << 30)).chunk == 4  # 256 images, and no gradient
    neurons = with_fields(config, {"finetune.trained": ("weights", "threshold")})  # whose gradient needs membranes
    assert training_presentation(neurons, Machine(None, 1, 8 << 30)).chunk == 8
    assert training_presentation(with_fields(config, {"run.chunk": 5}), Machine(None, 1, 1 << 30)).chunk == 5


@pytest.mark.parametrize(
    ("topology", "fields", "sentence"),
    [
        ("v9:2x2", {}, "there is no topology 'v9:2x2': name a chip and how many"),
        ("v5e", {}, "there is no topology 'v5e'"),
        pytest.param("v5e:2x2", {"data.batch_size": 6}, "batch_size 6 can't be split evenly over 4", marks=libtpu),
        pytest.param("v5e:2x2", {"run.accumulate": 3}, "accumulate 3 can't split 16 samples", marks=libtpu),
        pytest.param("v5e:2x2", {"run.accumulate": 2, "network.norm": "batch"}, "batch norm of its own", marks=libtpu),
        pytest.param("v5e:7x9", {}, "programs can't be compiled for v5e:7x9", marks=libtpu),
    ],
)
def test_bad_input_is_refused(topology, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        main.compile_preset("vgg5_cifar10", Arguments(with_fields(VGG5, fields), topology))


@pytest.fixture
def few_images(optimized, monkeypatch):
    """Else a copy of all images would be most of a program's temporaries, and hide what grows with time."""
    monkeypatch.setitem(IMAGES, "cifar10", (64, 64))


def step_for(topology, config, num_steps):
    """The temporaries of a step of the SNN, 8 images a device: it fits, and devices exchange gradients once alone."""
    there = target_of(topology)
    config = with_fields(config, {"data.batch_size": 8 * there.machine.num_devices, "convert.num_steps": num_steps})
    actual = compiled.compiled(hybrid_step(config, there.machine).lower(), there, optimize=False)
    assert actual["bytes"] < 0.1 * there.chip.device_bytes
    assert {name: sent["count"] for name, sent in actual["collectives"].items()} == {"all-reduce": 1}
    return actual["memory"]["temporaries"]


@libtpu
@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_a_tpu_keeps_a_few_bits_for_a_neuron_and_step():
    """In this narrow network 2.2 were measured, and 68 where all membranes are kept."""
    short, long = (step_for("v5e:2x2", VGG5, num_steps) for num_steps in (16, 64))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    layers = jax.eval_shape(lambda: build_snn(VGG5).initial_state(snn_like(VGG5), image))
    neurons = 8 * sum(state.membrane.size for state in layers.values())
    assert neurons * (64 - 16) <= 8 * (long - short) <= 2.5 * neurons * (64 - 16)


@libtpu
@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_another_tpu_takes_another_network():
    step_for("v4:2x2x1", RESNET, 24)


@libtpu
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_what_does_not_fit_is_told_with_a_way_out_that_was_compiled(monkeypatch, tmp_path, capsys):
    """As if the compiler had given up the first time."""
    fields = {"convert.num_steps": 2, "run.eval_batch_size": 16, "data.batch_size": 16}
    config, calls = with_fields(VGG5, fields), []
    compiler = compiled.compiled

    def watched(*arguments):
        calls.append(arguments)
        given_up = {"fits": False, "bytes": 2**40, "memory": None, "collectives": None}
        return given_up if len(calls) == 1 else compiler(*arguments)

    monkeypatch.setattr(main, "compiled", watched)
    arguments = Arguments(config, "v5e:1x1", ("evaluation",), out=tmp_path / "new" / "out.json")
    numbers = main.compile_preset("vgg5_cifar10", arguments)
    (line,) = (tmp_path / "new" / "out.json").read_text().splitlines()
    assert json.loads(line) == json.loads(json.dumps(numbers))
    output = capsys.readouterr().out
    assert "devices exchange: unknown" in output
    assert "vgg5_cifar10 on v5e:1x1, 1 x TPU v5 lite, 16.91 GB each\nevaluation   does not fit" in output
    assert "It fits with --eval-batch-size 8." in output


@pytest.mark.parametrize(
    ("norm", "program", "fitting", "sentence"),
    [
        ("none", ANN_STEP, 16, f"{ACCUMULATE}."),
        ("none", ANN_STEP, 13, "It fits with --accumulate 8, 8 images at a time on a device."),
        ("batch", ANN_STEP, 16, "It fits with --batch-size 16: batch norm takes no parts of a batch."),
        ("batch", HYBRID_STEP, 16, f"{ACCUMULATE}, once the ANN is trained."),
        ("none", HYBRID_STEP, 0, "It does not fit with one image on a device either"),
    ],
)
def test_what_does_not_fit_is_said_with_the_fewest_parts_that_do(norm, program, fitting, sentence, monkeypatch):
    def step(config, machine):
        return SimpleNamespace(lower=lambda: config.data.batch_size // config.run.accumulate)

    monkeypatch.setitem(PROGRAMS, program, step)
    monkeypatch.setattr(main, "compiled", lambda images, *_: {"fits": images <= fitting})
    target = SimpleNamespace(machine=Machine(None, 1, None))
    config = with_fields(VGG5, {"network.norm": norm, "data.batch_size": 64})
    assert main.way_out(config, target, program, optimize=False).startswith(sentence)


def test_what_a_run_does_not_do_is_not_compiled():
    configs = {name: with_recipe(VGG5, name) for name in ("qcfs", "qcfs-diet", "diet")}
    runs = {name: [one for one in PROGRAMS if is_run(config, one)] for name, config in configs.items()}
    assert runs == {
        "qcfs": ["ann step", "evaluation"],
        "qcfs-diet": ["ann step", "hybrid step", "evaluation"],
        "diet": list(PROGRAMS),
    }
