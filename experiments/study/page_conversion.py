"""Questions a and e: accuracy of converted and hybrid nets against time steps, of presentation and of training."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes

from experiments.reports.table import aligned
from experiments.runs.workdir import Results
from experiments.study.conversion import FACTORS_FOR_LONG, IMAGES_FOR_LONG, IMAGES_FOR_SHORT, LONG
from experiments.study.numbers import on_test, over_seeds, percent, seeds, spread
from experiments.study.plan import STUDIES
from experiments.study.results import read_seeds
from experiments.study.sheet import CONVERTED, HYBRID, LINEAR, finish_steps, sheet

Hybrids = dict[tuple[str, int], list[Results]]  # (surrogate, T) -> results of all seeds
KINDS = {"factor_1": "factor 1", "chosen": "best factor"}
THRESHOLDS = {"100": "maximum", "99.7": "99.7 percentile"}
SURROGATES = {"stdb": ("hybrid, STDB", HYBRID), "linear": ("hybrid, linear", LINEAR)}
SHOWN = 15  # points below the ANN, where nets that have too few steps would fill the plot


def conversion_table(preset: str) -> str:
    """Test accuracy of all nets against the number of time steps; the best factor in brackets.

    Args:
        preset: whose study it is.

    Returns:
        A Markdown table.
    """
    conversions, hybrids = read_seeds(preset, "conversion"), _hybrids(preset)
    steps = sorted({int(t) for r in conversions for t in r["percentiles"]["100"]["test"]} | {t for _, t in hybrids})
    rows = [["test accuracy [%] at T =", *map(str, steps)]]
    for percentile, name in THRESHOLDS.items():
        for kind, factor in KINDS.items():
            cells = [_cell(conversions, hybrids, percentile, kind, t) for t in steps]
            rows.append([f"converted, {name}, {factor}", *cells])
    for surrogate, (name, _) in _surrogates(hybrids).items():
        found = [hybrids.get((surrogate, t), []) for t in steps]
        rows.append([name, *(on_test(results, "hybrid") if results else "" for results in found)])
        cells = [_steps_to_reach(conversions, hybrids, results) if results else "" for results in found]
        rows.append([f"converted, maximum, best factor, reaches {name} by T =", *cells])
    return f"{_note(conversions, hybrids)}\n\n{aligned(rows)}"


def draw_conversion(preset: str, path: Path) -> None:
    """Draw the table: accuracy against time steps."""
    conversions, hybrids = read_seeds(preset, "conversion"), _hybrids(preset)
    with sheet(path) as axes:
        ann = _ann_line(axes, conversions)
        _ann_line_for_long(axes, conversions)
        for percentile, style in (("100", "-"), ("99.7", "--")):
            for kind, color in (("factor_1", "tab:cyan"), ("chosen", CONVERTED)):
                scores = _scores(conversions, hybrids, percentile, kind)
                label = f"converted, {THRESHOLDS[percentile]}, {KINDS[kind]}"
                axes.plot(scores.keys(), percent(scores.values()), style, marker=".", color=color, label=label)
        for surrogate, (name, color) in _surrogates(hybrids).items():
            steps = sorted(t for s, t in hybrids if s == surrogate)
            means = [100 * mean(r["hybrid"]["accuracy"] for r in hybrids[surrogate, t]) for t in steps]
            axes.plot(steps, means, "o-", color=color, label=name)
        axes.set_ylim(bottom=ann - SHOWN)
        finish_steps(axes, f"{preset}: test accuracy against time steps")


def draw_evaluation(preset: str, path: Path) -> None:
    """Question e: accuracy against the steps of evaluation, for nets trained at one T each."""
    hybrids = _hybrids(preset)
    steps = sorted({t for _, t in hybrids})
    with sheet(path) as axes:
        ann = _ann_line(axes, _with_different_anns(hybrids))
        for (surrogate, t), results in sorted(hybrids.items()):
            style, color = {"stdb": "-", "linear": "--"}[surrogate], f"C{steps.index(t)}"
            curves = [r["hybrid"]["accuracy_by_step"] for r in results]
            _curve(axes, curves, style, color, f"{surrogate}, T = {t}")
            axes.plot(t, 100 * mean(r["hybrid"]["accuracy"] for r in results), "o", color=color)
            if surrogate == "linear":
                converted = [r["converted"]["accuracy_by_step"] for r in results]
                _curve(axes, converted, ":", color, f"converted, best factor for T = {t}")
        axes.set_ylim(bottom=ann - SHOWN)
        finish_steps(axes, f"{preset}: trained at one T (dot), evaluated at others")


def evaluation_table(preset: str) -> str:
    """Question e: test accuracy of nets trained at one T and evaluated at others.

    Args:
        preset: whose study it is.

    Returns:
        A Markdown table.
    """
    hybrids = _hybrids(preset)
    steps = [
        2**i
        for i in range(1, 7)
        if any(2**i <= r["config"]["evaluate"]["eval_steps"] for rs in hybrids.values() for r in rs)
    ]
    rows = [["trained at", *(f"evaluated at T = {t}" for t in steps)]]
    for (surrogate, trained), results in sorted(hybrids.items()):
        curves = [r["hybrid"]["accuracy_by_step"] for r in results]
        cells = [spread(percent(curve[t - 1] for curve in curves if len(curve) >= t)) for t in steps]
        rows.append([f"T = {trained}, {surrogate}", *cells])
    return aligned(rows)


def _note(conversions: Sequence[Results], hybrids: Hybrids) -> str:
    """What the numbers of a conversion table are means of."""
    ann, of_first = (spread(percent(r["ann"][name] for r in conversions)) for name in ("accuracy", "accuracy_for_long"))
    of_nets = [f"{name} at T = {t} ({seeds(results)})" for (name, t), results in sorted(hybrids.items())]
    shared = any(_started(conversions, hybrids, percentile) for percentile in THRESHOLDS)
    others = "The converted nets that they start from likewise. All other" if shared else "All"
    return (
        f"ANN: {ann} %. {', '.join(of_nets)}: five Poisson streams each; with one seed, ± is over the streams. "
        f"{others} converted nets: {seeds(conversions)}, one stream each, their factors chosen on {IMAGES_FOR_SHORT} "
        f"validation images; from T = {min(LONG)} on among {', '.join(f'{factor:g}' for factor in FACTORS_FOR_LONG)} "
        f"on {IMAGES_FOR_LONG}, and tested on the first {conversions[0]['images_for_long']} images, of which the ANN "
        f"has {of_first} % right."
    )


def _hybrids(preset: str) -> Hybrids:
    """(surrogate, T) -> results of all seeds."""
    trials = {(*trial.name.split("-t"),): read_seeds(preset, trial.name) for trial in STUDIES[preset]["steps"]}
    return {(surrogate, int(steps)): results for (surrogate, steps), results in trials.items() if results}


def _surrogates(hybrids: Hybrids) -> dict[str, tuple[str, str]]:
    """The surrogates that there are hybrid nets of, with their names and colours."""
    return {name: style for name, style in SURROGATES.items() if any(of == name for of, _ in hybrids)}


def _cell(conversions: Sequence[Results], hybrids: Hybrids, percentile: str, kind: str, t: int) -> str:
    """Test accuracy of the converted nets at T, and the factors that were best."""
    nets = _nets(conversions, hybrids, percentile, kind, t)
    if not nets:
        return ""
    if kind == "factor_1":
        return over_seeds(nets)
    factors = sorted({net["factor"] for net in nets})
    return f"{over_seeds(nets)} ({', '.join(f'{factor:g}' for factor in factors)})"


def _nets(conversions: Sequence[Results], hybrids: Hybrids, percentile: str, kind: str, t: int) -> list[Results]:
    """Accuracy of the converted net at T, of each seed.

    With the best factor those that hybrid nets start from, as they were measured on several streams. With factor 1 all
    were on one, so that they stand in only for a T of which there is no conversion.
    """
    tests = _tests(conversions, percentile, t)
    started = _started(conversions, hybrids, percentile).get(t, [])
    if kind == "factor_1":
        return [{"accuracy": test[kind]} for test in tests] or [
            {"accuracy": run["converted"]["accuracy_by_step_at_factor_1"][t - 1]} for run in started
        ]
    return [run["converted"] | {"factor": run["converted"]["scaling_factor"]} for run in started] or [
        {"accuracy": test[kind], "factor": test["factor"]} for test in tests
    ]


def _tests(conversions: Sequence[Results], percentile: str, t: int) -> list[Results]:
    """What the conversions measured at T, of each seed."""
    tests = [r["percentiles"][percentile]["test"] for r in conversions]
    return [test[str(t)] for test in tests if str(t) in test]


def _started(conversions: Sequence[Results], hybrids: Hybrids, percentile: str) -> dict[int, list[Results]]:
    """T -> results of the linear hybrid runs with such thresholds, where they have as many seeds as the conversions."""
    return {
        t: results
        for (surrogate, t), results in hybrids.items()
        if surrogate == "linear"
        and f"{results[0]['config']['percentile']:g}" == percentile
        and len(results) >= len(_tests(conversions, percentile, t))
    }


def _scores(conversions: Sequence[Results], hybrids: Hybrids, percentile: str, kind: str) -> dict[int, float]:
    """T -> mean accuracy of the converted nets."""
    measured = {int(t) for r in conversions for t in r["percentiles"][percentile]["test"]}
    steps = sorted(measured | set(_started(conversions, hybrids, percentile)))
    return {t: mean(net["accuracy"] for net in _nets(conversions, hybrids, percentile, kind, t)) for t in steps}


def _steps_to_reach(conversions: Sequence[Results], hybrids: Hybrids, results: Sequence[Results]) -> str:
    """The first T at which the converted net is as accurate as a hybrid net."""
    scores = _scores(conversions, hybrids, "100", "chosen")
    reached = [t for t, score in scores.items() if score >= mean(r["hybrid"]["accuracy"] for r in results)]
    return str(min(reached)) if reached else f"over {max(scores)}"


def _with_different_anns(hybrids: Hybrids) -> list[Results]:
    """Results of one run for each ANN."""
    runs = [run for results in hybrids.values() for run in results]
    return list({(run["config"]["seed"], run["ann"]["accuracy"]): run for run in runs}.values())


def _ann_line(axes: Axes, results: Sequence[Results]) -> float:
    """Draw the ANN's accuracy, which is returned in %."""
    accuracy = 100 * mean(r["ann"]["accuracy"] for r in results)
    axes.axhline(accuracy, color="0.35", linestyle=":", label=f"ANN, {accuracy:.1f} %")
    return accuracy


def _ann_line_for_long(axes: Axes, conversions: Sequence[Results]) -> None:
    """Draw the ANN's accuracy on the images that long presentations are measured on."""
    accuracy = 100 * mean(r["ann"]["accuracy_for_long"] for r in conversions)
    label = f"ANN on the images from T = {min(LONG)} on, {accuracy:.1f} %"
    axes.plot((min(LONG), max(LONG)), (accuracy, accuracy), color="0.35", linestyle="-.", label=label)


def _curve(axes: Axes, curves: Sequence[Sequence[float]], style: str, color: str, label: str) -> None:
    means = [100 * mean(values) for values in zip(*curves, strict=True)]
    axes.plot(range(1, len(means) + 1), means, style, color=color, label=label)
