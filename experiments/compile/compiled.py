"""A program compiled for a target: its memory, what devices say to each other, how fast it is at most; as lines too."""

import math
import re
from typing import Any

import jax

from experiments.compile.chips import GB, Target
from experiments.compile.counting import Work

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
LEAST_EFFORT = -1.0  # of the compiler, from -1 to 1; a run has 0
OPTIONS = {"tpu": {}, "cuda": {"xla_gpu_autotune_level": "0"}}  # else it would run kernels


def compiled(lowered: Any, target: Target, optimize: bool) -> dict[str, Any]:
    """Compile a lowered program as a run does, or with less effort, in a fraction of the time.

    Returns whether it fits, the bytes of a device that it needs, their parts, and the collectives; None for these two
    where the compiler gave up for want of memory.
    """
    before = jax.config.jax_exec_time_optimization_effort
    jax.config.update("jax_exec_time_optimization_effort", before if optimize else LEAST_EFFORT)
    try:
        program = lowered.compile(compiler_options=OPTIONS[target.chip.platform])
    except jax.errors.JaxRuntimeError as error:
        stated = re.search(r"\(([\d.]+)([KMGT])\) exceeds|Used ([\d.]+)([KMGT]) of", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or stated is None:
            raise
        number, unit = (group for group in stated.groups() if group)
        needed = int(float(number) * 1024 ** " KMGT".index(unit))
        return {"fits": False, "bytes": needed, "memory": None, "collectives": None}
    finally:
        jax.config.update("jax_exec_time_optimization_effort", before)
    stats = program.memory_analysis()
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,  # that do not take an argument's place
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    needed, sent = sum(memory.values()), collectives(program.as_text())
    return {"fits": needed <= target.chip.device_bytes, "bytes": needed, "memory": memory, "collectives": sent}


def collectives(text: str) -> dict[str, dict[str, int]]:
    """The collectives of a compiled program's text, how many and bytes of their results; in loops once."""
    counted: dict[str, dict[str, int]] = {}
    for shapes, name, start in re.findall(rf"= (.+?) ({'|'.join(COLLECTIVES)})(-start)?\(", text):
        sizes = [_bytes(*array) for array in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes)]
        if start and name == "collective-permute":
            sizes = sizes[1:2]  # operand, result, two counters
        elif start and name != "all-reduce":
            sizes = sizes[len(sizes) // 2 :]  # operands before results
        before = counted.get(name, {"count": 0, "bytes": 0})
        counted[name] = {"count": before["count"] + 1, "bytes": before["bytes"] + sum(sizes)}
    return counted


def _bytes(dtype: str, shape: str) -> int:
    bits = int(re.sub(r"\D", "", dtype) or 8)  # of a truth value a byte
    return bits * math.prod(int(side) for side in shape.split(",") if side) // 8


def bounds(target: Target, precision: str, images: dict[str, int], work: Work, exchanged: int) -> dict[str, Any]:
    """What a program has to do and the least time for it, each part in seconds at the peak rates of the chip.

    The longest part counts, for all may overlap. An all-reduce of so many bytes runs in a ring over all devices.
    """
    chip, count = target.chip, target.machine.num_devices
    seconds = {
        "computing": work.operations / chip.operations_per_second[precision],
        "moving": work.bytes / chip.bytes_per_second,
        "exchanging": 2 * (count - 1) / count * exchanged / chip.link_bytes_per_second,
    }
    total = max(seconds.values())
    return {
        "device_bytes": chip.device_bytes,
        "images": images,
        "operations": work.operations,
        "moved_bytes": work.bytes,
        "least_seconds": {**seconds, "total": total},
        "images_per_second_at_most": images["call"] / total,
        "hours_at_least": images["epoch"] / images["call"] * total / 3600,
    }


def lines(name: str, of: dict[str, Any]) -> str:
    """The numbers of a program in a few lines."""
    every, (*parts, (_, total)) = of["collectives"], of["least_seconds"].items()
    memory = ", ".join(f"{part} {size / GB:.2f}" for part, size in (of["memory"] or {}).items())
    spare = f"; {1 - of['bytes'] / of['device_bytes']:.0%} to spare" if of["fits"] else ""
    needed = f"{of['bytes'] / GB:.2f} of {of['device_bytes'] / GB:.2f} GB on a device{memory and f' ({memory})'}{spare}"
    sent = [f"{one} x {those['count']}, {those['bytes'] / GB:.3f} GB" for one, those in (every or {}).items()]
    work = f"{of['operations'] / 1e12:.3g} T operations, {of['moved_bytes'] / GB:.3g} GB to move on a device"
    times = ", ".join(f"{part} {seconds:.3g}" for part, seconds in parts)
    bound = f"{of['images_per_second_at_most']:.4g} images/s at most, {of['hours_at_least']:.3g} h at least"
    rows = [
        f"{'fits' if of['fits'] else 'does not fit'}: {needed}",
        f"devices exchange: {'; '.join(sent) or ('unknown' if every is None else 'nothing')}",
        f"{work}: {total:.3g} s at least ({times})",
        f"upper bound of speed: {bound}",
    ]
    return "\n".join(f"{name if row == 0 else '':<12} {text}" for row, text in enumerate(rows))
