"""Question c: STDB against the linear surrogate, STDB's own numbers, where fine-tuning harms and why."""

from pathlib import Path
from statistics import mean

from experiments.config import AUTO
from experiments.reports.table import aligned
from experiments.runs.workdir import Results
from experiments.study.numbers import on_validation, percent, spread
from experiments.study.plan import HARMS, RATES, VARIATIONS
from experiments.study.results import read_seeds
from experiments.study.sheet import HYBRID, LINEAR, sheet

NAMES = {  # field -> what to call it, and its usual value
    "percentile": ("percentile", 100.0),
    "hybrid_logit_scale": ("logit scale", 1.0),
    "alpha": ("alpha", 0.3),
    "beta": ("beta", 0.01),
    "leak": ("leak", 0.99),
    "hybrid_weight_decay": ("weight decay", 0.0),
    "hybrid_warmup": ("warm-up", 0.0),
    "hybrid_clip": ("clip", None),
}
LINES = {  # of HARMS
    "stdb": (HYBRID, "-"),
    "stdb-fast": (HYBRID, "--"),
    "linear": (LINEAR, "-"),
    "linear-fast": (LINEAR, "--"),
}


def surrogates_table(preset: str) -> str:
    """Validation accuracy after one epoch of fine-tuning, beside the converted net's.

    Args:
        preset: whose study it is.

    Returns:
        A Markdown table.
    """
    rows = [["fine-tuned with", "seeds", "converted [%]", "fine-tuned [%]", "gain"]]
    for results in filter(None, (read_seeds(preset, trial) for trial in RATES | VARIATIONS)):
        before, after = (on_validation(results, network) for network in ("converted", "hybrid"))
        gains = [b - a for a, b in zip(before, after, strict=True)]
        rows.append([_name(results[0]), str(len(results)), spread(before), spread(after), _signed(gains)])
    return aligned(rows)


def descent_table(preset: str) -> str:
    """What a small step along each surrogate's gradient does to loss and accuracy, by layer.

    Args:
        preset: whose study it is.

    Returns:
        A Markdown table.
    """
    found = [run["descent"] for run in read_seeds(preset, "explain")]
    layers = list(found[0]["stdb, plain"]["loss"])
    rows = [["a step downhill by", "changes", *layers]]
    for name in found[0]:
        for score, unit, factor in (("loss", "10^-3 nats", 1e3), ("accuracy", "%", 100)):
            cells = [spread([factor * run[name][score][layer] for run in found]) for layer in layers]
            rows.append([name, f"{score} [{unit}]", *cells])
    return aligned(rows)


def agreement_table(preset: str) -> str:
    """How far batches agree on their gradients, before and after fine-tuning, and what a step along their mean does.

    Args:
        preset: whose study it is.

    Returns:
        A Markdown table.
    """
    harms = _harms(preset)
    layers = list(harms["stdb"][0]["agreement"]["before"]["share"])
    rows = [["gradient of", "measured", *layers]]
    for surrogate in ("stdb", "linear"):
        usual, fast = harms[surrogate], harms[f"{surrogate}-fast"]
        nets = ("before", usual, surrogate), ("after", usual, _name(usual[0])), ("after", fast, _name(fast[0]))
        for when, results, name in nets:
            found = [run["agreement"][when] for run in results]
            shares = [spread(run["share"][layer] for run in found) for layer in layers]
            changes = [spread(1e3 * run["loss"][layer] for run in found) for layer in layers]
            rows.append([f"{name}, {when}", "batches agree", *shares])
            rows.append([f"{name}, {when}", "a step changes the loss [10^-3 nats]", *changes])
    return aligned(rows)


def silence_table(preset: str) -> str:
    """Share of neurons that never fire, before and after fine-tunes that help and that harm.

    Args:
        preset: whose study it is.

    Returns:
        A Markdown table.
    """
    trials = list(_harms(preset).values())
    layers = list(trials[0][0]["silence"]["before"]["never"])
    rows = [["never fire in a presentation [%]", *layers, "validation accuracy [%]"]]
    rows.append(["before", *_silent(trials[0], "before", layers), spread(on_validation(trials[0], "converted"))])
    for results in trials:
        cells = _silent(results, "after", layers)
        rows.append([_name(results[0]), *cells, spread(on_validation(results, "hybrid"))])
    return aligned(rows)


def draw_harms(preset: str, path: Path) -> None:
    """Draw what the epochs of fine-tuning add to the converted net's validation accuracy, a line for each seed."""
    with sheet(path) as axes:
        for name, results in _harms(preset).items():
            color, style = LINES[name]
            for i, run in enumerate(results):
                label = None if i else _name(run)
                axes.plot(_gains(run), style, marker="o", markersize=4, color=color, label=label)
        axes.axhline(0, color="0.35", linestyle=":", label="converted")
        axes.set_xlabel("epochs of fine-tuning at a constant rate")
        axes.set_ylabel("validation accuracy above the converted net's [points]")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(f"{preset}, T = 4: where fine-tuning harms, a line for each seed", fontsize=10)
        axes.legend(fontsize=8)


def _harms(preset: str) -> dict[str, list[Results]]:
    """Name in HARMS -> results of all seeds."""
    return {name: results for name in HARMS if (results := read_seeds(preset, f"harm-{name}"))}


def _gains(run: Results) -> list[float]:
    """Validation accuracy above the converted net's, in points, before the first epoch and after each."""
    converted = run["converted"]["validation_accuracy"]
    return [0.0, *percent(record["validation_accuracy"] - converted for record in run["hybrid"]["history"])]


def _name(run: Results) -> str:
    """The surrogate and its learning rate, and what else is not as in the paper."""
    config = run["config"]
    values = {field: "calibrated" if config[field] == AUTO else config[field] for field in NAMES}
    special = [f"{name} {values[field]}" for field, (name, usual) in NAMES.items() if values[field] != usual]
    return ", ".join([f"{config['surrogate']}, lr {config['hybrid_lr']:g}", *special])


def _signed(gains: list[float]) -> str:
    text = spread(gains)
    return text if mean(gains) < 0 else f"+{text}"


def _silent(results: list[Results], when: str, layers: list[str]) -> list[str]:
    return [spread(percent(r["silence"][when]["never"][layer] for r in results), 1) for layer in layers]
