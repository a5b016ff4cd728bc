"""The tables of experiments/README.md: pivots of the study's measurements."""

from collections.abc import Iterable
from statistics import mean, stdev

import pandas as pd
from pandas import DataFrame, Series

from experiments.config import with_fields
from experiments.presets import PRESETS
from experiments.reports.table import aligned
from experiments.runs.schema import CONVERTED
from experiments.study import conversion, results
from experiments.study.plan import HARMS, RATES, STUDIES, VARIATIONS
from experiments.study.results import HYBRIDS, measurements, nets_of
from jsnn.network import operations

# The paper's table 1, accuracies in %, as the rows of ours; our runs of each are those of a preset's trial.
PAPER = pd.read_csv(results.RESULTS / "paper.csv", dtype=str, keep_default_na=False).values.tolist()
SPIKES = "spikes_per_neuron/(?P<net>.+)/(?P<layer>.+)"


def of_trials(runs: DataFrame, trials: Iterable[str]) -> DataFrame:
    """The runs of some trials, in their order."""
    return pd.concat([runs[runs.trial == trial] for trial in trials], ignore_index=True)


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one."""
    values = list(values)
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def on_test(nets: DataFrame) -> str:
    """Test accuracy in % of nets of a seed each: ± is over seeds, or over the Poisson streams of the only one.

    In brackets are the factors on the thresholds, and that runs kept the converted net as fine-tuning lost accuracy.
    """
    text, std = spread(100 * nets.accuracy), nets.accuracy_std.iloc[0]
    text += f" ± {100 * std:.2f}" if len(nets) == 1 and (std or 0) > 0 else ""
    factors = ", ".join(f"{factor:g}" for factor in sorted(set(nets.scaling_factor.dropna())))
    text += f" ({factors})" if factors else ""
    return f"{text} (handed back)" if (nets.kept == CONVERTED).any() else text


def seeds(nets: DataFrame) -> str:
    """How many seeds there are, of a row each."""
    return f"{len(nets)} seed{'s' * (len(nets) > 1)}"


def _spreads(data: DataFrame, columns: Iterable[str], digits: int = 2, **rows: Iterable[str]) -> DataFrame:
    """Spreads of measurements over seeds, rows and columns in the order of the data."""
    table = data.assign(columns=columns, **rows)
    table = table.pivot_table("value", [*rows], "columns", lambda values: spread(values, digits), sort=False)
    return table.rename_axis(columns=None).rename_axis([name.replace("_", " ") for name in rows])


def _markdown(table: DataFrame) -> str:
    """The table, the names of its rows first."""
    cells = table.fillna("").reset_index()
    return aligned([[*map(str, cells.columns)], *cells.astype(str).values.tolist()])


def paper_table(runs: DataFrame) -> str:
    """The paper's numbers and ours; test accuracy in %, the threshold factor in brackets."""
    rows = ["net, data|T|ANN|converted at T|hybrid at T|epochs|command|time|machine|commit".split("|")]
    for preset, trial, net, *numbers in PAPER:
        rows += [[f"{net}, paper", *numbers, *[""] * 5]] if any(numbers) else []
        ours = runs[(runs.preset == preset) & (runs.trial == trial)]
        rows += [[f"{net}, jsnn", *_of_preset(ours)]] if len(ours) else []
    return aligned(rows)


def _of_preset(runs: DataFrame) -> list[str]:
    """What the paper's table says of a preset's runs, from the number of time steps on."""
    first, converted, hybrid = runs.iloc[0], nets_of(runs, "converted"), nets_of(runs, "hybrid")
    on_cpu = first["environment/platform"] == "cpu"
    count = first["environment/cpu_count" if on_cpu else "environment/device_count"]
    device = f"CPU core{'s' if count > 1 else ''}" if on_cpu else first["environment/device"]
    cells = [f"{first['T']}", spread(100 * runs["ann/accuracy"]), on_test(converted), on_test(hybrid)]
    cells += [f"{first['ann/epochs']:g} + {first['hybrid/epochs']:g}", f"`{command_of(first.preset, first.trial)}`"]
    minutes = mean(runs.filter(like="seconds/").sum(axis=1)) / 60
    commits = ", ".join(sorted(set(runs["environment/commit"].map(str))))
    return [*cells, f"{minutes:.0f} min", f"{count:g} {device}", commits]


def command_of(preset: str, trial: str) -> str:
    """What runs a trial: its preset as it is, or the question of the study where the trial changes fields of it."""
    for question, trials in STUDIES.get(preset, {}).items():
        usual = PRESETS[preset].config
        if any(one.name == trial and with_fields(usual, one.fields) != usual for one in trials):
            return f"python -m experiments.study {preset} --questions {question}"
    return f"python -m experiments.hybrid {preset}"


def conversion_table(runs: DataFrame) -> str:
    """Test accuracy of all nets against the number of time steps; the best factor in brackets."""
    nets = results.against_steps(runs)
    groups = nets.groupby(["net", "T"])
    table = groups[["accuracy", "accuracy_std", "scaling_factor", "kept"]].apply(on_test)
    means, rows = groups.accuracy.agg(mean), {name: table[name] for name in results.CONVERTED_NETS}
    best = means["converted, maximum, best factor"]
    for name in (name for name in HYBRIDS.values() if name in table):
        steps = means[name].map(lambda accuracy: best.index[best >= accuracy].min())
        reached = steps.map("{:g}".format).where(steps.notna(), f"over {best.index.max()}")
        rows |= {name: table[name], f"converted, maximum, best factor, reaches {name} by T =": reached}
    table = DataFrame(rows).T.sort_index(axis=1).rename_axis("test accuracy [%] at T =")
    return f"{_note(runs, nets)}\n\n{_markdown(table)}"


def _note(runs: DataFrame, nets: DataFrame) -> str:
    """What the numbers of a conversion table are means of."""
    conversions, hybrids = runs[runs.trial == "conversion"], nets[nets.net.isin(HYBRIDS.values())]
    ann, for_long = (100 * conversions[name] for name in ("ann/accuracy", "ann/accuracy_for_long"))
    images = f"{conversions.images_for_long.iloc[0]:g}"
    of_nets = [f"{name} at T = {t} ({seeds(of_net)})" for (name, t), of_net in hybrids.groupby(["surrogate", "T"])]
    shared = nets[nets.net.str.endswith("best factor")].trial.notna().any()
    return (
        f"ANN: {spread(ann)} %. {', '.join(of_nets)}: five Poisson streams each; with one seed, ± is "
        f"over the streams. {'The converted nets that they start from likewise. All other' if shared else 'All'} "
        f"converted nets: {seeds(ann)}, one stream each, their factors chosen on {conversion.IMAGES_FOR_SHORT} "
        f"validation images; from T = {min(conversion.LONG)} on among "
        f"{', '.join(f'{factor:g}' for factor in conversion.FACTORS_FOR_LONG)} on {conversion.IMAGES_FOR_LONG}, and "
        f"tested on the first {images} images, of which the ANN has {spread(for_long)} % right."
    )


def evaluation_table(runs: DataFrame) -> str:
    """Question e: test accuracy of nets trained at one T and evaluated at others."""
    data = measurements(results.hybrid_trials(runs), "(?P<net>hybrid)/accuracy_by_step")
    data = data[data.step.isin([2, 4, 8, 16, 32, 64])].assign(value=lambda data: 100 * data.value)
    trained = "T = " + data["T"].map(str) + ", " + data.surrogate
    return _markdown(_spreads(data, "evaluated at T = " + data.step.map(str), trained_at=trained))


def scratch_table(runs: DataFrame, num_steps: int) -> str:
    """Compute and accuracy of hybrid runs and from scratch; the time is the fastest seed's, as machines may differ."""
    rows = [["run", "ANN epochs", "SNN epochs", "operations [10^12 MAC]", "training [min]", "test accuracy [%]"]]
    for name, of_name in results.scratch_trials(runs, num_steps).items():
        first, is_hybrid = of_name.iloc[0], name in HYBRIDS.values()
        stages = ["train_ann", "convert", "finetune"] if is_hybrid else ["finetune"]
        minutes = of_name[[f"seconds/{stage}" for stage in stages]].sum(axis=1).min() / 60
        epochs = [f"{first['ann/epochs']:g}" if is_hybrid else "0", f"{first['hybrid/epochs']:g}"]
        cost, hybrid = results.by_operations(first).index[-1], nets_of(of_name, "hybrid")
        rows.append([f"{name} ({seeds(hybrid)})", *epochs, f"{cost:.1f}", f"{minutes:.0f}", on_test(hybrid)])
    return aligned(rows)


def _on_validation(runs: DataFrame, trials: Iterable[str]) -> DataFrame:
    """Validation accuracies in % before and after the fine-tune: of each seed the mean over streams, or all streams."""
    streams = measurements(of_trials(runs, trials), "streams/(?P<net>.+)")
    only = streams.groupby("trial").seed.transform("nunique") == 1
    samples = streams.assign(step=streams.step.where(only, 0))
    return 100 * samples.pivot_table("value", ["trial", "finetune", "seed", "step"], "net", mean, sort=False)


def surrogates_table(runs: DataFrame) -> str:
    """Question c: validation accuracy after one epoch of fine-tuning, beside the converted net's."""
    accuracies = _on_validation(runs, RATES | VARIATIONS).reset_index("seed")
    trials = accuracies.assign(gain=accuracies.hybrid - accuracies.converted).groupby(["trial", "finetune"], sort=False)
    table = trials[["converted", "hybrid", "gain"]].agg(spread)
    table["gain"] = table.gain.where(trials.gain.agg(mean) < 0, "+" + table.gain)
    table.insert(0, "seeds", trials.seed.nunique())
    table = table.rename(columns={"converted": "converted [%]", "hybrid": "fine-tuned [%]"})
    return _markdown(table.droplevel("trial").rename_axis("fine-tuned with"))


def descent_table(runs: DataFrame) -> str:
    """Question c: what a small step along each surrogate's gradient does to loss and accuracy, by layer."""
    data = measurements(runs, "descent/(?P<gradient>.+)/(?P<score>.+)/(?P<layer>.+)")
    changes = data.score.map({"loss": "loss [10^-3 nats]", "accuracy": "accuracy [%]"})
    data["value"] *= data.score.map({"loss": 1e3, "accuracy": 100})
    return _markdown(_spreads(data, data.layer, a_step_downhill_by=data.gradient, changes=changes))


def agreement_table(runs: DataFrame) -> str:
    """Question c: how far batches agree on their gradients, and what a step along the mean of these does, by layer."""
    data = measurements(of_trials(runs, HARMS), "agreement/(?P<net>.+)/(?P<score>.+)/(?P<layer>.+)")
    data = data[(data.net == "after") | ~data.trial.str.endswith("-fast")]
    names = data.finetune.where(data.net == "after", data.surrogate) + ", " + data.net
    measured = data.score.map({"share": "batches agree", "loss": "a step changes the loss [10^-3 nats]"})
    data = data.assign(value=data.value * data.score.map({"share": 1, "loss": 1e3}))
    return _markdown(_spreads(data, data.layer, gradient_of=names, measured=measured))


def silent_neurons_table(runs: DataFrame) -> str:
    """Question c: share of neurons that never fire, before and after fine-tunes that help and that harm."""
    silent = measurements(of_trials(runs, HARMS), "silence/(?P<net>.+)/never/(?P<layer>.+)")
    silent = silent[(silent.net == "after") | (silent.trial == "harm-stdb")].assign(value=lambda data: 100 * data.value)
    table = _spreads(silent, silent.layer, digits=1, net=silent.finetune.where(silent.net == "after", "before"))
    accuracies = _on_validation(runs, HARMS).groupby("trial", sort=False).agg(spread)
    table["validation accuracy [%]"] = [accuracies.converted.iloc[0], *accuracies.hybrid]
    return _markdown(table.rename_axis("never fire in a presentation [%]"))


def activity_table(runs: DataFrame, trials: Iterable[str]) -> str:
    """Question d: spikes per neuron by layer, converted against hybrid at the same T and factor."""
    data = measurements(of_trials(runs, trials), SPIKES)
    data = data.assign(run="T = " + data["T"].map(str) + ", " + data.surrogate)
    spikes = data.set_index(["run", "seed", "net", "layer"]).value.unstack(sort=False)
    count = Series(results.neurons(data.config.iloc[0]))
    spikes["all neurons"] = (spikes * count).sum(axis=1) / count.sum()
    converted, hybrid = (spikes.xs(net, level="net") for net in ("converted", "hybrid"))
    kinds = {"converted": (converted, 3), "hybrid": (hybrid, 3), "converted / hybrid": (converted / hybrid, 2)}
    rows = [["spikes per neuron and image", *spikes.columns]]
    for run in dict.fromkeys(data.run):
        for kind, (of_net, digits) in kinds.items():
            rows.append([f"{run}: {kind}", *(spread(of_layer, digits) for _, of_layer in of_net.loc[run].items())])
    return aligned(rows)


def operations_table(runs: DataFrame, trials: Iterable[str]) -> str:
    """Question d: accumulates of the SNN beside the ANN's multiply-accumulates, and where their energies are even."""
    spikes, config = measurements(of_trials(runs, trials), SPIKES), runs.config.iloc[0]
    shapes, count = results.shapes(config), Series(results.neurons(config))
    pixels = next(iter(shapes.values())).inputs
    ann, input_rates = Series(operations.multiply_accumulates(shapes)), runs.set_index(["trial", "seed"]).input_rate
    rows = [["ANN, MAC", *thousands(ann), "1", "1", ""]]
    for (trial, t, net), of_net in spikes.groupby(["trial", "T", "net"], sort=False):
        of_seeds = of_net.set_index("layer").groupby("seed").value
        of_input = {seed: {operations.INPUT: t * input_rates[trial, seed] * pixels} for seed, _ in of_seeds}
        costs = [operations.accumulates(shapes, {**one * count, **of_input[seed]}) for seed, one in of_seeds]
        cost = DataFrame(costs).agg(mean)
        portion = cost.sum() / ann.sum()
        energy = portion * operations.PICOJOULES_AC / operations.PICOJOULES_MAC
        rows.append([f"{net}, T = {t}, AC", *thousands(cost), f"{portion:.2f}", f"{energy:.2f}", f"{t / energy:.0f}"])
    compared = ["of the ANN's", "energy of the ANN's", "energy even at T ="]
    return aligned([["operations for an image [10^3]", *ann.index, "all", *compared], *rows])


def thousands(costs: Series) -> list[str]:
    """Operations by layer and of all, in thousands."""
    return [f"{cost / 1e3:.0f}" for cost in (*costs, costs.sum())]
