"""The benchmark's figures, notes, tables and picture, from measurements that are set by hand."""

from matplotlib.figure import Figure

from experiments.benchmark import chart
from experiments.benchmark.problem import ANN, FLOOR, LINEAR, OURS, STDB, STEP_LOOP
from experiments.benchmark.report import markdown, medians


def records(contestant, seconds, num_steps=10, what="train", why_not=None, **measured):
    """One for each turn, and one for what ended them."""
    key = {"what": what, "net": "vgg5", "batch": 2, "num_steps": num_steps, "surrogate": STDB, "contestant": contestant}
    same = {"first": 9.0, "peak_bytes": 8e6, "rates": {"conv0": 0.1}, **measured}
    turns = [{**key, **same, "seconds": [second] if second else []} for second in seconds]
    return [*turns, {**key, "why_not": why_not}] if why_not else turns


def test_figures_by_hand():
    (row,) = medians(records(OURS, [3.0, 1.0, 2.0])).itertuples()
    assert (row.seconds, row.least, row.most, row.first, row.peak) == (2.0, 1.0, 3.0, 9.0, 8e6)
    (impatient,) = medians(records(OURS, [None], first=70.0)).itertuples()
    assert (impatient.seconds, impatient.least, impatient.most) == (70.0, 70.0, 70.0)
    (on_card,) = medians(records(OURS, [1.0], device_peak_bytes=3e6)).itertuples()
    assert on_card.peak == 3e6


def test_notes_by_hand():
    steps = {10: 8e6, 30: 8e6 + 625}
    lengths = [row for t in (30, 10) for row in records(OURS, [1.0], t, temporaries_bytes=steps[t], neurons=50)]
    bits = 8 * 625 / (50 * 2 * 20)
    assert f"they grow by {bits:.2f} bits per neuron and step at B=2 from T=10 to 30, stdb." in notes(*lengths)
    other = records(STEP_LOOP, [1.0], 30, rates={"conv0": 0.2})
    assert "mean of all layers: jsnn 0.100, PyTorch step loop 0.200; within a factor of 2.00" in notes(*lengths, *other)
    silent = records(STEP_LOOP, [1.0], 30, rates={"conv0": 0.0})
    assert "within a factor of inf" in notes(*lengths, *silent)


def notes(*measured):
    return markdown(medians(measured), [])


def test_the_tables_show_every_contestant_and_who_could_not():
    ours = records(OURS, [0.5], temporaries_bytes=3e6)
    floor = records(FLOOR, [0.25], rates=None, operations_per_second=2e11)
    peers = [*records(STEP_LOOP, [1.0]), *records("norse", [], why_not="over 240 s")]
    text = markdown(medians([*floor, *ours, *peers]), ["spyx"])
    rows = {row.split("|")[4].strip(): row for row in text.splitlines() if row.startswith("| vgg5")}
    assert list(rows) == ["floor: plain products at 200 GFLOP/s", OURS, STEP_LOOP, "norse"]
    assert "| 2.00 " in rows[OURS]
    assert "| 50% " in rows[OURS]
    assert "over 240 s" in rows["norse"]
    assert "temporaries of jsnn's compiled step: 3 MB at B=2, T=10, stdb" in text
    assert "absent: spyx" in text


def test_the_overview_has_a_column_for_each_shape_and_the_ann_in_each():
    ann = records(ANN, [0.2], 1, rates=None, peak_bytes=1e9)
    linear = [record | {"surrogate": LINEAR} for record in records(OURS, [0.6], peak_bytes=3e9)]
    slow = records(STEP_LOOP, [None], first=70.0, peak_bytes=2e9)
    text = markdown(medians([*ann, *records(OURS, [0.5], peak_bytes=2e9), *slow, *linear]), [])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.split("\n\n")[1].splitlines()]
    assert cells[0] == ["", "B=2, T=10, stdb", "B=2, T=10, linear"]
    assert cells[2] == [OURS, "0.50 (2.00 GB)", "0.60 (3.00 GB)"]
    assert cells[3] == [STEP_LOOP, "once 70.0 (2.00 GB)", "-"]
    assert cells[4] == [ANN, "0.20 (1.00 GB)", "0.20 (1.00 GB)"]
    (row,) = (line.split("|") for line in text.splitlines() if LINEAR in line and "0.600 (" in line)
    assert row[9].strip() == "3.0"  # in steps of the ANN


def test_the_picture_shows_no_time_of_a_first_call_alone():
    slow = [*records("spyx", [None], 4, first=70.0, peak_bytes=2e9), *records("spyx", [None], 16, first=90.0)]
    rows = medians([*records(OURS, [0.5], 4), *records(OURS, [2.0], 16), *slow])
    rows["gigabytes"] = rows.peak / 1e9
    for values, shown, steps in (("seconds", [0.5], [16]), ("gigabytes", [2.0, 0.008], [16, 16])):
        bars, lines = Figure().subplots(1, 2)
        chart._bars(bars, rows[rows.num_steps == 4], values)
        chart._lines(lines, rows[rows.num_steps == 16], values)
        assert [bar.get_width() for bar in bars.patches if bar.get_width() > 0] == shown
        assert [label.get_text() for label in bars.get_yticklabels()] == ["spyx", OURS]
        assert [step for line in lines.lines for step in line.get_xdata()] == steps


def test_the_table_of_balancing_compares_thresholds():
    ours = records(OURS, [1.0], what="balance", thresholds={"conv0": 1.0, "conv1": 3.0})
    loop = records(STEP_LOOP, [4.0], what="balance", thresholds={"conv0": 1.0, "conv1": 2.0})
    text = markdown(medians([*ours, *loop]), [])
    (row,) = (row for row in text.splitlines() if "jsnn, in one pass" in row)
    assert [cell.strip() for cell in row.split("|")[-3:-1]] == ["4.00", "5.0e-01"]
