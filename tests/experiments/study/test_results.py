"""The study's results as they are kept and read: each number with its run and its conditions."""

import json

import pytest

from experiments.runs.records import read_results
from experiments.study import results
from experiments.study.results import measurements, read_runs, write_results
from tests.experiments.study.tiny_study import keep, measured

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


def test_a_learning_curve_begins_with_the_converted_net(keep, tmp_path):
    history = [{"validation_accuracy": accuracy} for accuracy in (0.53, 0.48)]
    for seed, before in enumerate((0.4, None)):  # older runs kept what chose their factor
        hybrid = {"history": history, "validation_accuracy_before": before}
        keep("harm-stdb", seed, converted={"validation_accuracy": 0.5}, hybrid=hybrid)
    curves = [results.learning_curve(run).to_dict() for _, run in read_runs(tmp_path).iterrows()]
    assert curves == [pytest.approx({0: start, 1: 0.53, 2: 0.48}) for start in (0.4, 0.5)]


def test_kept_numbers_have_few_digits_and_no_path_of_the_machine(tiny, tmp_path):
    results = read_results(tiny)
    results["ann"]["accuracy"], results["config"]["run"]["data_dir"] = 1 / 3, "/somewhere"
    write_results(tmp_path / "results.json", results)
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["ann"]["accuracy"] == 0.333333
    assert kept["ann"]["epochs"] == 3
    assert kept["config"]["run"]["data_dir"] is None
    assert "compile_seconds" not in kept
    assert kept["environment"]["cpu_count"] >= 1
