"""From what the workers found to the figures of the tables."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from experiments.benchmark.series import Record


class Seconds(NamedTuple):
    """Seconds of a call over all turns.

    Attributes:
        median: of all calls.
        least: of all calls.
        most: of all calls.
        first: median of the first calls, compilation and warm-up included.
    """

    median: float
    least: float
    most: float
    first: float


def seconds_of(record: Record) -> Seconds:
    """The spread of a record's seconds; where it ran out of patience, of its first call."""
    firsts = [found.get("first", 0.0) for found in record.found]
    calls = [second for found in record.found for second in found["seconds"]] or firsts
    return Seconds(statistics.median(calls), min(calls), max(calls), statistics.median(firsts))


def median_of(record: Record, name: str) -> float | None:
    """The median over all turns of one thing found, or None where it was not found."""
    values = [found[name] for found in record.found if found.get(name) is not None]
    return statistics.median(values) if values else None


def peak_of(record: Record) -> float:
    """The median peak of memory in bytes: the accelerator's where there is one, else the process's above its own."""
    return median_of(record, "device_peak_bytes") or median_of(record, "peak_bytes")


def mean_rate(record: Record) -> float:
    """Spikes per neuron and step, the mean over layers."""
    return statistics.mean(record.found[0]["rates"].values())


def largest_ratio_of_rates(records: Sequence[Record]) -> float:
    """By what factor the firing rates of contestants differ at most, over all layers of one net and shape."""
    worst = 1.0
    shown = [record.found[0]["rates"] for record in records if record.found]
    for layer in shown[0] if shown else ():
        rates = [rates[layer] for rates in shown]
        worst = max(worst, max(rates) / min(rates) if min(rates) else math.inf)
    return worst


def growth_in_bits(short: Record, long: Record, neurons: int) -> float:
    """By how many bits per neuron and time step the compiled step's temporaries grow between two numbers of steps.

    Args:
        short: the record with fewer steps.
        long: the record with more steps, of the same batch.
        neurons: spiking neurons for one image.

    Returns:
        Bits.
    """
    grown = median_of(long, "temporaries_bytes") - median_of(short, "temporaries_bytes")
    return 8 * grown / (neurons * short.batch * (long.num_steps - short.num_steps))
