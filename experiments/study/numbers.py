"""Numbers of several seeds, for tables."""

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from experiments.study.results import RESULTS, read_seeds
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


def by_trial(preset: str, prefixes: tuple[str, ...]) -> dict[str, list[Results]]:
    """Name -> results of all seeds, of the trials whose names begin so and that have results."""
    names = sorted(path.name for path in (RESULTS / preset).iterdir() if path.name.startswith(prefixes))
    return {name: read_seeds(preset, name) for name in names}


def seeds_note(results: Sequence[Results]) -> str:
    """How many seeds there are."""
    return f"Mean ± standard deviation over {len(results)} seeds." if len(results) > 1 else "One seed."
