"""The study's results as they are kept and read: each number with its run and its conditions."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from experiments.machine import environment
from experiments.study import results
from experiments.study.results import kept, measurements, read_runs
from tests.experiments.study.tiny_study import ENVIRONMENT, TEMPLATE, keep, measured

__all__ = ["keep"]  # a fixture


def test_each_number_has_its_conditions(keep, tmp_path):
    keep("linear-t4", 2, streams={"hybrid": [0.5, 0.6]}, descent={"stdb, plain": {"loss": {"conv0": -1.0}}})
    keep("conversion", 0, percentiles={"99.7": {"test": {"8": measured(0.1, 0.4, 0.2)}}}, convert={"num_steps": 8})
    runs = read_runs(tmp_path)
    assert list(zip(runs.preset, runs.trial, runs.seed, runs["T"], strict=True)) == [
        ("tiny", "conversion", 0, 8),
        ("tiny", "linear-t4", 2, 4),
    ]
    assert not runs[results.RUN_COLUMNS].isna().any(axis=None)
    streams = measurements(runs, "streams/(?P<net>.+)")
    assert list(zip(streams.trial, streams.seed, streams.net, streams.step, streams.value, strict=True)) == [
        ("linear-t4", 2, "hybrid", 1, 0.5),
        ("linear-t4", 2, "hybrid", 2, 0.6),
    ]
    (descent,) = measurements(runs, "descent/(?P<gradient>.+)/(?P<score>.+)/(?P<layer>.+)").itertuples()
    assert (descent.gradient, descent.score, descent.layer, descent.value) == ("stdb, plain", "loss", "conv0", -1)
    (chosen,) = measurements(runs, "percentiles/(?P<percentile>.+)/test/(?P<steps>.+)/chosen").itertuples()
    assert (chosen.trial, chosen.percentile, chosen.steps, chosen.value) == ("conversion", "99.7", "8", 0.2)


def test_measurements_come_run_by_run(keep, tmp_path):
    for seed in (0, 1):
        keep("stdb-t4", seed, silence={when: {"never": {"conv0": seed / 2}} for when in ("before", "after")})
    data = measurements(read_runs(tmp_path), "silence/(?P<net>.+)/never/(?P<layer>.+)")
    assert list(zip(data.seed, data.net, data.value, strict=True)) == [
        (0, "before", 0.0),
        (0, "after", 0.0),
        (1, "before", 0.5),
        (1, "after", 0.5),
    ]


def test_kept_numbers_have_few_digits_and_no_path_of_the_machine(tmp_path):
    run = copy.deepcopy(TEMPLATE)
    run["ann"]["accuracy"], run["config"]["run"]["data_dir"] = 1 / 3, "/somewhere"
    results.keep(tmp_path / "new", "tiny", "everything", run)
    (line,) = (tmp_path / "new" / "tiny.jsonl").read_text().splitlines()
    own = json.loads(line)
    assert own["trial"] == "everything"
    assert own["ann"] == {"accuracy": 0.333333, "epochs": 3}
    assert "run" not in own["config"]
    assert own["environment"] == environment()


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


def test_of_runs_that_end_at_once_none_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "environment", lambda: ENVIRONMENT)
    runs = [copy.deepcopy(TEMPLATE) for _ in range(8)]
    for seed, run in enumerate(runs):
        run["config"]["seed"] = seed
    with ThreadPoolExecutor(8) as threads:  # whose descriptors are locked as those of processes are
        list(threads.map(partial(results.keep, tmp_path, "tiny", "ann"), runs))
    assert [seed for _, seed in kept(tmp_path, "tiny")] == list(range(8))


@pytest.mark.parametrize("damage", ["{", "[]", '{"trial": "ann"}'])
def test_a_damaged_line_is_named(damage, keep, tmp_path):
    keep("ann", 0)
    with (tmp_path / "tiny.jsonl").open("a") as file:
        file.write(damage + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*tiny.jsonl is damaged .*: mend it, or delete it"):
        kept(tmp_path, "tiny")
