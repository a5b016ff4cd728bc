"""Compile the programs of a preset for accelerators that are not there, and tell what they take of them.

python -m experiments.compile PRESET --topology v5e:2x4 [--field value ...]

For a TPU it needs libtpu, for a GPU jax-cuda12-plugin, jax-cuda12-pjrt and nvidia-cuda-nvcc-cu12; neither needs the
device or its driver. Memory is what the compiler plans for a program alone. Times are bounds that no program reaches:
products at the chip's peak rate, or what they read and write at that of its memory.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from experiments.compile.chips import GB, Target, target_of
from experiments.compile.compiled import bounds, compiled, lines
from experiments.compile.counting import Platform, count
from experiments.compile.programs import ANN_STEP, HYBRID_STEP, IMAGES, PROGRAMS, is_run
from experiments.config import check, with_fields
from experiments.fields import Config, Unprefixed
from experiments.machine import environment
from experiments.presets import PRESETS
from experiments.runs.command_line import guarded
from experiments.runs.progress import say
from experiments.train_ann import check_accumulate
from jsnn.training.parallel import check_batch_size
from jsnn.training.step import check_parts


@dataclass(frozen=True)
class Arguments:
    """What to compile, and what for."""

    config: Annotated[Config, Unprefixed]

    topology: str = "v5e:2x4"  # Chip and how many: v5e:2x4, v6e:1x1, v4:2x2x1, h100:2 and the like.
    programs: tuple[Literal[tuple(PROGRAMS)], ...] = tuple(PROGRAMS)  # Which.
    debug: bool = False  # Show the traceback of an error.
    optimize: bool = False  # Compile as a run does; without, with less effort, in a fraction of the time.
    out: Path | None = None  # File of all numbers, as JSON.


def compile_preset(preset: str, arguments: Arguments) -> dict[str, Any]:
    """Compile all programs that are asked for and tell of each; returns all numbers."""
    config, target = arguments.config, target_of(arguments.topology)
    devices, num_devices, device_bytes = target.machine
    check(config)
    check_batch_size(config.data.batch_size, "batch_size", num_devices)
    check_batch_size(config.run.eval_batch_size, "eval_batch_size", num_devices)
    check_parts(config.data.batch_size // num_devices, config.run.accumulate)
    if config.data.dataset not in IMAGES:
        raise ValueError(f"programs are compiled for {', '.join(IMAGES)}, got {config.data.dataset}.")
    if ANN_STEP in arguments.programs:
        check_accumulate(config)
    there = f"{num_devices} x {devices[0].device_kind}, {device_bytes / GB:.2f} GB each"
    say(f"{preset} on {arguments.topology}, {there}")
    for name in (name for name in arguments.programs if not is_run(config, name)):
        say(f"{name:<12} is no program of this run")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)  # before minutes of compiling
    names = [name for name in arguments.programs if is_run(config, name)]
    numbers = {
        "preset": preset,
        "topology": arguments.topology,
        "devices": num_devices,
        "hosts": len({device.process_index for device in devices}),
        "config": asdict(config),
        "optimize": arguments.optimize,
        "versions": {"jax": jax.__version__, "commit": environment()["commit"]},
        "programs": {name: _program(config, target, name, arguments.optimize) for name in names},
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(numbers) + "\n")
    return numbers


def _program(config: Config, target: Target, name: str, optimize: bool) -> dict[str, Any]:
    """The numbers of a program, and a sentence of what fits where it does not."""
    program, precision, chip = PROGRAMS[name](config, target.machine), config.network.precision, target.chip
    platform = Platform(chip.platform, chip.near_bytes, chip.operand_bytes[precision])
    work = count(program.on_one, program.arguments, platform, program.gathered)
    numbers = compiled(program.lower(), target, optimize)
    exchanged = (numbers["collectives"] or {}).get("all-reduce", {"bytes": 0})["bytes"]
    numbers |= bounds(target, precision, program.images, work, exchanged)
    say(lines(name, numbers))
    if not numbers["fits"]:
        numbers["way_out"] = way_out(config, target, name, optimize)
        say(f"{'':<12} {numbers['way_out']}")
    return numbers


def way_out(config: Config, target: Target, name: str, optimize: bool) -> str:
    """What fits with the fewest parts of a batch, tried by compiling."""
    in_training, has_statistics = name in (ANN_STEP, HYBRID_STEP), config.network.norm == "batch"
    batch = config.data.batch_size if in_training else config.run.eval_batch_size
    samples = batch // target.machine.num_devices
    for parts in range((config.run.accumulate if in_training else 1) + 1, samples + 1):
        if samples % parts:
            continue
        if not in_training:
            field, value, note = "run.eval_batch_size", batch // parts, ""
        elif name == ANN_STEP and has_statistics:
            field, value, note = "data.batch_size", batch // parts, ": batch norm takes no parts of a batch"
        else:
            when = ", once the ANN is trained" if has_statistics else ""
            field, value, note = "run.accumulate", parts, f", {samples // parts} images at a time on a device{when}"
        smaller = with_fields(config, {field: value})
        if compiled(PROGRAMS[name](smaller, target.machine).lower(), target, optimize)["fits"]:
            return f"It fits with --{field.split('.')[1].replace('_', '-')} {value}{note}."
    return "It does not fit with one image on a device either: take fewer steps at once (--chunk) or a larger chip."


def main() -> None:
    """Compile what the command line names."""
    jax.config.update("jax_platforms", "cpu")  # the host; else jax looks for a TPU as soon as libtpu is installed
    choices = {name: (preset.description, Arguments(preset.config)) for name, preset in PRESETS.items()}
    arguments = tyro.extras.overridable_config_cli(choices, prog="python -m experiments.compile", description=__doc__)
    compile_preset(sys.argv[1], arguments)


if __name__ == "__main__":
    sys.exit(guarded(main))
