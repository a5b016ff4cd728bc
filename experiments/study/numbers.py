"""Numbers of several seeds, for tables."""

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from experiments.workdir import Results


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one, nothing where there is none."""
    values = list(values)
    if not values:
        return ""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


def percent(shares: Iterable[float]) -> list[float]:
    """Shares in percent."""
    return [100 * share for share in shares]


def seeds(results: Sequence[Results]) -> str:
    """How many seeds there are."""
    return "1 seed" if len(results) == 1 else f"{len(results)} seeds"
