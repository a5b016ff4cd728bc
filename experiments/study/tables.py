"""The tables of experiments/README.md: pivots of the study's measurements."""

from collections.abc import Iterable
from statistics import mean, stdev

import pandas as pd
from pandas import DataFrame, Series

from experiments.finetune import CONVERTED
from experiments.reports.table import aligned
from experiments.study import conversion, results
from experiments.study.plan import HARMS, RATES, VARIATIONS
from experiments.study.results import HYBRIDS, nets_of
from jsnn import operations

PAPER = (  # preset, trial, net and data; T of the hybrid net and accuracies [%], where they are of the paper's table 1
    ("vgg5_cifar10", "preset", "VGG5 CIFAR-10", "75", "87.88", "84.56", "86.91"),
    ("vgg9_cifar10", "preset", "VGG9 CIFAR-10", "100", "91.45", "87.31", "90.54"),
    ("vgg16_cifar10", "preset", "VGG16 CIFAR-10", "100", "92.81", "90.20", "91.13"),
    ("vgg16_cifar10_t200", "preset", "VGG16 CIFAR-10", "200", "92.81", "", "92.02"),
    ("resnet8_cifar10", "preset", "ResNet8 CIFAR-10", "200", "91.35", "89.50", "91.35"),
    ("resnet20_cifar10", "preset", "ResNet20 CIFAR-10", "250", "93.15", "91.12", "92.22"),
    ("vgg11_cifar100", "preset", "VGG11 CIFAR-100", "125", "71.21", "65.52", "67.87"),
    ("vgg16_imagenet", "preset", "VGG16 ImageNet", "250", "69.35", "62.73", "65.19"),
    ("resnet34_imagenet", "preset", "ResNet34 ImageNet", "250", "70.20", "56.87", "61.48"),
    ("fashion_mnist_cpu", "linear-t8", "VGG5 x0.125 Fashion-MNIST"),
    ("cifar10_cpu", "linear-t32", "VGG5 x0.25 CIFAR-10"),
)
UNITS = {"descent loss": 1e3, "agreement loss": 1e3, "agreement share": 1}  # factors to them; all others are in %


def of_trials(data: DataFrame, trials: Iterable[str], quantity: str = "") -> DataFrame:
    """The measurements of some trials, in their order; of the quantities that begin so."""
    data = data[data.quantity.str.startswith(quantity)]
    return pd.concat([data[data.trial == trial] for trial in trials])


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
    """Spreads over seeds of quantities in their units, rows and columns in the order of the data."""
    data = data.assign(value=data.value * data.quantity.map(UNITS).fillna(100), columns=columns, **rows)
    table = data.pivot_table("value", [*rows], "columns", lambda v: spread(v, digits), sort=False)
    return table.rename_axis(columns=None).rename_axis([name.replace("_", " ") for name in rows])


def _markdown(table: DataFrame) -> str:
    """The table, the names of its rows first."""
    cells = table.fillna("").reset_index()
    return aligned([[*map(str, cells.columns)], *cells.astype(str).values.tolist()])


def paper_table(data: DataFrame) -> str:
    """The paper's numbers and ours; test accuracy in %, the threshold factor in brackets."""
    rows = ["net, data|T|ANN|converted at T|hybrid at T|epochs|command|time|machine|commit".split("|")]
    for preset, trial, net, *numbers in PAPER:
        rows += [[f"{net}, paper", *numbers, *[""] * 5]] if numbers else []
        runs = data[(data.preset == preset) & (data.trial == trial)]
        if len(runs):
            ann, converted, hybrid, others = (nets_of(runs, net) for net in ("ann", "converted", "hybrid", ""))
            first = others.iloc[0].rename(lambda name: name.removeprefix("environment "))
            count = first.cpu_count if first.platform == "cpu" else first.device_count
            device = f"CPU core{'s' * (count > 1)}" if first.platform == "cpu" else first.device
            minutes = mean(others.filter(like="seconds ").sum(axis=1)) / 60
            cells = [f"{net}, jsnn", f"{first['T']}", spread(100 * ann.accuracy), on_test(converted), on_test(hybrid)]
            cells += [f"{ann.epochs[0]} + {hybrid.epochs[0]}", f"`python -m experiments.hybrid {preset}`"]
            commits = ", ".join(sorted(set(others["environment commit"].map(str))))
            rows.append([*cells, f"{minutes:.0f} min", f"{count} {device}", commits])
    return aligned(rows)


def conversion_table(data: DataFrame) -> str:
    """Test accuracy of all nets against the number of time steps; the best factor in brackets."""
    nets = results.against_steps(data)
    groups = nets.groupby(["net", "T"])
    table = groups[["accuracy", "accuracy_std", "scaling_factor", "kept"]].apply(on_test)
    means, rows = groups.accuracy.agg(mean), {name: table[name] for name in results.CONVERTED_NETS}
    best = means["converted, maximum, best factor"]
    for name in (name for name in HYBRIDS.values() if name in table):
        steps = means[name].map(lambda accuracy: best.index[best >= accuracy].min())
        reached = steps.map("{:g}".format).where(steps.notna(), f"over {best.index.max()}")
        rows |= {name: table[name], f"converted, maximum, best factor, reaches {name} by T =": reached}
    table = DataFrame(rows).T.sort_index(axis=1).rename_axis("test accuracy [%] at T =")
    return f"{_note(data, nets)}\n\n{_markdown(table)}"


def _note(data: DataFrame, nets: DataFrame) -> str:
    """What the numbers of a conversion table are means of."""
    conversions, hybrids = data[data.trial == "conversion"], nets[nets.net.isin(HYBRIDS.values())]
    ann, images = nets_of(conversions, "ann"), nets_of(conversions, "").images_for_long[0]
    of_nets = [f"{name} at T = {t} ({seeds(runs)})" for (name, t), runs in hybrids.groupby(["surrogate", "T"])]
    shared = nets[nets.net.str.endswith("best factor")].trial.notna().any()
    return (
        f"ANN: {spread(100 * ann.accuracy)} %. {', '.join(of_nets)}: five Poisson streams each; with one seed, ± is "
        f"over the streams. {'The converted nets that they start from likewise. All other' if shared else 'All'} "
        f"converted nets: {seeds(ann)}, one stream each, their factors chosen on {conversion.IMAGES_FOR_SHORT} "
        f"validation images; from T = {min(conversion.LONG)} on among "
        f"{', '.join(f'{factor:g}' for factor in conversion.FACTORS_FOR_LONG)} on {conversion.IMAGES_FOR_LONG}, and "
        f"tested on the first {images} images, of which the ANN has {spread(100 * ann.accuracy_for_long)} % right."
    )


def evaluation_table(data: DataFrame) -> str:
    """Question e: test accuracy of nets trained at one T and evaluated at others."""
    data = results.hybrid_trials(data[(data.net == "hybrid") & (data.quantity == "accuracy_by_step")])
    data = data[data.step.isin([2, 4, 8, 16, 32, 64])]
    trained = "T = " + data["T"].map(str) + ", " + data.surrogate
    return _markdown(_spreads(data, "evaluated at T = " + data.step.map("{:g}".format), trained_at=trained))


def scratch_table(data: DataFrame, num_steps: int) -> str:
    """Compute and accuracy of hybrid runs and from scratch; the time is the fastest seed's, as machines may differ."""
    rows = [["run", "ANN epochs", "SNN epochs", "operations [10^12 MAC]", "training [min]", "test accuracy [%]"]]
    for name, runs in results.scratch_trials(data, num_steps).items():
        ann, hybrid, others = (nets_of(runs, net) for net in ("ann", "hybrid", ""))
        stages = ["train_ann", "convert", "finetune"] if name in HYBRIDS.values() else ["finetune"]
        minutes = others[[f"seconds {stage}" for stage in stages]].sum(axis=1).min() / 60
        epochs = [f"{ann.epochs[0]}" if len(stages) > 1 else "0", f"{hybrid.epochs[0]}"]
        cost = results.by_operations(runs[runs.seed == runs.seed.min()]).index[-1]
        rows.append([f"{name} ({seeds(hybrid)})", *epochs, f"{cost:.1f}", f"{minutes:.0f}", on_test(hybrid)])
    return aligned(rows)


def _on_validation(data: DataFrame, trials: Iterable[str]) -> DataFrame:
    """Validation accuracies in % before and after the fine-tune: of each seed the mean over streams, or all streams."""
    streams = of_trials(data, trials, "streams")
    only = streams.groupby("trial").seed.transform("nunique") == 1
    rows = ["trial", "finetune", "seed", "step", "net"]
    samples = streams.assign(step=streams.step.where(only, 0)).groupby(rows, sort=False)
    return 100 * samples.value.agg(mean).unstack(sort=False)


def surrogates_table(data: DataFrame) -> str:
    """Question c: validation accuracy after one epoch of fine-tuning, beside the converted net's."""
    accuracies = _on_validation(data, RATES | VARIATIONS).reset_index("seed")
    trials = accuracies.assign(gain=accuracies.hybrid - accuracies.converted).groupby(["trial", "finetune"], sort=False)
    table = trials[["converted", "hybrid", "gain"]].agg(spread)
    table["gain"] = table.gain.where(trials.gain.agg(mean) < 0, "+" + table.gain)
    table.insert(0, "seeds", trials.seed.nunique())
    table = table.rename(columns={"converted": "converted [%]", "hybrid": "fine-tuned [%]"})
    return _markdown(table.droplevel("trial").rename_axis("fine-tuned with"))


def descent_table(data: DataFrame) -> str:
    """Question c: what a small step along each surrogate's gradient does to loss and accuracy, by layer."""
    data = data[data.gradient.notna()]
    changes = data.quantity.map({"descent loss": "loss [10^-3 nats]", "descent accuracy": "accuracy [%]"})
    return _markdown(_spreads(data, data.layer, a_step_downhill_by=data.gradient, changes=changes))


def agreement_table(data: DataFrame) -> str:
    """Question c: how far batches agree on their gradients, and what a step along the mean of these does, by layer."""
    data = of_trials(data, HARMS, "agreement")
    data = data[(data.net == "after") | ~data.trial.str.endswith("-fast")]
    names = data.finetune.where(data.net == "after", data.surrogate) + ", " + data.net
    loss = "a step changes the loss [10^-3 nats]"
    measured = data.quantity.map({"agreement share": "batches agree", "agreement loss": loss})
    return _markdown(_spreads(data, data.layer, gradient_of=names, measured=measured))


def silence_table(data: DataFrame) -> str:
    """Question c: share of neurons that never fire, before and after fine-tunes that help and that harm."""
    silent = of_trials(data, HARMS, "silence never")
    silent = silent[(silent.net == "after") | (silent.trial == "harm-stdb")]
    table = _spreads(silent, silent.layer, digits=1, net=silent.finetune.where(silent.net == "after", "before"))
    accuracies = _on_validation(data, HARMS).groupby("trial", sort=False).agg(spread)
    table["validation accuracy [%]"] = [accuracies.converted.iloc[0], *accuracies.hybrid]
    return _markdown(table.rename_axis("never fire in a presentation [%]"))


def activity_table(data: DataFrame, trials: Iterable[str]) -> str:
    """Question d: spikes per neuron by layer, converted against hybrid at the same T and factor."""
    data = of_trials(data, trials, "spikes_per_neuron")
    data = data.assign(run="T = " + data["T"].map(str) + ", " + data.surrogate)
    spikes = data.set_index(["run", "seed", "net", "layer"]).value.unstack(sort=False)
    count = Series(operations.neurons(*results.network(data.config.iloc[0])))
    spikes["all neurons"] = (spikes * count).sum(axis=1) / count.sum()
    converted, hybrid = (spikes.xs(net, level="net") for net in ("converted", "hybrid"))
    kinds = {"converted": (converted, 3), "hybrid": (hybrid, 3), "converted / hybrid": (converted / hybrid, 2)}
    rows = [["spikes per neuron and image", *spikes.columns]]
    for run in dict.fromkeys(data.run):
        for kind, (of_net, digits) in kinds.items():
            rows.append([f"{run}: {kind}", *(spread(of_layer, digits) for _, of_layer in of_net.loc[run].items())])
    return aligned(rows)


def operations_table(data: DataFrame, trials: Iterable[str]) -> str:
    """Question d: accumulates of the SNN beside the ANN's multiply-accumulates, and where their energies are even."""
    spikes, network = of_trials(data, trials, "spikes_per_neuron"), results.network(data.config.iloc[0])
    ann, input_rates = Series(operations.multiply_accumulates(*network)), of_trials(data, trials, "input_rate")
    rows = [["ANN, MAC", *_thousands(ann), "1", "1", ""]]
    for (trial, t, net), runs in spikes.groupby(["trial", "T", "net"], sort=False):
        arriving = t * input_rates[input_rates.trial == trial].set_index("seed").value
        of_seeds = ((run.set_index("layer").value, arriving[seed]) for seed, run in runs.groupby("seed"))
        cost = DataFrame([operations.accumulates(*network, *of_seed) for of_seed in of_seeds]).agg(mean)
        portion = cost.sum() / ann.sum()
        energy = portion * operations.PICOJOULES_AC / operations.PICOJOULES_MAC
        rows.append([f"{net}, T = {t}, AC", *_thousands(cost), f"{portion:.2f}", f"{energy:.2f}", f"{t / energy:.0f}"])
    compared = ["of the ANN's", "energy of the ANN's", "energy even at T ="]
    return aligned([["operations for an image [10^3]", *ann.index, "all", *compared], *rows])


def _thousands(costs: Series) -> list[str]:
    return [f"{cost / 1e3:.0f}" for cost in (*costs, costs.sum())]
