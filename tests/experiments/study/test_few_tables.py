"""The tables of question f, from results whose numbers are set by hand."""

import pytest

from experiments.fields import TRAINED
from experiments.study import plan, tables
from experiments.study.results import read_runs
from tests.experiments.study.tiny_study import LAYERS, cells, keep

__all__ = ["keep"]  # a fixture


def keep_run(keep, recipe, num_steps, hybrid, converted=0.7, seed=0, **changes):
    convert = {"num_steps": num_steps, "encoding": "constant"}
    scores = {"converted": {"accuracy": converted}, "hybrid": {"accuracy": hybrid}}
    keep(f"vgg5-{recipe}-t{num_steps}", seed, convert=convert, **scores, **changes)


@pytest.fixture
def runs(keep, tmp_path):
    for seed, ann in enumerate((0.80, 0.82)):
        keep("vgg5-relu", seed, ann={"accuracy": ann})
        keep("vgg5-qcfs", seed, ann={"accuracy": ann + 0.01})
        keep_run(keep, "qcfs", 2, 0.7, seed=seed)
        keep_run(keep, "qcfs-diet", 2, ann - 0.02 + 0.01 * seed, seed=seed)
    return read_runs(tmp_path)


def test_hybrid_nets_stand_beside_their_anns_seed_by_seed(runs):
    table = tables.accuracy_table(runs)
    rows = {line.split("|")[2].strip(): [cell.strip() for cell in line.split("|")[3:-1]] for line in table.splitlines()}
    assert rows["ReLU"][0] == "81.00 ± 1.41"
    assert rows["QCFS"][0] == "82.00 ± 1.41"
    assert rows["qcfs"] == ["", "", "70.00 ± 0.00", "", ""]
    assert rows["qcfs-diet"][2] == "79.50 ± 2.12"
    assert rows["qcfs-diet above the ReLU ANN"][2] == "-1.50 ± 0.71"
    assert rows["qcfs-diet above qcfs"][2] == "+9.50 ± 2.12"
    assert "qcfs, converted" not in rows


def test_recipes_that_balance_also_show_their_converted_nets(keep, tmp_path):
    keep("vgg5-relu", 0, ann={"accuracy": 0.8})
    keep("vgg5-qcfs", 0, ann={"accuracy": 0.8})
    keep_run(keep, "diet", 4, 0.75, converted=0.6)
    assert "| diet, converted " in (table := tables.accuracy_table(read_runs(tmp_path)))
    assert "60.00" in table
    assert "above" not in table  # there is no net of qcfs-diet


def test_early_exit_costs_are_told_where_there_is_more_than_one_step(keep, tmp_path):
    keep_run(keep, "qcfs", 1, 0.6, early_exit={"accuracy": 0.6, "steps": 1.0})
    keep_run(keep, "qcfs", 4, 0.8, early_exit={"accuracy": 0.79, "steps": 2.5})
    table = tables.exit_table(read_runs(tmp_path))
    assert cells(table, "vgg5") == ["qcfs", "4", "80.00", "79.00", "2.50"]
    assert len(table.splitlines()) == 3


def test_training_costs_are_those_of_ann_conversion_and_snn(runs, monkeypatch):
    costs = {"ann epoch": 2e12, "conversion": 5e12, "snn epoch": 0.5e12}
    monkeypatch.setattr(tables, "operations_of_training", lambda config: costs)
    run = tables.of_recipes(runs).iloc[0]
    total = run["ann/epochs"] * 2 + 5 + run["hybrid/epochs"] * 0.5
    row = tables.cost_table(runs).splitlines()[-1].split("|")
    assert [cell.strip() for cell in row[2:-1]] == ["qcfs-diet", "2", "3", "2", f"{total:.1f}", "79.50 ± 2.12"]


def keep_part(keep, name, hybrid, seed=0, **finetune):
    scores = {"converted": {"accuracy": 0.7}, "hybrid": {"accuracy": hybrid}}
    keep(name, seed, convert={"num_steps": 2}, finetune=finetune, **scores)


def test_parts_are_compared_seed_by_seed(keep, tmp_path):
    *by_labels, by_channel = plan.PARTS
    for name in by_labels:
        keep_part(keep, name, 0.75, trained=plan.PARTS[name]["finetune.trained"], distillation=0.0)
    for name, of_channels in (("vgg5-qcfs-diet-t2", False), (by_channel, True)):
        for seed, hybrid in enumerate((0.78, 0.82)):
            keep_part(keep, name, hybrid, seed, trained=TRAINED, distillation=0.5, by_channel=of_channels)
    keep_part(keep, "part-weights", 0.77, seed=1, trained=("weights",), distillation=0.0)
    keep_part(keep, "vgg5-qcfs-diet-t2", 0.2, seed=2, trained=TRAINED, distillation=0.5)  # has no parts
    table = tables.parts_table(read_runs(tmp_path), 2)
    assert cells(table, "weights  ") == ["labels", "76.00 ± 1.41", "+6.00 ± 1.41", "0.00 ± 0.00"]
    assert cells(table, "weights, threshold ") == ["labels", "75.00", "+5.00", "0.00"]
    distilled = "\n".join(line for line in table.splitlines() if "logits" in line)
    for row in ("all", "all, by channel"):
        assert cells(distilled, row) == ["labels, logits", "80.00 ± 2.83", "+10.00 ± 2.83", "+4.00 ± 1.41"]
    assert len(table.splitlines()) == 2 + len(plan.PARTS) + 1


def test_penalties_show_accuracy_and_what_an_image_costs(keep, tmp_path):
    for trial, penalty, spikes in (("rate-1", 1.0, 0.1), ("vgg5-qcfs-diet-t4", 0.0, 0.2)):
        scores = {"spikes_per_neuron": {"hybrid": dict.fromkeys(LAYERS, spikes)}, "hybrid": {"accuracy": 0.75}}
        keep(trial, 0, finetune={"rate_penalty": penalty}, **scores)
    table = tables.rates_table(read_runs(tmp_path), 4)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["0", "1"]
    free, saving = (cells(table, penalty) for penalty in "01")
    assert free[0] == saving[0] == "75.00"
    assert free[1] == saving[1]  # the first layer sees the image, whatever spikes
    assert float(free[-3]) > float(saving[-3])
    assert float(free[-1]) > float(saving[-1]) > 0


def test_bytes_stand_beside_exact_residuals_seed_by_seed(keep, tmp_path):
    for seed, accuracy in enumerate((0.90, 0.91)):
        keep_run(keep, "qcfs-diet", 8, accuracy, seed=seed)
        keep("byte-t8", seed, hybrid={"accuracy": accuracy + 0.001, "validation_accuracy": 0.95 - 0.001 * seed})
    table = tables.residuals_table(read_runs(tmp_path), 8)
    assert cells(table, "the net that is kept, test [%]") == ["90.50 ± 0.71", "90.60 ± 0.71", "+0.10 ± 0.00"]
    assert cells(table, "the fine-tuned net, validation [%]")[1] == "94.95 ± 0.07"
