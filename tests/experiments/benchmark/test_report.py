"""The benchmark's figures, tables and picture, from measurements that are set by hand; and the page's own."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.benchmark import chart, report
from experiments.benchmark.report import by_shape, markdown, medians
from experiments.benchmark.roster import FLOOR, LINEAR, OURS, STDB, STEP_LOOP


def records(contestant, seconds, num_steps=10, what="train", why_not=None, **measured):
    """One for each turn, and one for what ended them."""
    key = {"what": what, "net": "vgg5", "batch": 2, "num_steps": num_steps, "surrogate": STDB, "contestant": contestant}
    same = {"first": 9.0, "peak_bytes": 8e6, "rates": {"conv0": 0.1}, **measured}
    turns = [{**key, **same, "seconds": [second] if second else []} for second in seconds]
    return [*turns, {**key, "why_not": why_not}] if why_not else turns


def figures(*measured):
    return list(medians([record for one in measured for record in one]).itertuples())


def test_figures_by_hand():
    (row,) = figures(records(OURS, [3.0, 1.0, 2.0]))
    assert (row.seconds, row.slowest, row.first, row.gigabytes, row.images_per_second) == (2.0, 1.5, 9.0, 0.008, 1.0)
    (impatient,) = figures(records(OURS, [None], first=70.0))
    assert np.isnan(impatient.seconds)  # a first call alone is no fair time
    assert impatient.first == 70.0
    (on_card,) = figures(records(OURS, [1.0], device_peak_bytes=3e6))
    assert on_card.gigabytes == 0.003
    ours = records(OURS, [1.0], what="balance", thresholds={"conv0": 1.0, "conv1": 3.0})
    _, loop = figures(ours, records(STEP_LOOP, [4.0], what="balance", thresholds={"conv0": 1.0, "conv1": 2.0}))
    assert loop.difference == 0.5


def test_bits_are_what_more_time_steps_add():
    steps = {10: 8e6, 30: 8e6 + 625}
    long, short = figures(*(records(OURS, [1.0], t, temporaries_bytes=steps[t], neurons=50) for t in (30, 10)))
    assert long.bits == pytest.approx(8 * 625 / (50 * 2 * 20))
    assert np.isnan(short.bits)
    assert short.temporaries == 0.008


@pytest.mark.parametrize(("rate", "factor"), [(0.2, 2.0), (0.05, 2.0), (0.0, np.inf)])
def test_firing_rates_are_compared_by_layer(rate, factor):
    _, row = figures(records(OURS, [1.0]), records(STEP_LOOP, [1.0], rates={"conv0": rate}))
    assert (row.agreement, row.rate) == (factor, rate)


def cells(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_a_table_has_a_column_for_each_shape_and_a_row_for_each_contestant():
    floor = records(FLOOR, [0.25], rates=None, peak_bytes=None, operations_per_second=2e11)
    linear = [record | {"surrogate": LINEAR} for record in records(OURS, [0.6], peak_bytes=3e9)]
    slow = records(STEP_LOOP, [None], first=70.0, peak_bytes=2e9)
    ended = records("norse", [0.7], why_not="over 240 s")
    rows = medians([*floor, *records(OURS, [0.5], peak_bytes=2e9), *slow, *ended, *linear])
    head, _, *seconds = cells(by_shape(rows, "seconds"))
    assert head == ["", "B=2, T=10, stdb", "B=2, T=10, linear"]
    loop = [STEP_LOOP, "once 70.0", ""]
    assert seconds == [[FLOOR, "0.25", ""], [OURS, "0.50", "0.60"], loop, ["norse", "over 240 s", ""]]
    assert cells(by_shape(rows, "gigabytes"))[2:4] == [[OURS, "2.00", "3.00"], [STEP_LOOP, "2.00", ""]]
    text = markdown(rows, ["spyx"])
    assert "Training, vgg5: GFLOP/s of plain products\n\n" in text
    assert "absent: spyx" in text


def test_the_page_shows_the_kept_measurements(tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(report.PAGE.read_text())
    report.rebuild(copy, tmp_path / "picture.png")
    assert copy.read_text() == report.PAGE.read_text()
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_a_named_line_for_each_contestant_that_was_called_again():
    slow = [*records("spyx", [None], 4, first=70.0), *records("norse", [1.0], 4), *records("norse", [3.0], 16)]
    rows = medians([*records(OURS, [0.5], 4), *records(OURS, [2.0], 16), *slow])
    _, axes = plt.subplots()
    chart._panel(axes, rows[rows.seconds.notna()], "seconds")
    plt.close()
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.5, 2.0], [1.0, 3.0]]
    assert [text.get_text() for text in axes.texts] == [OURS, "norse"]
    assert [line.get_color() for line in axes.lines] == [chart.OURS_COLOR, chart.GREY]


def test_no_picture_is_drawn_of_the_floor_alone(tmp_path):
    chart.draw(medians(records(FLOOR, [1.0], rates=None)), tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()


def test_names_do_not_overlap():
    moved = chart.spread([0.1, 0.5, 0.51, 0.9], 0.05)
    assert np.diff(moved).min() >= 0.05 - 1e-6
    assert moved == pytest.approx([0.1, 0.48, 0.53, 0.9])
