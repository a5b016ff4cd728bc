"""What was found of a program, as numbers and as lines."""

from typing import Any, NamedTuple

from experiments.compile.chips import GB, Target
from experiments.compile.compiled import Compiled
from experiments.compile.counting import Work


class LeastTime(NamedTuple):
    """Seconds of each part of a call at the peak rates of the chip; the longest counts, for all may overlap."""

    computing: float
    moving: float
    exchanging: float


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
    _, exchanged = (compiled.collectives or {}).get("all-reduce", (0, 0))
    every = compiled.collectives and compiled.collectives.items()
    least = least_time(target, precision, work, exchanged)
    return {
        "fits": compiled.fits(target),
        "bytes": compiled.needed,
        "device_bytes": target.chip.device_bytes,
        "memory": compiled.memory and compiled.memory._asdict(),
        "images": images._asdict(),
        "collectives": every and {name: {"count": number, "bytes": size} for name, (number, size) in every},
        "operations": work.operations,
        "moved_bytes": work.bytes,
        "least_seconds": {**least._asdict(), "total": max(least)},
        "images_per_second_at_most": images.call / max(least),
        "hours_at_least": images.epoch / images.call * max(least) / 3600,
    }


def lines(name: str, of: dict[str, Any]) -> str:
    """The numbers of a program in a few lines."""
    least, every = of["least_seconds"], of["collectives"]
    parts = ", ".join(f"{part} {size / GB:.2f}" for part, size in (of["memory"] or {}).items())
    spare = f"; {1 - of['bytes'] / of['device_bytes']:.0%} to spare" if of["fits"] else ""
    memory = f"{of['bytes'] / GB:.2f} of {of['device_bytes'] / GB:.2f} GB on a device{parts and f' ({parts})'}{spare}"
    sent = [f"{one} x {those['count']}, {those['bytes'] / GB:.3f} GB" for one, those in (every or {}).items()]
    work = f"{of['operations'] / 1e12:.3g} T operations, {of['moved_bytes'] / GB:.3g} GB to move on a device"
    times = ", ".join(f"{part} {least[part]:.3g}" for part in LeastTime._fields)
    bound = f"{of['images_per_second_at_most']:.4g} images/s at most, {of['hours_at_least']:.3g} h at least"
    rows = [
        f"{'fits' if of['fits'] else 'does not fit'}: {memory}",
        f"devices exchange: {'; '.join(sent) or ('unknown' if every is None else 'nothing')}",
        f"{work}: {least['total']:.3g} s at least ({times})",
        f"upper bound of speed: {bound}",
    ]
    return "\n".join(f"{name if row == 0 else '':<12} {text}" for row, text in enumerate(rows))
