"""The study's tables and plots, from results whose numbers are set by hand."""

import copy
import json

import pytest

from experiments.runs.workdir import read_results
from experiments.study import (
    numbers,
    page_activity,
    page_conversion,
    page_paper,
    page_scratch,
    page_surrogates,
    plan,
    results,
)

LAYERS = ("conv0", "conv1", "conv2", "dense0")


@pytest.fixture
def keep(tiny, tmp_path, monkeypatch):
    """Keeps results of a trial of the preset "tiny", those of the tiny run with some numbers changed."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    steps = tuple(plan.Trial(name, {}) for name in ("linear-t4", "stdb-t4"))
    monkeypatch.setitem(plan.STUDIES, "tiny", {"steps": steps})
    found = read_results(tiny)

    def keep(trial, seed, **changes):
        changed = copy.deepcopy(found) | {"input_rate": 0.5}
        changed["config"]["dataset"] = "fashion_mnist"  # whose number of images is known
        for name, value in changes.items():
            changed[name] = {**changed[name], **value} if name in changed else value
        results.write_results(results.results_path(tmp_path, "tiny", trial, seed), changed)

    return keep


def cells(table, row):
    """The cells of the row that begins so."""
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} "))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def measured(factor_1, factor, chosen):
    """What a conversion measures on the test split at one T."""
    return {"factor_1": factor_1, "factor": factor, "chosen": chosen}


def keep_conversion(keep, tests, seed=0):
    """Keeps a conversion that found the same by both percentiles."""
    ann, percentiles = {"accuracy": 0.9, "accuracy_for_long": 0.91}, {"100": {"test": tests}, "99.7": {"test": tests}}
    keep("conversion", seed, ann=ann, percentiles=percentiles, images_for_long=2048)


def drawn(draw, *arguments, path):
    draw(*arguments, path)
    return path.read_bytes().startswith(b"\x89PNG")


def test_accuracies_against_time_steps(keep, tmp_path):
    for seed, accuracy in enumerate((0.5, 0.6)):
        tests = {"8": measured(0.1, 0.4, accuracy)}
        if seed == 0:
            tests["64"] = measured(0.7, 1.0, 0.8)
        keep_conversion(keep, tests, seed)
        scores = {
            "accuracy": 0.8 + seed / 10,
            "accuracy_std": 0.0,
            "accuracy_by_step": [0.1, 0.2, 0.3, 0.8 + seed / 10, 0.8, 0.8],
        }
        converted = {"accuracy": 0.3, "scaling_factor": 0.5, "accuracy_by_step_at_factor_1": [0.1, 0.2, 0.3, 0.25]}
        keep("linear-t4", seed, hybrid=scores, converted=converted)
    keep(
        "stdb-t4", 0, hybrid={"accuracy": 0.75, "accuracy_std": 0.01, "kept": "converted"}, converted={"accuracy": 0.76}
    )
    table = page_conversion.conversion_table("tiny")
    assert table.startswith("ANN: 90.00 ± 0.00 %. linear at T = 4 (2 seeds), stdb at T = 4 (1 seed): five")
    assert "The converted nets that they start from likewise. All other converted nets: 2 seeds, one stream" in table
    assert "their factors chosen on 2048 validation images; from T = 64 on among 0.4," in table
    assert "the first 2048 images, of which the ANN has 91.00 ± 0.00 % right." in table
    assert cells(table, "test accuracy") == ["4", "8", "64"]
    assert cells(table, "converted, maximum, best factor") == [
        "30.00 ± 0.00 (0.5)",
        "55.00 ± 7.07 (0.4)",
        "80.00 (1)",
    ]
    assert cells(table, "converted, maximum, factor 1") == ["25.00 ± 0.00", "10.00 ± 0.00", "70.00"]
    assert cells(table, "converted, 99.7 percentile, factor 1") == ["", "10.00 ± 0.00", "70.00"]
    assert cells(table, "hybrid, linear") == ["85.00 ± 7.07", "", ""]
    reaches = "converted, maximum, best factor, reaches"
    assert cells(table, f"{reaches} hybrid, linear by T =") == ["over 64", "", ""]
    assert cells(table, f"{reaches} hybrid, STDB by T =") == ["64", "", ""]
    assert cells(table, "hybrid, STDB") == ["75.00 ± 1.00 (handed back)", "", ""]
    assert cells(page_conversion.evaluation_table("tiny"), "T = 4, linear") == ["20.00 ± 0.00", "85.00 ± 7.07"]
    scores = (page_conversion.read_seeds("tiny", "conversion"), page_conversion._hybrids("tiny"))
    assert page_conversion._scores(*scores, "100", "chosen") == pytest.approx({4: 0.3, 8: 0.55, 64: 0.8})
    assert page_conversion._scores(*scores, "99.7", "factor_1") == pytest.approx({8: 0.1, 64: 0.7})
    assert drawn(page_conversion.draw_conversion, "tiny", path=tmp_path / "a.png")
    assert drawn(page_conversion.draw_evaluation, "tiny", path=tmp_path / "e.png")


def test_an_ann_counts_once_however_many_hybrid_nets_start_from_it():
    runs = [{"config": {"seed": seed}, "ann": {"accuracy": a}} for seed, a in ((0, 0.9), (0, 0.9), (1, 0.9), (0, 0.8))]
    hybrids = {("linear", 4): runs[:2], ("stdb", 4): runs[2:]}
    assert page_conversion._with_different_anns(hybrids) == runs[1:]


def test_one_seed_and_one_stream_have_no_spread():
    assert numbers.over_seeds([{"accuracy": 0.5, "accuracy_std": 0.0}]) == "50.00"
    assert numbers.over_seeds([{"accuracy": 0.5}]) == "50.00"
    assert numbers.over_seeds([{"accuracy": 0.5, "accuracy_std": 0.01}]) == "50.00 ± 1.00"
    assert numbers.over_seeds([{"accuracy": 0.5}, {"accuracy": 0.52}]) == "51.00 ± 1.41"


def test_a_hybrid_runs_converted_net_counts_where_its_thresholds_are_the_rows(keep):
    keep_conversion(keep, {"4": measured(0.2, 0.4, 0.4), "8": measured(0.1, 0.4, 0.5)})
    own = {"accuracy": 0.9, "accuracy_std": 0.01, "scaling_factor": 0.8, "accuracy_by_step_at_factor_1": [0.3] * 4}
    keep("linear-t4", 0, config={"percentile": 99.7}, converted=own, hybrid={"accuracy": 0.8})
    table = page_conversion.conversion_table("tiny")
    assert cells(table, "converted, maximum, best factor") == ["40.00 (0.4)", "50.00 (0.4)"]
    assert cells(table, "converted, 99.7 percentile, best factor")[0] == "90.00 ± 1.00 (0.8)"
    assert cells(table, "converted, 99.7 percentile, factor 1")[0] == "20.00"  # not the run's own 30
    assert cells(table, "converted, maximum, best factor, reaches hybrid, linear by T =")[0] == "over 8"
    assert "STDB" not in table  # of which there is no hybrid net
    keep_conversion(keep, {"4": measured(0.2, 0.4, 0.6)}, seed=1)  # a seed of which there is no hybrid net
    table = page_conversion.conversion_table("tiny")
    assert cells(table, "converted, 99.7 percentile, best factor")[0] == "50.00 ± 14.14 (0.4)"
    assert "over the streams. All converted nets: 2 seeds, one stream each" in table


def test_compute_of_the_hybrid_run_and_from_scratch(keep, tmp_path):
    history = [{"validation_accuracy": 0.6}, {"validation_accuracy": 0.7}]
    seconds = {"train_ann": 60.0, "convert": 60.0, "finetune": 120.0}
    keep("linear-t4", 0, hybrid={"history": history, "accuracy": 0.7, "accuracy_std": 0.01}, seconds=seconds)
    slower = {name: 2 * value for name, value in seconds.items()}
    keep("linear-t4", 1, hybrid={"history": history, "accuracy": 0.7, "accuracy_std": 0.01}, seconds=slower)
    keep("scratch-linear", 0, hybrid={"history": history}, seconds=seconds, config={"start": "scratch"})
    table = page_scratch.scratch_table("tiny", 4)
    assert cells(table, "hybrid, linear (2 seeds)")[:2] == ["3", "2"]
    assert cells(table, "hybrid, linear (2 seeds)")[3:5] == ["4", "70.00 ± 0.00"]
    assert cells(table, "from scratch, linear (1 seed)")[:2] == ["0", "2"]
    assert cells(table, "from scratch, linear (1 seed)")[3] == "2"
    runs = page_scratch._runs("tiny", 4)
    hybrid, scratch = (page_scratch._path(runs[name][0]) for name in ("linear-t", "scratch-linear"))
    epoch = scratch[0][0]
    assert scratch == [(epoch, 0.6), (2 * epoch, 0.7)]
    conversion = (64 * 30 + 5000 * 4) / (3 * 55_000 * 4)  # one factor: the tiny run does not choose
    assert [operations / epoch for operations, _ in hybrid] == pytest.approx([n + 3 / 4 + conversion for n in range(3)])
    assert drawn(page_scratch.draw_scratch, "tiny", 4, path=tmp_path / "b.png")


def test_gains_steps_downhill_and_silence(keep, tmp_path):
    plain = {"hybrid_logit_scale": 1.0}
    for seed, accuracy in enumerate((0.52, 0.54)):
        streams = {"converted": [0.49, 0.51], "hybrid": [accuracy - 0.01, accuracy + 0.01]}
        keep("stdb-beta0.3", seed, config=plain | {"beta": 0.3}, streams=streams)
    keep("stdb-beta1", 0, config=plain | {"beta": 1.0}, streams=streams)
    linear = {"surrogate": "linear", "hybrid_lr": 1e-3}
    keep("linear-lr0.001", 0, config=linear, streams=streams)
    keep("linear-percentile", 0, config=linear | {"percentile": 99.7}, streams=streams)
    table = page_surrogates.surrogates_table("tiny")
    assert cells(table, "stdb, lr 3e-05, beta 0.3") == ["2", "50.00 ± 0.00", "53.00 ± 1.41", "+3.00 ± 1.41"]
    assert cells(table, "stdb, lr 3e-05, beta 1.0") == ["1", "50.00 ± 1.41", "54.00 ± 1.41", "+4.00 ± 0.00"]
    assert cells(table, "linear, lr 0.001, logit scale calibrated")[0] == "1"
    assert cells(table, "linear, lr 0.001, percentile 99.7, logit scale calibrated")[0] == "1"
    changes = {"loss": dict.fromkeys(LAYERS, -0.002), "accuracy": dict.fromkeys(LAYERS, 0.01)}
    keep("explain", 0, descent={"stdb, plain": changes})
    assert cells(page_surrogates.descent_table("tiny"), "stdb, plain")[1:] == ["-2.00"] * 4
    silent = {when: {"never": dict.fromkeys(LAYERS, share)} for when, share in (("before", 0.25), ("after", 0.5))}
    before = {"share": dict.fromkeys(LAYERS, 0.25), "loss": dict.fromkeys(LAYERS, -0.003)}
    for name in plan.HARMS:
        config = linear if name.startswith("linear") else plain
        after = {"share": dict.fromkeys(LAYERS, 0.5), "loss": dict.fromkeys(LAYERS, 1e-3 + 1e-3 * ("fast" in name))}
        agree = {"before": before, "after": after}
        keep(f"harm-{name}", 0, config=config, silence=silent, streams=streams, agreement=agree)
    rows = [line.split("|")[1:4] for line in page_surrogates.agreement_table("tiny").splitlines()[2:]]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert [row[2] for row in rows] == ["0.25", "-3.00", "0.50", "1.00", "0.50", "2.00"] * 2
    assert rows[0][:2] == ["stdb, before", "batches agree"]
    assert rows[9][:2] == ["linear, lr 0.001, logit scale calibrated, after", "a step changes the loss [10^-3 nats]"]
    table = page_surrogates.silence_table("tiny")
    assert cells(table, "before") == ["25.0"] * 4 + ["50.00 ± 1.41"]
    assert cells(table, "stdb, lr 3e-05")[:4] == ["50.0"] * 4
    epochs = {"converted": {"validation_accuracy": 0.5}}
    epochs["hybrid"] = {"history": [{"validation_accuracy": accuracy} for accuracy in (0.53, 0.48)]}
    assert page_surrogates._gains(epochs) == pytest.approx([0, 3, -2])
    assert drawn(page_surrogates.draw_harms, "tiny", path=tmp_path / "c.png")


def test_spikes_and_what_they_cost(keep):
    spikes = {"converted": dict.fromkeys(LAYERS, 1.0), "hybrid": dict.fromkeys(LAYERS, 0.5)}
    keep("linear-t4", 0, spikes_per_neuron=spikes)
    table = page_activity.activity_table("tiny", ("linear-t4",))
    assert cells(table, "T = 4, stdb: converted / hybrid") == ["2.00"] * 5
    assert cells(table, "T = 4, stdb: hybrid") == ["0.500"] * 5
    costs = page_activity.operations_table("tiny", ("linear-t4",))
    share, energy, even = map(float, cells(costs, "converted, T = 4, AC")[-3:])
    assert energy == pytest.approx(share * 0.9 / 4.6, abs=0.01)
    assert even == pytest.approx(4 * 4.6 / 0.9 / share, rel=0.02)


def test_the_papers_table_has_our_runs_beside_it(keep, monkeypatch):
    monkeypatch.setattr(page_paper, "OURS", (("tiny", "linear-t4", "tiny net"),))
    for seed, accuracy in enumerate((0.7, 0.8)):
        keep("linear-t4", seed, ann={"accuracy": 0.9}, hybrid={"accuracy": accuracy}, seconds={"evaluate": 120.0})
    table = page_paper.paper_table()
    assert cells(table, "VGG5 CIFAR-10, paper")[:4] == ["75", "87.88", "84.56", "86.91"]
    ours = cells(table, "tiny net, jsnn")
    assert ours[:2] == ["4", "90.00 ± 0.00"]
    assert ours[3:6] == ["75.00 ± 7.07", "3 + 2", "`python -m experiments.hybrid tiny`"]


def test_kept_numbers_have_few_digits_and_no_path_of_the_machine(keep, tmp_path):
    keep("linear-t4", 0, ann={"accuracy": 1 / 3}, config={"data_dir": "/somewhere"})
    kept = json.loads(results.results_path(tmp_path, "tiny", "linear-t4", 0).read_text())
    assert kept["ann"]["accuracy"] == 0.333333
    assert "data_dir" not in kept["config"]
    assert kept["environment"]["cpu_count"] >= 1
