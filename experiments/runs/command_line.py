"""The command line of every stage: a preset, fields of the config, a workdir; errors in one sentence.

The exit status is 0, 2 for bad input, 1 for a run that went astray, or 75 for one that was asked to stop.
"""

import io
import logging
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.fields import Config, Unprefixed
from experiments.presets import DIGITS, PRESETS
from experiments.recipes import RECIPES, recipe_for, with_recipe
from experiments.runs import compilation, huge_pages, stopping
from experiments.runs.adopt import OFFERED, adopt
from experiments.runs.allocation import keep_freed_memory
from experiments.runs.progress import say
from experiments.runs.records import STAGES, saved_config
from experiments.runs.stages import reopen
from experiments.runs.workdir import Run, open_run
from jsnn.training import hosts

RUNS = Path("runs")
HELP = {"--help", "-h"}


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


def run_stage(name: str, description: str, stage: Callable[[Run], None]) -> None:
    """The main of one of `STAGES`: it runs again even where it is done, and all that follow become undone.

    Only stages before it are taken over from another run.
    """

    def again(run: Run) -> None:
        reopen(run, name)
        stage(run)

    run_command(name, description, again, OFFERED[: STAGES.index(name)])


def run_command(name: str, description: str, work: Callable[[Run], None], taken_over: Sequence[str] = OFFERED) -> None:
    """The main of a command: opens the run that the command line asks for and does the work."""
    hosts.leave(main(f"python -m experiments.{name}", description, work, sys.argv[1:], taken_over))


def main(
    program: str,
    description: str,
    work: Callable[[Run], None],
    arguments: Sequence[str],
    taken_over: Sequence[str] = OFFERED,
) -> int:
    """Parse a command line, open the run and do the work; returns the exit status, an error is one sentence."""

    def in_run() -> None:
        parsed = parse(program, description, arguments)
        compilation.take_effort(parsed.config.run.compile_effort)
        compilation.return_memory()
        keep_freed_memory()
        hosts.join(parsed.coordinator, parsed.num_processes, parsed.process_id)
        compilation.watch()
        compilation.keep_programs(parsed.config.run.compilation_cache)
        if not parsed.debug:  # which shows what libraries say on the side of an error
            for library in ("absl", "asyncio"):  # orbax's threads and tasks log tracebacks of a full disk
                logging.getLogger(library).setLevel(logging.CRITICAL)
            sys.unraisablehook = lambda _: None  # ... and go on failing after it
        with _warnings_as_lines(), stopping.on_signals(), open_run(parsed.config, parsed.workdir) as run:
            if advice := huge_pages.advice():
                say(advice)
            if parsed.from_run:
                adopt(run, parsed.from_run, taken_over)
            work(run)

    return guarded(in_run, arguments)


def guarded(work: Callable[[], object], arguments: Sequence[str] | None = None) -> int:
    """Do the work of a command line, of this process if none is given; returns the exit status, see `report_error`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    take_any_output()
    try:
        refuse_empty(arguments)
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
        error = ValueError(
            f"out of memory ({' '.join(str(error).split())[:100] or type(error).__name__}): choose a smaller "
            "batch_size, eval_batch_size, chunk or width or a larger accumulate, or raise what this process may take "
            "(ulimit -v)."
        )
    foreseen = isinstance(error, ValueError | OSError | FloatingPointError)
    name = "" if foreseen else f"{type(error).__name__}, see --debug: "
    with suppress(OSError):  # nobody may read it any more
        print(f"error: {name}{' '.join(str(error).split())}", file=sys.stderr)
    return 2 if isinstance(error, ValueError | OSError) else 1


def take_any_output() -> None:
    """Take stdout and stderr as they are: closed, or of an encoding that lacks characters, which are replaced."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty value: a folder without a name, as of an unset variable, would be the current folder."""
    for before, argument in pairwise(("the preset", *arguments)):
        if not argument.strip() or re.fullmatch(r"--[^=]+=\s*", argument):
            raise ValueError(f"{argument.strip('= ') or before} has an empty value: name one, or leave it out.")


def parse(program: str, description: str, arguments: Sequence[str]) -> Arguments:
    """Read a command line: [PRESET] [--workdir DIR] [--field value ...]; SystemExit where it can't be, or after --help.

    Without a preset the config is that of the workdir where there is one, else that of the fields' own defaults where a
    data set is named, with the recipe that serves its time steps, else the default preset's. A recipe that is named is
    laid over it, and fields over that.
    """
    # Which config the fields are laid over depends on what the command line says itself.
    named, _ = tyro.cli(BaseConfig, args=arguments, return_unknown_args=True, add_help=False, prog=program)
    if arguments and not arguments[0].startswith("-"):
        choices = {
            name: (text, Arguments(with_recipe(config, named.recipe), _workdir(name, named.recipe)))
            for name, (text, config) in PRESETS.items()
        }
        return tyro.extras.overridable_config_cli(choices, prog=program, description=description, args=arguments)
    workdir = named.workdir or _workdir(named.dataset or DIGITS.data.dataset, named.recipe)
    num_steps = named.num_steps or Config().convert.num_steps
    fresh = with_recipe(Config(), recipe_for(num_steps)) if named.dataset else DIGITS
    config = with_recipe(_saved_config(workdir, arguments) or fresh, named.recipe)
    default = Arguments(config, workdir)
    rows = (textwrap.fill(f"{name}: {preset.description}", 100) for name, preset in PRESETS.items())
    presets = "\n\n".join(["Presets (the default is digits):", *rows])
    text = f"{description}\n{presets}"
    return tyro.cli(Arguments, args=arguments, default=default, prog=f"{program} [PRESET]", description=text)


def _saved_config(workdir: Path, arguments: Sequence[str]) -> Config | None:
    """The config of a workdir, if it has one; ValueError for that of another version, unless help is asked for."""
    try:
        return saved_config(workdir)
    except ValueError:
        if HELP.isdisjoint(arguments):
            raise
        return None


def _workdir(name: str, recipe: str | None) -> Path:
    """The folder of runs where none is named: each recipe that is laid over a preset has its own."""
    return RUNS / (name if recipe is None else f"{name}-{recipe}")


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show warnings as lines like all others."""

    def show(message: Warning | str, *_: object) -> None:
        say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
