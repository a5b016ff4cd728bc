"""The tables of experiments/README.md: pivots of the study's measurements."""

from collections.abc import Iterable
from statistics import mean, stdev

import pandas as pd
from pandas import DataFrame, Series

from experiments.finetune import CONVERTED
from experiments.reports.table import aligned
from experiments.study import conversion, operations
from experiments.study.plan import HARMS, RATES, VARIATIONS

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
PERCENTILES = {"100": "maximum", "99.7": "99.7 percentile"}
HYBRIDS = {"stdb": "hybrid, STDB", "linear": "hybrid, linear"}
SCRATCH = {
    "scratch-stdb": "from scratch, STDB",
    "scratch-linear": "from scratch, linear",
    "scratch-linear-long": "from scratch, linear, twice as long",
    "scratch-linear-longest": "from scratch, linear, three times as long",
}


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds; the mean alone where there is one."""
    values = list(values)
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def on_test(nets: DataFrame) -> str:
    """Test accuracy in % of nets of a seed each: ± is over seeds, or over the Poisson streams of the only one.

    In brackets are the factors on the thresholds, and that runs kept the converted net as fine-tuning lost accuracy.
    """
    text, std = spread(100 * nets.accuracy), nets.accuracy_std.iloc[0]
    text += f" ± {100 * std:.2f}" if len(nets) == 1 and std > 0 else ""
    factors = ", ".join(f"{factor:g}" for factor in sorted(set(nets.scaling_factor.dropna())))
    text += f" ({factors})" if factors else ""
    return f"{text} (handed back)" if (nets.kept == CONVERTED).any() else text


def nets_of(data: DataFrame, net: str) -> DataFrame:
    """A row for each run's net, or "" for what is of no net, a column for each quantity, by time step that at T."""
    here = data.step.isna() | (data.step == data["T"])
    single = data[here & data[["layer", "percentile", "gradient"]].isna().all(axis=1) & (data.net.fillna("") == net)]
    table = single.pivot(index=["trial", "seed", "surrogate", "T", "config"], columns="quantity", values="value")
    columns = table.columns.union(["accuracy_std", "scaling_factor", "kept"])
    return table.reindex(columns=columns).reset_index().sort_values(["surrogate", "T", "seed"])


def hybrid_trials(data: DataFrame) -> DataFrame:
    """The measurements of the trials SURROGATE-tT, in this order."""
    return data[data.trial.str.fullmatch(r"(stdb|linear)-t\d+")].sort_values(["surrogate", "T", "seed"], kind="stable")


def _of_trials(data: DataFrame, trials: Iterable[str]) -> DataFrame:
    return pd.concat([data[data.trial == trial] for trial in trials])


def _pivot(data: DataFrame, rows: dict[str, Iterable[str]], columns: str, digits: int = 2) -> DataFrame:
    """Spreads over seeds, rows and columns in the order of the data."""
    table = data.assign(**rows).pivot_table("value", [*rows], columns, lambda v: spread(v, digits), sort=False)
    return table.rename_axis(columns=None)


def _markdown(table: DataFrame) -> str:
    """The table, the names of its rows first."""
    cells = table.fillna("").reset_index()
    return aligned([[*map(str, cells.columns)], *cells.astype(str).values.tolist()])


def paper_table(data: DataFrame) -> str:
    """The paper's numbers and ours; test accuracy in %, the threshold factor in brackets."""
    columns = "net, data", "T", "ANN", "converted at T", "hybrid at T", "epochs", "command", "time", "machine", "commit"
    rows = [columns]
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


def against_steps(data: DataFrame) -> DataFrame:
    """Test accuracies of nets by name, T and seed, converted ones with factor 1 and with the best.

    With the best factor those that hybrid nets start from, as they were measured on several streams, unless they have
    fewer seeds. With factor 1 all were on one, so that they stand in only for a T of which there is no conversion.
    """
    hybrids, tests = hybrid_trials(data), data[data.quantity.str.startswith("percentiles test ")]
    tests = tests.assign(T=tests.step, quantity=tests.quantity.str.removeprefix("percentiles test "))
    tests = tests.pivot(index=["percentile", "T", "seed"], columns="quantity", values="value").reset_index()
    own = nets_of(hybrids[hybrids.surrogate == "linear"], "converted")
    own["percentile"] = [f"{config.convert.percentile:g}" for config in own.config]
    own = own.rename(columns={"accuracy": "chosen", "accuracy_by_step_at_factor_1": "factor_1"})
    both = pd.concat([own, tests.rename(columns={"factor": "scaling_factor"})], ignore_index=True)
    is_own, label = both.trial.notna(), "converted, " + both.percentile.map(PERCENTILES)
    count = both.groupby(["percentile", "T", is_own]).seed.transform("count")
    plain = both.assign(net=label + ", factor 1", accuracy=both.factor_1, accuracy_std=None, scaling_factor=None)
    best = both.assign(net=label + ", best factor", accuracy=both.chosen)
    plain, best = plain.assign(rank=~is_own * 1.0), best.assign(rank=count + is_own / 2)
    nets = pd.concat([plain, best]).sort_values("percentile", kind="stable", ascending=True)
    nets = nets[nets["rank"] == nets.groupby(["net", "T"])["rank"].transform("max")]
    hybrids = nets_of(hybrids, "hybrid")
    return pd.concat([nets, hybrids.assign(net=hybrids.surrogate.map(HYBRIDS))]).astype({"T": int})


def conversion_table(data: DataFrame) -> str:
    """Test accuracy of all nets against the number of time steps; the best factor in brackets."""
    nets = against_steps(data)
    table = nets.groupby(["net", "T"])[[*nets]].apply(on_test).unstack()
    means = nets.groupby(["net", "T"]).accuracy.agg(mean).unstack()
    best = means.loc["converted, maximum, best factor"].dropna()
    names = [f"converted, {name}, {factor}" for name in PERCENTILES.values() for factor in ("factor 1", "best factor")]
    for name in (name for name in HYBRIDS.values() if name in means.index):
        reaches = f"converted, maximum, best factor, reaches {name} by T ="
        reached = {t: best.index[best >= accuracy] for t, accuracy in means.loc[name].dropna().items()}
        table.loc[reaches] = Series(
            {t: str(min(ts)) if len(ts) else f"over {max(best.index)}" for t, ts in reached.items()}
        )
        names += [name, reaches]
    return f"{_note(data, nets)}\n\n{_markdown(table.loc[names].rename_axis('test accuracy [%] at T ='))}"


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


def seeds(nets: DataFrame) -> str:
    """How many seeds there are, of a row each."""
    return f"{len(nets)} seed{'s' * (len(nets) > 1)}"


def evaluation_table(data: DataFrame) -> str:
    """Question e: test accuracy of nets trained at one T and evaluated at others."""
    data = hybrid_trials(data)
    data = data[(data.net == "hybrid") & (data.quantity == "accuracy_by_step") & data.step.isin([2, 4, 8, 16, 32, 64])]
    trained = [f"T = {t}, {surrogate}" for t, surrogate in zip(data["T"], data.surrogate, strict=True)]
    data = data.assign(value=100 * data.value, at=[f"evaluated at T = {step:g}" for step in data.step])
    return _markdown(_pivot(data, {"trained at": trained}, "at"))


def scratch_trials(data: DataFrame, num_steps: int) -> dict[str, DataFrame]:
    """Question b: names of hybrid runs at T and of those from scratch -> their measurements."""
    trials = {f"{surrogate}-t{num_steps}": name for surrogate, name in HYBRIDS.items()} | SCRATCH
    return {name: data[data.trial == trial] for trial, name in trials.items() if (data.trial == trial).any()}


def learning_curve(run: DataFrame) -> Series:
    """Operations of training so far [10^12 MAC] -> validation accuracy, after each epoch of the SNN.

    A hybrid run begins with the operations of the ANN and of the conversion.
    """
    config = run.config.iloc[0]
    costs = operations.operations_of_training(config)
    curve = run[(run.net == "hybrid") & (run.quantity == "history validation_accuracy")].set_index("step").value
    before = 0.0
    if config.finetune.start == "converted":
        before = nets_of(run, "ann").epochs[0] * costs["ann epoch"] + costs["conversion"]
        curve = pd.concat([Series(nets_of(run, "converted").validation_accuracy[0], [0]), curve])
    return curve.rename(lambda epoch: (before + epoch * costs["snn epoch"]) / 1e12)


def scratch_table(data: DataFrame, num_steps: int) -> str:
    """Compute and accuracy of hybrid runs and from scratch; the time is the fastest seed's, as machines may differ."""
    rows = [["run", "ANN epochs", "SNN epochs", "operations [10^12 MAC]", "training [min]", "test accuracy [%]"]]
    for name, runs in scratch_trials(data, num_steps).items():
        ann, hybrid, others = (nets_of(runs, net) for net in ("ann", "hybrid", ""))
        stages = ["train_ann", "convert", "finetune"] if name in HYBRIDS.values() else ["finetune"]
        minutes = others[[f"seconds {stage}" for stage in stages]].sum(axis=1).min() / 60
        epochs = [f"{ann.epochs[0]}" if len(stages) > 1 else "0", f"{hybrid.epochs[0]}"]
        cost = learning_curve(runs[runs.seed == runs.seed.min()]).index[-1]
        rows.append([f"{name} ({seeds(hybrid)})", *epochs, f"{cost:.1f}", f"{minutes:.0f}", on_test(hybrid)])
    return aligned(rows)


def _on_validation(data: DataFrame) -> DataFrame:
    """Validation accuracies in % before and after the fine-tune: of each seed the mean over streams, or all streams."""
    streams = data[data.quantity == "streams"]
    only = streams.groupby("trial").seed.transform("nunique") == 1
    samples = streams.assign(step=streams.step.where(only, 0)).groupby(
        ["trial", "finetune", "seed", "step", "net"], sort=False
    )
    return 100 * samples.value.agg(mean).unstack(sort=False)


def surrogates_table(data: DataFrame) -> str:
    """Question c: validation accuracy after one epoch of fine-tuning, beside the converted net's."""
    accuracies = _on_validation(_of_trials(data, RATES | VARIATIONS)).reset_index("seed")
    trials = accuracies.assign(gain=accuracies.hybrid - accuracies.converted).groupby(["trial", "finetune"], sort=False)
    table = trials[["converted", "hybrid", "gain"]].agg(spread).assign(seeds=trials.seed.nunique())
    table["gain"] = table.gain.where(trials.gain.agg(mean) < 0, "+" + table.gain)
    table = table.rename(columns={"converted": "converted [%]", "hybrid": "fine-tuned [%]"})
    columns = ["seeds", "converted [%]", "fine-tuned [%]", "gain"]
    return _markdown(table.droplevel("trial").rename_axis("fine-tuned with")[columns])


def descent_table(data: DataFrame) -> str:
    """Question c: what a small step along each surrogate's gradient does to loss and accuracy, by layer."""
    data = data[data.gradient.notna()]
    is_loss = data.quantity == "descent loss"
    changes = Series("loss [10^-3 nats]", data.index).where(is_loss, "accuracy [%]")
    data = data.assign(value=data.value * Series(1e3, data.index).where(is_loss, 100))
    return _markdown(_pivot(data, {"a step downhill by": data.gradient, "changes": changes}, "layer"))


def agreement_table(data: DataFrame) -> str:
    """Question c: how far batches agree on their gradients, and what a step along the mean of these does, by layer."""
    data = _of_trials(data, HARMS)
    data = data[data.quantity.str.startswith("agreement") & ((data.net == "after") | ~data.trial.str.endswith("-fast"))]
    is_share = data.quantity == "agreement share"
    gradient = data.finetune.where(data.net == "after", data.surrogate) + ", " + data.net
    measured = Series("batches agree", data.index).where(is_share, "a step changes the loss [10^-3 nats]")
    data = data.assign(value=data.value * Series(1, data.index).where(is_share, 1e3))
    return _markdown(_pivot(data, {"gradient of": gradient, "measured": measured}, "layer"))


def silence_table(data: DataFrame) -> str:
    """Question c: share of neurons that never fire, before and after fine-tunes that help and that harm."""
    data = _of_trials(data, HARMS)
    silent = data[(data.quantity == "silence never") & ((data.net == "after") | (data.trial == "harm-stdb"))]
    names = {"never fire in a presentation [%]": silent.finetune.where(silent.net == "after", "before")}
    table = _pivot(silent.assign(value=100 * silent.value), names, "layer", digits=1)
    accuracies = _on_validation(data).groupby("trial", sort=False).agg(spread)
    return _markdown(table.assign(**{"validation accuracy [%]": [accuracies.converted.iloc[0], *accuracies.hybrid]}))


def activity_table(data: DataFrame, trials: Iterable[str]) -> str:
    """Question d: spikes per neuron by layer, converted against hybrid at the same T and factor."""
    data = _of_trials(data, trials)
    data = data[data.quantity == "spikes_per_neuron"]
    spikes = data.set_index(["trial", "T", "surrogate", "seed", "net", "layer"]).value.unstack(sort=False)
    count = operations.neurons(data.config.iloc[0])
    spikes["all neurons"] = sum(spikes[layer] * count[layer] for layer in count) / sum(count.values())
    converted, hybrid = (spikes.xs(net, level="net") for net in ("converted", "hybrid"))
    kinds = {"converted": (converted, 3), "hybrid": (hybrid, 3), "converted / hybrid": (converted / hybrid, 2)}
    rows = [["spikes per neuron and image", *spikes.columns]]
    for _, t, surrogate in dict.fromkeys(index[:3] for index in spikes.index):
        for kind, (values, digits) in kinds.items():
            of_trial = values.xs((t, surrogate), level=("T", "surrogate"))
            rows.append([f"T = {t}, {surrogate}: {kind}", *(spread(of_trial[layer], digits) for layer in of_trial)])
    return aligned(rows)


def operations_table(data: DataFrame, trials: Iterable[str]) -> str:
    """Question d: accumulates of the SNN beside the ANN's multiply-accumulates, and where their energies are even."""
    data = _of_trials(data, trials)
    costs = {"ANN, MAC": Series(operations.macs(data.config.iloc[0]))}
    last = {"ANN, MAC": ["1", "1", ""]}
    for (_, t, net), runs in data[data.quantity == "spikes_per_neuron"].groupby(["trial", "T", "net"], sort=False):
        rates = data[(data.quantity == "input_rate") & (data["T"] == t)].set_index("seed").value
        of_seeds = [
            (run.config.iloc[0], run.set_index("layer").value, t * rates[seed]) for seed, run in runs.groupby("seed")
        ]
        cost = DataFrame([operations.accumulates(*of_seed) for of_seed in of_seeds]).agg(mean)
        portion = cost.sum() / costs["ANN, MAC"].sum()
        energy = portion * operations.PICOJOULES_AC / operations.PICOJOULES_MAC
        costs[f"{net}, T = {t}, AC"] = cost
        last[f"{net}, T = {t}, AC"] = [f"{portion:.2f}", f"{energy:.2f}", f"{t / energy:.0f}"]
    cells = {name: [*(f"{c / 1e3:.0f}" for c in (*cost, cost.sum())), *last[name]] for name, cost in costs.items()}
    columns = [*costs["ANN, MAC"].index, "all", "of the ANN's", "energy of the ANN's", "energy even at T ="]
    return _markdown(DataFrame(cells, columns).T.rename_axis("operations for an image [10^3]"))
