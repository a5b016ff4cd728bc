"""The study's results as they are kept and read: each number with its run and its conditions."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from experiments.study import results
from experiments.study.results import kept, measurements
from tests.experiments.study.conftest import ENVIRONMENT


def test_each_number_has_its_conditions(keep):
    keep("linear-t4", 2, streams={"hybrid": [0.5, 0.6]}, descent={"stdb, plain": {"loss": {"conv0": -1.0}}})
    tests = {"test": {"8": {"factor": 0.4, "chosen": 0.2}}}
    runs = keep("conversion", 0, percentiles={"99.7": tests}, convert={"num_steps": 8})
    named = runs[["preset", "trial", "seed", "T"]].values.tolist()
    assert named == [["tiny", "conversion", 0, 8], ["tiny", "linear-t4", 2, 4]]
    assert not runs[results.RUN_COLUMNS].isna().any(axis=None)
    streams = measurements(runs, "streams/(?P<net>.+)")[["trial", "seed", "net", "step", "value"]]
    assert streams.values.tolist() == [["linear-t4", 2, "hybrid", 1, 0.5], ["linear-t4", 2, "hybrid", 2, 0.6]]
    (descent,) = measurements(runs, "descent/(?P<gradient>.+)/(?P<score>.+)/(?P<layer>.+)").itertuples()
    assert (descent.gradient, descent.score, descent.layer, descent.value) == ("stdb, plain", "loss", "conv0", -1)
    (chosen,) = measurements(runs, "percentiles/(?P<percentile>.+)/test/(?P<steps>.+)/chosen").itertuples()
    assert (chosen.trial, chosen.percentile, chosen.steps, chosen.value) == ("conversion", "99.7", "8", 0.2)


def test_measurements_come_run_by_run(keep):
    for seed in (0, 1):
        runs = keep("stdb-t4", seed, silence={when: {"never": {"conv0": seed / 2}} for when in ("before", "after")})
    data = measurements(runs, "silence/(?P<net>.+)/never/(?P<layer>.+)")[["seed", "net", "value"]]
    assert data.values.tolist() == [[0, "before", 0.0], [0, "after", 0.0], [1, "before", 0.5], [1, "after", 0.5]]


def test_kept_numbers_have_few_digits_and_no_path_of_the_machine(keep, tmp_path):
    keep("everything", 0, ann={"accuracy": 1 / 3})
    (own,) = kept(tmp_path, "tiny").values()
    assert (own["trial"], own["ann"]) == ("everything", {"accuracy": 0.333333, "epochs": 3})
    assert "run" not in own["config"]
    assert own["environment"] == ENVIRONMENT


def test_a_run_replaces_its_own_line_alone(keep, tmp_path):
    for trial, seed in (("linear-t4", 1), ("ann", 0), ("linear-t4", 0)):
        keep(trial, seed, ann={"accuracy": 0.1})
    before = (tmp_path / "tiny.jsonl").read_text().splitlines()
    keep("linear-t4", 0, ann={"accuracy": 0.9})
    after = (tmp_path / "tiny.jsonl").read_text().splitlines()
    assert [*kept(tmp_path, "tiny")] == [("ann", 0), ("linear-t4", 0), ("linear-t4", 1)]
    assert (after[0], after[2]) == (before[0], before[2])
    assert kept(tmp_path, "tiny")["linear-t4", 0]["ann"]["accuracy"] == 0.9
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.jsonl"]


def test_of_runs_that_end_at_once_none_is_lost(keep, tmp_path):
    with ThreadPoolExecutor(8) as threads:  # whose descriptors are locked as those of processes are
        list(threads.map(partial(keep, "ann"), range(8)))
    assert [seed for _, seed in kept(tmp_path, "tiny")] == list(range(8))


@pytest.mark.parametrize("damage", ["{", "[]", '{"trial": "ann"}'])
def test_a_damaged_line_is_named(damage, keep, tmp_path):
    keep("ann", 0)
    with (tmp_path / "tiny.jsonl").open("a") as file:
        file.write(damage + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*tiny.jsonl is damaged .*: mend it, or delete it"):
        kept(tmp_path, "tiny")
