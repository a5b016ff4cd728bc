"""The benchmark's tables in Markdown."""

from collections.abc import Iterator, Sequence

from experiments.benchmark.figures import (
    growth_in_bits,
    largest_ratio_of_rates,
    mean_rate,
    median_of,
    peak_of,
    seconds_of,
)
from experiments.benchmark.roster import OURS, STEP_LOOP
from experiments.benchmark.series import Record, of_kind
from experiments.reports.table import aligned

MB = 1e6
TRAINING = (
    "net", "B", "T", "contestant", "s per step (least to most)", "images/s", "step loop's time over it",
    "share of the floor", "peak memory, MB", "first step, s", "compiling in all, s",
)  # fmt: skip
EVALUATION = ("net", "B", "T", "contestant", "s per batch (least to most)", "images/s", "step loop's time over it")
BALANCING = ("net", "B", "T", "way", "s (least to most)", "layer by layer's time over it", "largest difference")
MISSING = "-"


def markdown(records: Sequence[Record], neurons: dict[str, int], absent: Sequence[str]) -> str:
    """All tables and notes.

    Args:
        records: what was measured.
        neurons: net -> spiking neurons for one image.
        absent: contestants that are not installed.

    Returns:
        The text.
    """
    parts = [f"Training\n\n{aligned([TRAINING, *_training(records)])}"]
    parts += _notes(records, neurons)
    parts += [f"Not installed, so absent: {', '.join(absent)}."] if absent else []
    if of_kind(records, "balance"):
        parts.append(f"Balancing of thresholds, compilation included\n\n{aligned([BALANCING, *_balancing(records)])}")
    if of_kind(records, "evaluate"):
        parts.append(f"Evaluation\n\n{aligned([EVALUATION, *_evaluation(records)])}")
    return "\n\n".join(parts) + "\n"


def _training(records: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    """Rows of the training table: for each net and shape the floor, then the contestants."""
    for record in of_kind(records, "train"):
        floor, loop = _peer(records, "rate", record, OURS), _peer(records, "train", record, STEP_LOOP)
        if record.contestant == OURS and floor:
            yield _floor_row(floor)
        if record.why_not:
            yield (*_where(record), record.why_not, *[MISSING] * 6)
            continue
        seconds = seconds_of(record)
        yield (
            *_where(record),
            _spread(record),
            f"{record.batch / seconds.median:.1f}",
            _ratio(loop, seconds.median),
            f"{seconds_of(floor).median / seconds.median:.0%}" if floor else MISSING,
            f"{peak_of(record) / MB:.0f}",
            f"{seconds.first:.1f}",
            _number(median_of(record, "compile"), ".1f"),
        )


def _floor_row(floor: Record) -> tuple[str, ...]:
    """What a training step's plain products take at the machine's rate; jsnn's own are fewer."""
    seconds = seconds_of(floor).median
    rate = median_of(floor, "operations_per_second") / 1e9
    name = f"floor: plain products at {rate:.0f} GFLOP/s"
    return (*_where(floor)[:3], name, f"{seconds:.3f}", f"{floor.batch / seconds:.1f}", *[MISSING] * 5)


def _evaluation(records: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    """Rows of the evaluation table."""
    for record in of_kind(records, "evaluate"):
        if record.why_not:
            yield (*_where(record), record.why_not, MISSING, MISSING)
            continue
        median = seconds_of(record).median
        loop = _peer(records, "evaluate", record, STEP_LOOP)
        yield (*_where(record), _spread(record), f"{record.batch / median:.1f}", _ratio(loop, median))


def _balancing(records: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    """Rows of the balancing table; thresholds are compared with those found layer by layer."""
    for record in of_kind(records, "balance"):
        name = "jsnn, in one pass" if record.contestant == OURS else "PyTorch, layer by layer"
        if record.why_not:
            yield (*_where(record)[:3], name, record.why_not, MISSING, MISSING)
            continue
        loop = _peer(records, "balance", record, STEP_LOOP)
        difference = _difference(record, loop) if loop else MISSING
        yield (*_where(record)[:3], name, _spread(record), _ratio(loop, seconds_of(record).median), difference)


def _notes(records: Sequence[Record], neurons: dict[str, int]) -> Iterator[str]:
    """Firing rates, temporaries and the growth of memory."""
    training = [record for record in of_kind(records, "train") if record.found]
    for net in dict.fromkeys(record.net for record in training):
        of_net = [record for record in training if record.net == net]
        shapes = dict.fromkeys((record.batch, record.num_steps) for record in of_net)
        by_shape = [[record for record in of_net if (record.batch, record.num_steps) == shape] for shape in shapes]
        rates = ", ".join(f"{record.contestant} {mean_rate(record):.3f}" for record in by_shape[0])
        worst = max(map(largest_ratio_of_rates, by_shape))
        yield f"{net}: spikes per neuron and step, mean of all layers: {rates}; within a factor of {worst:.2f} in each."
        ours = [record for record in of_net if record.contestant == OURS]
        if not ours:
            continue
        temporaries = (f"{median_of(r, 'temporaries_bytes') / MB:.0f} MB at B={r.batch}, T={r.num_steps}" for r in ours)
        yield f"{net}: temporaries of jsnn's compiled step: {', '.join(temporaries)}."
        yield from _growth(net, ours, neurons[net])


def _growth(net: str, ours: Sequence[Record], neurons: int) -> Iterator[str]:
    """The growth of jsnn's memory from the middle to the longest number of steps of one batch."""
    for batch in dict.fromkeys(record.batch for record in ours):
        by_length = sorted((record for record in ours if record.batch == batch), key=lambda record: record.num_steps)
        if len(by_length) > 1:
            short, long = by_length[-2:]
            bits = growth_in_bits(short, long, neurons)
            span = f"T={short.num_steps} to {long.num_steps}"
            yield f"{net}: they grow by {bits:.2f} bits per neuron and step at B={batch} from {span}."


def _peer(records: Sequence[Record], what: str, like: Record, name: str) -> Record | None:
    """The record of another contestant or kind of work for the same net and shape, if it finished."""
    same = (what, like.net, like.batch, like.num_steps, name)
    return next((record for record in records if record[:5] == same and not record.why_not), None)


def _where(record: Record) -> tuple[str, str, str, str]:
    return record.net, str(record.batch), str(record.num_steps), record.contestant


def _spread(record: Record) -> str:
    seconds = seconds_of(record)
    return f"{seconds.median:.3f} ({seconds.least:.3f} to {seconds.most:.3f})"


def _ratio(loop: Record | None, median: float) -> str:
    return f"{seconds_of(loop).median / median:.2f}" if loop else MISSING


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else format(value, form)


def _difference(record: Record, loop: Record) -> str:
    """The largest relative difference of thresholds."""
    one, other = (each.found[0]["thresholds"] for each in (record, loop))
    return f"{max(abs(one[layer] / other[layer] - 1) for layer in other):.1e}"
