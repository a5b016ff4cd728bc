"""The study's tables and plots, from results whose numbers are set by hand."""

import pytest
from pandas import DataFrame

from experiments.config import with_fields
from experiments.fields import TRAINED
from experiments.presets import PRESETS
from experiments.reports.plots import sheet
from experiments.study import costs, page, plan, tables
from tests.experiments.study.conftest import LAYERS, cells


def keep_conversion(keep, tests, seed=0):
    """Keeps a conversion that found the same by both percentiles: at each T by factor 1, the best, and its accuracy."""
    tests = {t: dict(zip(("factor_1", "factor", "chosen"), found, strict=True)) for t, found in tests.items()}
    ann, percentiles = {"accuracy": 0.9, "accuracy_for_long": 0.91}, {"100": {"test": tests}, "99.7": {"test": tests}}
    return keep("conversion", seed, ann=ann, percentiles=percentiles, images_for_long=2048)


def test_accuracies_against_time_steps(keep):
    for seed, accuracy in enumerate((0.5, 0.6)):
        at_64 = {"64": (0.7, 1.0, 0.8)} if seed == 0 else {}
        keep_conversion(keep, {"8": (0.1, 0.4, accuracy)} | at_64, seed)
        by_step = [0.1, 0.2, 0.3, 0.8 + seed / 10, 0.8, 0.8]
        scores = {"accuracy": by_step[3], "accuracy_std": 0.0, "accuracy_by_step": by_step}
        converted = {"accuracy": 0.3, "scaling_factor": 0.5, "accuracy_by_step_at_factor_1": [0.1, 0.2, 0.3, 0.25]}
        keep("linear-t4", seed, hybrid=scores, converted=converted, finetune={"surrogate": "linear"})
    hybrid = {"accuracy": 0.75, "accuracy_std": 0.01, "kept": "converted"}
    data = keep("stdb-t4", 0, hybrid=hybrid, converted={"accuracy": 0.76})
    table = tables.conversion_table(data)
    assert table.startswith("ANN: 90.00 ± 0.00 %. linear at T = 4 (2 seeds), stdb at T = 4 (1 seed): five")
    assert "The converted nets that they start from likewise. All other converted nets: 2 seeds, one stream" in table
    assert "their factors chosen on 2048 validation images; from T = 64 on among 0.4," in table
    assert "the first 2048 images, of which the ANN has 91.00 ± 0.00 % right." in table
    assert cells(table, "test accuracy") == ["4", "8", "64"]
    assert cells(table, "converted, maximum, best factor") == ["30.00 ± 0.00 (0.5)", "55.00 ± 7.07 (0.4)", "80.00 (1)"]
    assert cells(table, "converted, maximum, factor 1") == ["25.00 ± 0.00", "10.00 ± 0.00", "70.00"]
    assert cells(table, "converted, 99.7 percentile, factor 1") == ["", "10.00 ± 0.00", "70.00"]
    assert cells(table, "hybrid, linear") == ["85.00 ± 7.07", "", ""]
    assert cells(table, "converted, maximum, best factor, reaches hybrid, linear by T =") == ["over 64", "", ""]
    assert cells(table, "converted, maximum, best factor, reaches hybrid, STDB by T =") == ["64", "", ""]
    assert cells(table, "hybrid, STDB") == ["75.00 ± 1.00 (handed back)", "", ""]
    assert cells(tables.evaluation_table(data), "T = 4, linear") == ["20.00 ± 0.00", "85.00 ± 7.07"]


def test_an_ann_counts_once_however_many_hybrid_nets_start_from_it(keep, tmp_path, monkeypatch):
    for surrogate, seed, accuracy in (("linear", 0, 0.9), ("stdb", 0, 0.9), ("linear", 1, 0.9), ("stdb", 1, 0.6)):
        data = keep(f"{surrogate}-t4", seed, ann={"accuracy": accuracy}, finetune={"surrogate": surrogate})
    lines = []
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda _, accuracy, **style: lines.append(accuracy))
    with sheet(tmp_path / "e.png") as axes:
        page.draw_evaluation(axes, data)
    assert lines == [pytest.approx(100 * (0.9 + 0.9 + 0.6) / 3)]


@pytest.mark.parametrize(
    ("accuracies", "std", "text"),
    [([0.5], 0.0, "50.00"), ([0.5], None, "50.00"), ([0.5], 0.01, "50.00 ± 1.00"), ([0.5, 0.52], 0.01, "51.00 ± 1.41")],
)
def test_one_seed_and_one_stream_have_no_spread(accuracies, std, text):
    nets = {"accuracy": accuracies, "accuracy_std": std, "scaling_factor": None, "kept": "fine-tuned"}
    assert tables.on_test(DataFrame(nets)) == text


def test_a_hybrid_runs_converted_net_counts_where_its_thresholds_are_the_rows(keep):
    keep_conversion(keep, {"4": (0.2, 0.4, 0.4), "8": (0.1, 0.4, 0.5)})
    own = {"accuracy": 0.9, "accuracy_std": 0.01, "scaling_factor": 0.8, "accuracy_by_step_at_factor_1": [0.3] * 4}
    linear = {"convert": {"percentile": 99.7}, "finetune": {"surrogate": "linear"}}
    table = tables.conversion_table(keep("linear-t4", 0, converted=own, hybrid={"accuracy": 0.8}, **linear))
    assert cells(table, "converted, maximum, best factor") == ["40.00 (0.4)", "50.00 (0.4)"]
    assert cells(table, "converted, 99.7 percentile, best factor")[0] == "90.00 ± 1.00 (0.8)"
    assert cells(table, "converted, 99.7 percentile, factor 1")[0] == "30.00"
    assert cells(table, "converted, maximum, best factor, reaches hybrid, linear by T =")[0] == "over 8"
    assert "STDB" not in table  # of which there is no hybrid net
    table = tables.conversion_table(
        keep_conversion(keep, {"4": (0.2, 0.4, 0.6)}, seed=1)
    )  # a seed without a hybrid net
    assert cells(table, "converted, 99.7 percentile, best factor")[0] == "50.00 ± 14.14 (0.4)"
    assert "over the streams. All converted nets: 2 seeds, one stream each" in table


def test_compute_of_the_hybrid_run_and_from_scratch(keep):
    history = [{"validation_accuracy": 0.6}, {"validation_accuracy": 0.7}]
    hybrid, linear = {"history": history, "accuracy": 0.7}, {"surrogate": "linear"}
    for seed in range(2):  # the second is twice as slow
        seconds = dict.fromkeys(("train_ann", "convert", "finetune"), 80.0 * (1 + seed))
        keep("linear-t4", seed, hybrid=hybrid, seconds=seconds, finetune=linear)
    scratch = {"hybrid": {"history": history}, "seconds": {"finetune": 120.0}}
    data = keep("scratch-linear", 0, finetune=linear | {"start": "scratch"}, **scratch)
    table = tables.scratch_table(data, 4)
    *epochs, _, minutes, accuracy = cells(table, "hybrid, linear (2 seeds)")
    assert (epochs, minutes, accuracy) == (["3", "2"], "4", "70.00 ± 0.00")
    *epochs, _, minutes, _ = cells(table, "from scratch, linear (1 seed)")
    assert (epochs, minutes) == (["0", "2"], "2")
    runs = tables.scratch_trials(data, 4)
    hybrid, scratch = (costs.by_operations(runs[name].iloc[0]) for name in ("hybrid, linear", "from scratch, linear"))
    epoch = scratch.index[0]
    assert scratch.to_dict() == {epoch: 0.6, 2 * epoch: 0.7}
    conversion = (64 * 30 + 2500 * 4) / (3 * 55_000 * 4)  # one factor on half of the images: it does not choose
    assert list(hybrid.index / epoch) == pytest.approx([n + 3 / 4 + conversion for n in range(3)])
    assert list(hybrid.iloc[1:]) == [0.6, 0.7]
    older = runs["hybrid, linear"].iloc[0].drop("hybrid/validation_accuracy_before")  # which took all of them
    assert costs.by_operations(older).index[0] / epoch == pytest.approx(3 / 4 + conversion + 2500 / (3 * 55_000))


def test_gains_steps_downhill_and_silence(keep):
    plain, linear = {"logit_scale": 1.0}, {"surrogate": "linear", "lr": 1e-3}
    for seed, accuracy in enumerate((0.52, 0.54)):
        streams = {"converted": [0.49, 0.51], "hybrid": [accuracy - 0.01, accuracy + 0.01]}
        keep("stdb-beta0.3", seed, finetune=plain | {"beta": 0.3}, streams=streams)
    keep("stdb-beta1", 0, finetune=plain | {"beta": 1.0}, streams=streams)
    keep("stdb-leak1", 0, finetune=plain, streams={"converted": [0.5, 0.5], "hybrid": [0.4, 0.4]})
    keep("linear-lr0.001", 0, finetune=linear, streams=streams)
    data = keep("linear-percentile", 0, finetune=linear, convert={"percentile": 99.7}, streams=streams)
    table = tables.surrogates_table(data)
    assert cells(table, "stdb, lr 0.001, beta 0.3") == ["2", "50.00 ± 0.00", "53.00 ± 1.41", "+3.00 ± 1.41"]
    assert cells(table, "stdb, lr 0.001, beta 1.0") == ["1", "50.00 ± 1.41", "54.00 ± 1.41", "+4.00 ± 0.00"]
    assert cells(table, "stdb, lr 0.001 ")[3] == "-10.00 ± 0.00"
    assert cells(table, "linear, lr 0.001, logit scale calibrated")[0] == "1"
    assert cells(table, "linear, lr 0.001, percentile 99.7, logit scale calibrated")[0] == "1"
    changes = {"loss": dict.fromkeys(LAYERS, -0.002), "accuracy": dict.fromkeys(LAYERS, 0.01)}
    keep("explain", 0, descent={"stdb, plain": changes})
    silent = {when: {"never": dict.fromkeys(LAYERS, share)} for when, share in (("before", 0.25), ("after", 0.5))}
    before = {"share": dict.fromkeys(LAYERS, 0.25), "loss": dict.fromkeys(LAYERS, -0.003)}
    for name in plan.HARMS:
        after = {"share": dict.fromkeys(LAYERS, 0.5), "loss": dict.fromkeys(LAYERS, 1e-3 + 1e-3 * ("fast" in name))}
        agree, rate = {"before": before, "after": after}, {"lr": 0.5} if "fast" in name else {}
        finetune = (linear if "linear" in name else plain) | rate
        data = keep(name, 0, finetune=finetune, silence=silent, streams=streams, agreement=agree)
    assert cells(tables.descent_table(data), "stdb, plain")[1:] == ["-2.00"] * 4
    rows = [line.split(" | ")[:3] for line in tables.agreement_table(data).splitlines()[2:]]
    names, measured, values = ([cell.strip("| ") for cell in column] for column in zip(*rows, strict=True))
    assert values == ["0.25", "-3.00", "0.50", "1.00", "0.50", "2.00"] * 2
    assert (names[0], names[9]) == ("stdb, before", "linear, lr 0.001, logit scale calibrated, after")
    assert measured == ["batches agree", "a step changes the loss [10^-3 nats]"] * 6
    table = tables.silent_neurons_table(data)
    assert cells(table, "before") == ["25.0"] * 4 + ["50.00 ± 1.41"]
    assert cells(table, "stdb, lr 0.001")[:4] == ["50.0"] * 4


def test_spikes_and_what_they_cost(keep):
    spikes = {"converted": dict.fromkeys(LAYERS, 1.0), "hybrid": dict.fromkeys(LAYERS, 0.5)}
    data = keep("stdb-t4", 0, spikes_per_neuron=spikes)
    table = tables.activity_table(data, ("stdb-t4",))
    assert cells(table, "T = 4, stdb: converted / hybrid") == ["2.00"] * 5
    assert cells(table, "T = 4, stdb: hybrid") == ["0.500"] * 5
    costs = tables.operations_table(data, ("stdb-t4",))
    share, energy, even = map(float, cells(costs, "converted, T = 4, AC")[-3:])
    assert energy == pytest.approx(share * 0.9 / 4.6, abs=0.01)
    assert even == pytest.approx(4 * 4.6 / 0.9 / share, rel=0.02)


def test_the_papers_table_has_our_runs_beside_it(keep, monkeypatch):
    monkeypatch.setattr(tables, "PAPER", (*tables.PAPER, ("tiny", "linear-t4", "tiny net", "run it")))
    for seed, accuracy in enumerate((0.7, 0.8)):
        data = keep("linear-t4", seed, ann={"accuracy": 0.9}, hybrid={"accuracy": accuracy})
    table = tables.paper_table(data)
    assert cells(table, "VGG5 CIFAR-10, paper")[:4] == ["75", "87.88", "84.56", "86.91"]
    accuracies = ["90.00 ± 0.00", "80.00 ± 0.00 (0.5)", "75.00 ± 7.07"]
    run = ["3 + 2", "`run it`", "4 min", "2 CPU cores", "0123456"]
    assert cells(table, "tiny net, jsnn") == ["4", *accuracies, *run]


def test_each_row_of_the_papers_table_is_of_a_trial_in_the_plan_and_names_the_command_that_runs_it():
    for preset, trial, *_, command in tables.PAPER:
        questions = plan.STUDIES.get(preset, {})
        asked = [name for name, trials in questions.items() if trial in {one.name for one in trials}]
        assert asked or trial == "preset"
        planned = [one for name in asked for one in questions[name] if one.name == trial]
        changed = any(with_fields(PRESETS[preset].config, one.fields) != PRESETS[preset].config for one in planned)
        study = f"study {preset} --questions {''.join(asked)}"
        assert command == f"python -m experiments.{study if changed else f'hybrid {preset}'}"


def keep_run(keep, recipe, num_steps, hybrid, converted=0.7, seed=0, **changes):
    convert = {"num_steps": num_steps, "encoding": "constant"}
    scores = {"converted": {"accuracy": converted}, "hybrid": {"accuracy": hybrid}}
    return keep(f"vgg5-{recipe}-t{num_steps}", seed, convert=convert, **scores, **changes)


@pytest.fixture
def runs(keep):
    for seed, ann in enumerate((0.80, 0.82)):
        keep("vgg5-relu", seed, ann={"accuracy": ann})
        keep("vgg5-qcfs", seed, ann={"accuracy": ann + 0.01})
        keep_run(keep, "qcfs", 2, 0.7, seed=seed)
        keep_run(keep, "qcfs-diet", 2, ann - 0.02 + 0.01 * seed, seed=seed)
    return keep_run(keep, "diet", 4, 0.75, converted=0.6)


def test_hybrid_nets_stand_beside_their_anns_seed_by_seed(runs):
    """Recipes that balance also show their converted nets."""
    table = tables.accuracy_table(runs)
    assert [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]] == [
        ["ReLU", "81.00 ± 1.41", "", "", "", ""],
        ["QCFS", "82.00 ± 1.41", "", "", "", ""],
        ["diet, converted", "", "", "", "60.00", ""],
        ["diet", "", "", "", "75.00", ""],
        ["qcfs", "", "", "70.00 ± 0.00", "", ""],
        ["qcfs-diet", "", "", "79.50 ± 2.12", "", ""],
        ["qcfs-diet above the ReLU ANN", "", "", "-1.50 ± 0.71", "", ""],
        ["qcfs-diet above qcfs", "", "", "+9.50 ± 2.12", "", ""],
    ]
    assert "above" not in tables.accuracy_table(runs[~runs.trial.str.contains("qcfs-diet")])


def test_training_costs_are_those_of_ann_conversion_and_snn(runs, monkeypatch):
    costs = {"ann epoch": 2e12, "conversion": 5e12, "snn epoch": 0.5e12}
    monkeypatch.setattr(tables, "operations_of_training", lambda config: costs)
    row = tables.cost_table(runs).splitlines()[-1].split("|")
    assert [cell.strip() for cell in row[2:-1]] == ["qcfs-diet", "2", "3", "2", "12.0", "79.50 ± 2.12"]


def test_parts_are_compared_seed_by_seed(keep):
    def keep_part(name, hybrid, seed=0, **finetune):
        return keep(name, seed, finetune=finetune, converted={"accuracy": 0.7}, hybrid={"accuracy": hybrid})

    *by_labels, by_channel = plan.PARTS
    for name in by_labels:
        keep_part(name, 0.75, trained=plan.PARTS[name]["finetune.trained"], distillation=0.0)
    for name, of_channels in (("vgg5-qcfs-diet-t2", False), (by_channel, True)):
        for seed, hybrid in enumerate((0.78, 0.82)):
            keep_part(name, hybrid, seed, trained=TRAINED, distillation=0.5, by_channel=of_channels)
    keep_part("part-weights", 0.77, seed=1, trained=("weights",), distillation=0.0)
    data = keep_part("vgg5-qcfs-diet-t2", 0.2, seed=2, trained=TRAINED, distillation=0.5)  # has no parts
    table = tables.parts_table(data, 2)
    assert cells(table, "weights  ") == ["labels", "76.00 ± 1.41", "+6.00 ± 1.41", "0.00 ± 0.00"]
    assert cells(table, "weights, threshold ") == ["labels", "75.00", "+5.00", "0.00"]
    distilled = "\n".join(line for line in table.splitlines() if "logits" in line)
    for row in ("all", "all, by channel"):
        assert cells(distilled, row) == ["labels, logits", "80.00 ± 2.83", "+10.00 ± 2.83", "+4.00 ± 1.41"]
    assert len(table.splitlines()) == 2 + len(plan.PARTS) + 1


def test_bytes_stand_beside_exact_residuals_seed_by_seed(keep):
    for seed, accuracy in enumerate((0.90, 0.91)):
        keep_run(keep, "qcfs-diet", 8, accuracy, seed=seed)
        byte = {"accuracy": accuracy + 0.001, "validation_accuracy": 0.95 - 0.001 * seed}
        table = tables.residuals_table(keep("byte-t8", seed, hybrid=byte), 8)
    assert cells(table, "the net that is kept, test [%]") == ["90.50 ± 0.71", "90.60 ± 0.71", "+0.10 ± 0.00"]
    assert cells(table, "the fine-tuned net, validation [%]")[1] == "94.95 ± 0.07"
