"""The command line of every stage: a preset, fields of the config, a workdir; errors in one sentence.

The exit status is 0, 2 for bad input, 1 for a run that went astray, or 75 for one that was asked to stop.
"""

import io
import logging
import os
import sys
import textwrap
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from experiments.fields import Config, Unprefixed
from experiments.presets import DIGITS, PRESETS
from experiments.recipes import RECIPES, recipe_for, with_recipe
from experiments.runs import stopping
from experiments.runs.programs import keep_freed_memory, set_compiler
from experiments.runs.progress import say
from experiments.runs.stages import OFFERED, adopt, reopen
from experiments.runs.workdir import STAGES, Run, open_run, read_record
from jsnn.training import hosts

Work = Callable[[Run], None]
GRACE = 2  # seconds that the first process, on whom the others hang, lets them report the same error


@dataclass(frozen=True)
class Arguments:
    """What a command line says besides the preset."""

    config: Annotated[Config, Unprefixed]

    workdir: Path | None = None  # Folder of the run; without it, runs/PRESET, runs/PRESET-RECIPE or runs/DATASET.
    # Folder of another run whose ANN, and conversion where it is the same, are taken over instead of made anew.
    from_run: Path | None = None
    # How the ANN is made spiking, see docs/recipes.md: fields that go together; those beside it are laid over them.
    recipe: Literal[tuple(RECIPES)] | None = None
    debug: bool = False  # Show the traceback of an error.
    # host:port of the first of several processes; None leaves it to SLURM or the TPU slice, where there is one.
    coordinator: str | None = None
    num_processes: int | None = None  # How many processes there are; goes with coordinator.
    process_id: int | None = None  # Which of them this is, from 0; goes with coordinator.


@dataclass(frozen=True)
class BaseConfig:
    """What decides which config the fields of a command line are laid over."""

    workdir: Path | None = None
    dataset: str | None = None
    recipe: Literal[tuple(RECIPES)] | None = None
    num_steps: int | None = None


def run_stage(name: str, description: str, stage: Work) -> None:
    """The main of one of `STAGES`: it runs again even where it is done, and all that follow become undone."""

    def again(run: Run) -> None:
        reopen(run, name)
        stage(run)

    run_command(name, description, again, STAGES[: STAGES.index(name)])


def run_command(name: str, description: str, work: Work, before: Sequence[str] = STAGES) -> None:
    """The main of a command, see `main`; after an error it does not wait for other processes, which then stop too."""
    status = main(f"python -m experiments.{name}", description, work, sys.argv[1:], before)
    if status and jax.distributed.is_initialized():
        time.sleep(GRACE if hosts.is_first_process() else 0)
        sys.stdout.flush()
        os._exit(status)
    raise SystemExit(status)


def main(program: str, description: str, work: Work, arguments: Sequence[str], before: Sequence[str] = STAGES) -> int:
    """Parse a command line, open the run, take over stages `before` where asked, do the work; the exit status."""

    def in_run() -> None:
        parsed = parse(program, description, arguments)
        set_compiler(parsed.config.run.compile_effort, parsed.config.run.compilation_cache)
        keep_freed_memory()
        hosts.join(parsed.coordinator, parsed.num_processes, parsed.process_id)
        if not parsed.debug:  # which shows what libraries say on the side of an error
            for library in ("absl", "asyncio"):  # orbax's threads and tasks log tracebacks of a full disk
                logging.getLogger(library).setLevel(logging.CRITICAL)
            sys.unraisablehook = lambda _: None  # ... and go on failing after it
        with warnings.catch_warnings(), stopping.on_signals(), open_run(parsed.config, parsed.workdir) as run:
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
            if parsed.from_run:
                adopt(run, parsed.from_run, [stage for stage in OFFERED if stage in before])
            work(run)

    return guarded(in_run, arguments)


def guarded(work: Callable[[], object], arguments: Sequence[str] | None = None) -> int:
    """Do the work of a command line, of this process if none is given; returns the exit status, see `report_error`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where its encoding lacks a character
    try:
        if "" in arguments:  # as of a variable that is not set: a folder without a name would be the current one
            raise ValueError("an argument is empty: name a value, or leave its option out.")
        work()
    except Exception as error:
        return report_error(error, "--debug" in arguments)
    return 0


def report_error(error: Exception, debug: bool) -> int:
    """Print an error in one sentence, or with its traceback to debug; returns the exit status."""
    if isinstance(error, stopping.Stopped):
        say(str(error))
        return stopping.STOPPED
    if debug:
        traceback.print_exception(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):  # of the host, or of a device
        what = " ".join(str(error).split())[:100] or type(error).__name__
        cure = "choose a smaller batch_size, eval_batch_size, chunk or width, or a larger accumulate."
        error = ValueError(f"out of memory ({what}): {cure}")
    foreseen = isinstance(error, ValueError | OSError | FloatingPointError)
    name = "" if foreseen else f"{type(error).__name__}, see --debug: "
    with suppress(OSError):  # nobody may read it any more
        print(f"error: {name}{' '.join(str(error).split())}", file=sys.stderr)
    return 2 if isinstance(error, ValueError | OSError) else 1


def parse(program: str, description: str, arguments: Sequence[str]) -> Arguments:
    """Read [PRESET] [--workdir DIR] [--field value ...]: a config of preset or workdir, then recipe, then fields."""
    preset = arguments[0] if arguments and not arguments[0].startswith("-") else None
    options = arguments if preset is None else arguments[1:]
    named, _ = tyro.cli(BaseConfig, args=options, return_unknown_args=True, add_help=False, prog=program)
    name = preset or named.dataset or DIGITS.data.dataset
    workdir = named.workdir or Path("runs") / (f"{name}-{named.recipe}" if named.recipe else name)
    config = DIGITS
    if preset is not None:
        if preset not in PRESETS:
            raise ValueError(f"there is no preset {preset}: choose one of {', '.join(PRESETS)}.")
        config = PRESETS[preset].config
    elif not {"--help", "-h"} & {*options} and (record := read_record(workdir)):
        config = record.config
    elif named.dataset:
        config = with_recipe(Config(), recipe_for(named.num_steps or Config().convert.num_steps))
    rows = (textwrap.fill(f"{name}: {preset.description}", 100) for name, preset in PRESETS.items())
    text = "\n\n".join([f"{description}\nPresets (the default is digits):", *rows])
    default = Arguments(with_recipe(config, named.recipe), workdir)
    return tyro.cli(Arguments, args=options, default=default, prog=f"{program} [PRESET]", description=text)
