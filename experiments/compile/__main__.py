"""Compile the programs of a preset for accelerators that are not there, and tell what they take of them.

python -m experiments.compile PRESET --topology v5e:2x4 [--field value ...]

For a TPU it needs libtpu, for a GPU jax-cuda12-plugin, jax-cuda12-pjrt and nvidia-cuda-nvcc-cu12; neither needs the
device or its driver. Memory is what the compiler plans for a program alone. Times are bounds that no program reaches:
products at the chip's peak rate, or what they read and write at that of its memory.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from experiments.compile import report
from experiments.compile.chips import GB, Target, target_of
from experiments.compile.compiled import compiled
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
    check(config)
    _check_batches(config, target, arguments.programs)
    there = f"{target.chip.device_bytes / GB:.2f} GB each"
    say(f"{preset} on {target.name}, {target.machine.num_devices} x {target.machine.devices[0].device_kind}, {there}")
    for name in (name for name in arguments.programs if not is_run(config, name)):
        say(f"{name:<12} is no program of this run")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)  # before minutes of compiling
    names = [name for name in arguments.programs if is_run(config, name)]
    results = {name: _program(config, target, name, arguments.optimize) for name in names}
    numbers = {
        "preset": preset,
        "topology": target.name,
        "devices": target.machine.num_devices,
        "hosts": len({device.process_index for device in target.machine.devices}),
        "config": asdict(config),
        "optimize": arguments.optimize,
        "versions": {"jax": jax.__version__, "commit": environment()["commit"]},
        "rates": target.chip.source,
        "programs": results,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(numbers) + "\n")
    return numbers


def _check_batches(config: Config, target: Target, programs: Sequence[str]) -> None:
    devices = target.machine.num_devices
    check_batch_size(config.data.batch_size, "batch_size", devices)
    check_batch_size(config.run.eval_batch_size, "eval_batch_size", devices)
    check_parts(config.data.batch_size // devices, config.run.accumulate)
    if config.data.dataset not in IMAGES:
        raise ValueError(f"programs are compiled for {', '.join(IMAGES)}, got {config.data.dataset}.")
    if ANN_STEP in programs:
        check_accumulate(config)


def _program(config: Config, target: Target, name: str, optimize: bool) -> dict[str, Any]:
    """The numbers of a program, and a sentence of what fits where it does not."""
    program, precision, chip = PROGRAMS[name](config, target.machine), config.network.precision, target.chip
    platform = Platform(chip.platform, chip.near_bytes, chip.operand_bytes[precision])
    work = count(program.on_one, program.arguments, platform, program.gathered)
    numbers = report.record(target, precision, program.images, work, compiled(program.lower(), target, optimize))
    say(report.lines(name, numbers))
    if not numbers["fits"]:
        numbers["way_out"] = way_out(config, target, name, optimize)
        say(f"{'':<12} {numbers['way_out']}")
    return numbers


def way_out(config: Config, target: Target, name: str, optimize: bool) -> str:
    """What fits with the fewest parts of a batch, tried by compiling."""
    devices, in_training = target.machine.num_devices, name in (ANN_STEP, HYBRID_STEP)
    samples = (config.data.batch_size if in_training else config.run.eval_batch_size) // devices
    for parts in range((config.run.accumulate if in_training else 1) + 1, samples + 1):
        if samples % parts == 0:
            smaller, option = _in_parts(config, name, parts, samples // parts, devices)
            if compiled(PROGRAMS[name](smaller, target.machine).lower(), target, optimize).fits(target):
                return f"It fits with {option}."
    return "It does not fit with one image on a device either: take fewer steps at once (--chunk) or a larger chip."


def _in_parts(config: Config, name: str, parts: int, of_part: int, devices: int) -> tuple[Config, str]:
    """A part of a batch at a time, and the option that does so."""
    has_statistics, batch = config.network.norm == "batch", of_part * devices
    if name == ANN_STEP and has_statistics:
        option = f"--batch-size {batch}: batch norm takes no parts of a batch"
        return with_fields(config, {"data.batch_size": batch}), option
    if name in (ANN_STEP, HYBRID_STEP):
        when = ", once the ANN is trained" if has_statistics else ""
        option = f"--accumulate {parts}, {of_part} images at a time on a device{when}"
        return with_fields(config, {"run.accumulate": parts}), option
    return with_fields(config, {"run.eval_batch_size": batch}), f"--eval-batch-size {batch}"


def main() -> None:
    """Compile what the command line names."""
    jax.config.update("jax_platforms", "cpu")  # the host; else jax looks for a TPU as soon as libtpu is installed
    choices = {name: (preset.description, Arguments(preset.config)) for name, preset in PRESETS.items()}
    options = {"prog": "python -m experiments.compile", "description": __doc__}
    arguments = tyro.extras.overridable_config_cli(choices, **options)
    compile_preset(sys.argv[1], arguments)


if __name__ == "__main__":
    sys.exit(guarded(main))
