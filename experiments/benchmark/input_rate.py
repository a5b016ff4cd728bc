"""How many training images a second this machine reads, decodes, crops and resizes for a network.

python -m experiments.benchmark.input_rate [--data-dir DIR] [--workers N]
"""

import sys
import time
from dataclasses import dataclass
from itertools import chain, count, islice

import tyro

from experiments.runs.command_line import guarded
from experiments.runs.progress import say
from jsnn.data.datasets import TRAIN, info
from jsnn.data.streaming import streamed_source


@dataclass(frozen=True)
class Arguments:
    """Which stream to time."""

    dataset: str = "imagenet2012"  # A streamed data set.
    data_dir: str | None = None  # Folder of prepared TFDS data sets.
    workers: int = 0  # Processes that decode; 0 decodes in threads.
    batch_size: int = 20  # Images of a batch.
    batches: int = 100  # Batches that are timed, after as many that are not.
    debug: bool = False  # Show the traceback of an error.


def main() -> None:
    """Say the rate of a stream over its epochs, once it flows; ValueError where it can't be timed."""
    arguments = tyro.cli(Arguments, prog="python -m experiments.benchmark.input_rate", description=__doc__)
    if not info(arguments.dataset).streamed:
        raise ValueError(f"{arguments.dataset} is read at once, not streamed: name a data set that is.")
    if arguments.batches < 1:
        raise ValueError(f"batches must be at least 1, got {arguments.batches}.")
    source = streamed_source(arguments.dataset, TRAIN, arguments.data_dir, arguments.workers)
    batches = chain.from_iterable(source.shuffled(arguments.batch_size, 0, epoch) for epoch in count(1))
    for _ in range(2):  # the second is what counts
        begin = time.perf_counter()
        for _ in islice(batches, arguments.batches):
            pass
    say(f"{arguments.batches * arguments.batch_size / (time.perf_counter() - begin):.0f} images/s")


if __name__ == "__main__":
    sys.exit(guarded(main))
