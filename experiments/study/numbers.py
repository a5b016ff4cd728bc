"""Numbers of several seeds, for tables."""

from collections.abc import Iterable, Sequence
from statistics import mean, stdev

from experiments.finetune import CONVERTED
from experiments.runs.workdir import Results


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one, nothing where there is none."""
    values = list(values)
    if not values:
        return ""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


def over_seeds(nets: Sequence[Results]) -> str:
    """Accuracy in % of nets of a seed each: mean ± standard deviation over seeds, or over streams where there is one.

    The mean alone where there is one seed and one stream.
    """
    text, std = spread(percent(net["accuracy"] for net in nets)), nets[0].get("accuracy_std")
    return f"{text} ± {100 * std:.2f}" if len(nets) == 1 and std else text


def on_test(results: Sequence[Results], network: str) -> str:
    """Test accuracy in %: mean ± standard deviation over seeds, or over the Poisson streams of the only one.

    It says so where fine-tuning lost accuracy and the run kept the converted net.
    """
    text = over_seeds([r[network] for r in results])
    back = network == "hybrid" and any(r["hybrid"]["kept"] == CONVERTED for r in results)
    return f"{text} (handed back)" if back else text


def on_validation(results: Sequence[Results], network: str) -> list[float]:
    """Validation accuracies in %, of each seed the mean over streams, or the streams of the only one."""
    if len(results) == 1:
        return percent(results[0]["streams"][network])
    return percent(mean(r["streams"][network]) for r in results)


def percent(shares: Iterable[float]) -> list[float]:
    """Shares in percent."""
    return [100 * share for share in shares]


def seeds(results: Sequence[Results]) -> str:
    """How many seeds there are."""
    return "1 seed" if len(results) == 1 else f"{len(results)} seeds"
