"""experiments/README.md says what the kept results say, and these are of today's presets."""

import re
from itertools import chain
from statistics import mean, stdev

import pytest

from experiments.config import difference, from_json
from experiments.fields import Config
from experiments.study import page
from experiments.study.plan import ANN, SCRATCH_BEST, SCRATCH_RATES, STUDIES, config_of_trial
from experiments.study.results import RESULTS, kept


def runs_of(preset, trial):
    """The results of a trial, of all seeds that were run, in their order."""
    return [run for (name, _), run in sorted(kept(RESULTS, preset).items()) if name == trial]


def test_the_page_made_anew_is_the_page_and_shows_all_pictures(tmp_path):
    """Its tables are those of the results; pictures of another matplotlib differ in bytes."""
    copy = tmp_path / "README.md"
    copy.write_bytes(page.PAGE.read_bytes())
    page.rebuild(copy)
    assert copy.read_bytes() == page.PAGE.read_bytes()
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert sorted(pictures) == sorted(re.findall(r"!\[.*?\]\(figures/(.*?)\)", copy.read_text()))
    assert pictures.keys() == {f"{name}.png" for name in page.PLOTS}
    assert all((page.PAGE.parent / "figures" / name).is_file() for name in pictures)


def test_tables_go_into_their_blocks_be_they_empty_and_one_without_is_missed():
    text = "<!-- one -->\n<!-- end -->\ntext\n<!-- two -->\n| old |\n<!-- end -->\n"
    expected = "<!-- one -->\n| 1 |\n<!-- end -->\ntext\n<!-- two -->\n| 2 |\n<!-- end -->\n"
    assert page.with_tables(text, {"one": "| 1 |", "two": "| 2 |"}) == expected
    with pytest.raises(ValueError, match=r"the page must have one block for each of paper, one, it has other"):
        page.with_tables("<!-- other -->\n<!-- end -->", {"paper": "", "one": ""})


def test_what_is_kept_is_of_the_plan():
    """A preset or trial that changes must be run again."""
    assert {path.stem for path in RESULTS.iterdir()} == {*STUDIES}
    last_groups = {"ann": "ann", "conversion": "convert"}  # that matter to trials without a fine-tune
    for preset, questions in STUDIES.items():
        trials = {trial.name: trial for trial in chain([ANN], *questions.values())}
        for (trial, seed), run in kept(RESULTS, preset).items():
            planned = config_of_trial(preset, trials[trial], seed)
            differs = difference(from_json(run["config"]), planned, last_groups.get(trial, "evaluate"))
            assert differs is None, (preset, trial)


@pytest.mark.parametrize(
    ("preset", "trial", "least_ann", "most_below", "most_minutes"),
    [("fashion_mnist_cpu", "linear-t8", 0.91, 0.015, 30), ("cifar10_cpu", "linear-t32", 0.78, 0.03, 100)],
)
def test_the_hybrid_net_is_near_the_ann_and_above_the_converted_net(preset, trial, least_ann, most_below, most_minutes):
    """Above by more than the spread over seeds, or over streams where there is one seed."""
    runs = runs_of(preset, trial)
    assert max(sum(run["seconds"].values()) for run in runs) <= 60 * most_minutes
    ann, converted, hybrid = ([run[net]["accuracy"] for run in runs] for net in ("ann", "converted", "hybrid"))
    assert min(ann) >= least_ann
    assert mean(ann) - mean(hybrid) <= most_below
    spreads = [stdev(values) for values in (converted, hybrid)] if len(runs) > 1 else []
    spreads += [run[net]["accuracy_std"] for run in runs for net in ("converted", "hybrid")]
    assert mean(hybrid) - mean(converted) > max(spreads)


def test_cifar10s_hybrid_net_is_above_those_of_the_better_thresholds_and_the_default_rate_lost_nowhere():
    default, trials = Config().finetune.lr, ("linear-t32", "maximum-lr{:g}", "maximum-lr0.001")
    (hybrid,), (slow,), (fast,) = (runs_of("cifar10_cpu", trial.format(default)) for trial in trials)
    best = max(run["converted"]["accuracy"] for run in (hybrid, slow))
    assert hybrid["hybrid"]["accuracy"] - best > hybrid["hybrid"]["accuracy_std"]
    assert (slow["hybrid"]["kept"], fast["hybrid"]["kept"]) == ("fine-tuned", "converted")


@pytest.mark.parametrize("surrogate", SCRATCH_RATES)
def test_from_scratch_each_surrogate_has_the_best_of_the_rates_that_were_tried(surrogate):
    rates = SCRATCH_RATES[surrogate]
    runs = {rate: runs_of("fashion_mnist_cpu", f"scratch-{surrogate}-lr{rate:g}")[0] for rate in rates}
    assert max(runs, key=lambda rate: mean(runs[rate]["streams"]["hybrid"])) == SCRATCH_BEST[surrogate]
