"""What was found of a program, as numbers and as lines."""

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.compile.chips import GB, Target
from experiments.compile.compiled import Compiled
from experiments.compile.counting import Work

ALL_REDUCE = "all-reduce"


class LeastTime(NamedTuple):
    """Seconds of each part of a call at the peak rates of the chip."""

    computing: float
    moving: float
    exchanging: float

    def total(self) -> float:
        """That of the longest part: all of them may overlap."""
        return max(self)


class Images(NamedTuple):
    """How many images a program takes."""

    call: int
    epoch: int  # or pass over the data


def least_time(target: Target, precision: str, work: Work, exchanged: int) -> LeastTime:
    """The time of a device's work and of an all-reduce of so many bytes, by a ring over all devices."""
    chip, count = target.chip, target.machine.num_devices
    exchanging = 2 * (count - 1) / count * exchanged / chip.link_bytes_per_second
    computing = work.operations / chip.operations_per_second[precision]
    return LeastTime(computing, work.bytes / chip.bytes_per_second, exchanging)


def record(target: Target, precision: str, images: Images, work: Work, compiled: Compiled) -> dict[str, Any]:
    """All numbers of a program, bytes and seconds."""
    collectives = compiled.collectives
    exchanged = (collectives or {}).get(ALL_REDUCE, (0, 0))[1]
    least = least_time(target, precision, work, exchanged)
    named = collectives and {name: {"count": n, "bytes": size} for name, (n, size) in collectives.items()}
    return {
        "fits": compiled.fits(target),
        "bytes": compiled.needed,
        "device_bytes": target.chip.device_bytes,
        "memory": compiled.memory and compiled.memory._asdict(),
        "images": images._asdict(),
        "collectives": named,
        "operations": work.operations,
        "moved_bytes": work.bytes,
        "least_seconds": {**least._asdict(), "total": least.total()},
        "images_per_second_at_most": images.call / least.total(),
        "hours_at_least": images.epoch / images.call * least.total() / 3600,
    }


def lines(name: str, numbers: dict[str, Any]) -> str:
    """The numbers of a program in a few lines."""
    there, least = numbers["device_bytes"] / GB, numbers["least_seconds"]
    verdict = "fits" if numbers["fits"] else "does not fit"
    parts = numbers["memory"] or {}
    detail = ", ".join(f"{part} {size / GB:.2f}" for part, size in parts.items())
    spare = 1 - numbers["bytes"] / numbers["device_bytes"]
    memory = [f"{numbers['bytes'] / GB:.2f} of {there:.2f} GB on a device" + (f" ({detail})" if detail else "")]
    memory += [f"{spare:.0%} to spare"] if numbers["fits"] else []
    every = (numbers["collectives"] or {}).items()
    exchanged = [f"{name} x {those['count']}, {those['bytes'] / GB:.3f} GB" for name, those in every]
    no_exchange = "unknown" if numbers["collectives"] is None else "nothing"
    rates = f"{numbers['operations'] / 1e12:.3g} T operations, {numbers['moved_bytes'] / GB:.3g} GB to move on a device"
    times = ", ".join(f"{part} {least[part]:.3g}" for part in LeastTime._fields)
    bound = f"{numbers['images_per_second_at_most']:.4g} images/s at most, {numbers['hours_at_least']:.3g} h at least"
    rows = [
        f"{verdict}: {'; '.join(memory)}",
        f"devices exchange: {'; '.join(exchanged) or no_exchange}",
        f"{rates}: {least['total']:.3g} s at least ({times})",
        f"upper bound of speed: {bound}",
    ]
    return "\n".join(f"{name if row == 0 else '':<12} {text}" for row, text in enumerate(rows))


def fewest_that_fit(parts: int, samples: int, fits: Callable[[int], bool]) -> int | None:
    """The fewest parts, more than so many, of a device's samples with which a program fits; None where none does."""
    return next((more for more in range(parts + 1, samples + 1) if samples % more == 0 and fits(more)), None)
