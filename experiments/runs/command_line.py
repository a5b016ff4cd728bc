"""The command line of every stage: a preset, fields of the config, a workdir; errors in one sentence.

The exit status is 0, 2 for bad input, 1 for a run that went astray, or 75 for one that was asked to stop.
"""

import dataclasses
import difflib
import logging
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tyro

from experiments.runs import compilation, stopping
from experiments.runs.adopt import adopt
from experiments.config import Config
from experiments.presets import PRESETS
from experiments.runs.progress import say
from experiments.runs.workdir import Run, open_run, reopen, saved_config
from jsnn.training import hosts

DEFAULT_PRESET = "digits"


@dataclass(frozen=True)
class Arguments:
    """What a command line says besides the preset."""

    config: Config
    workdir: Path | None = None
    """Folder of the run; without it, runs/PRESET."""
    from_run: Path | None = None
    """Folder of another run whose ANN, and conversion where it is the same, are taken over instead of made anew."""
    debug: bool = False
    """Show the traceback of an error."""
    coordinator: str | None = None
    """host:port of the first of several processes; None leaves it to SLURM or the TPU slice, where there is one."""
    num_processes: int | None = None
    """How many processes there are; goes with coordinator."""
    process_id: int | None = None
    """Which of them this is, from 0; goes with coordinator."""


def run_stage(name: str, description: str, stage: Callable[[Run], None]) -> None:
    """The main of one stage: it runs again even where it is done, and all that follow it become undone.

    Args:
        name: of the stage, one of `workdir.STAGES`.
        description: the module's docstring, for --help.
        stage: what to do with the run.
    """

    def again(run: Run) -> None:
        reopen(run, name)
        stage(run)

    run_command(name, description, again)


def run_command(name: str, description: str, work: Callable[[Run], None]) -> None:
    """The main of a module: ends the process with `main`'s exit status.

    Args:
        name: of the module.
        description: its docstring, for --help.
        work: what to do with the run.
    """
    hosts.leave(main(f"python -m experiments.{name}", description, work, sys.argv[1:]))


def main(program: str, description: str, work: Callable[[Run], None], arguments: Sequence[str]) -> int:
    """Parse a command line, open the run and do the work.

    Args:
        program: how the command is called, for --help.
        description: what it does, for --help.
        work: what to do with the run.
        arguments: the command line.

    Returns:
        The exit status; what went wrong is told in one sentence.
    """
    try:
        parsed = parse(program, description, arguments)
        hosts.join(parsed.coordinator, parsed.num_processes, parsed.process_id)
        compilation.watch()
        compilation.keep_programs(parsed.config.compilation_cache)
        if not parsed.debug:
            _hush_libraries()
        with _told_warnings(), stopping.on_signals(), open_run(parsed.config, parsed.workdir) as run:
            if parsed.from_run:
                adopt(run, parsed.from_run)
            work(run)
    except Exception as error:
        return refuse(error, "--debug" in arguments)
    return 0


def refuse(error: Exception, debug: bool) -> int:
    """Tell what went wrong in one sentence.

    Args:
        error: what went wrong.
        debug: whether to show where.

    Returns:
        The exit status.
    """
    if isinstance(error, stopping.Stopped):
        say(str(error))
        return stopping.STOPPED
    if debug:
        traceback.print_exception(error)
    foreseen = isinstance(error, ValueError | OSError | FloatingPointError)
    name = "" if foreseen else f"{type(error).__name__}, see --debug: "
    print(f"error: {name}{' '.join(str(error).split())}", file=sys.stderr)
    return 2 if isinstance(error, ValueError | OSError) else 1


@contextmanager
def _told_warnings() -> Iterator[None]:
    """Show warnings as lines like all others."""

    def tell(message: Warning | str, *_: object) -> None:
        say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = tell
        yield


def _hush_libraries() -> None:
    """Leave what libraries say on the side of an error to --debug, for the rest of the process."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax's threads log tracebacks of a full disk
    sys.unraisablehook = lambda _: None  # ... and go on failing after it


def parse(program: str, description: str, arguments: Sequence[str]) -> Arguments:
    """Read a command line: [PRESET] [--workdir DIR] [--field value ...].

    Without a preset the config is that of the workdir where there is one, else that of the fields' own defaults where a
    data set is named, else the default preset's.

    Args:
        program: how the command is called.
        description: what it does.
        arguments: the command line.

    Returns:
        The Arguments, with a workdir.

    Raises:
        ValueError: where there is no preset of this name.
        SystemExit: with status 2 where a field is unknown or its value can't be read, with 0 after --help.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    options = list(arguments[1:] if named else arguments)
    dataset = _value(options, "--dataset")
    name = arguments[0] if named else dataset or DEFAULT_PRESET
    if named:
        config = _preset(name)
    else:
        of_workdir = saved_config(Path(_value(options, "--workdir") or f"runs/{name}"))
        config = of_workdir or (Config() if dataset else _preset(name))
    parsed = tyro.cli(
        Arguments,
        args=options,
        default=Arguments(config),
        prog=f"{program} [PRESET]",
        description=f"{description}\n{_preset_list()}",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return parsed if parsed.workdir else dataclasses.replace(parsed, workdir=Path("runs") / name)


def _preset(name: str) -> Config:
    if name not in PRESETS:
        nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown preset {name!r}, did you mean {nearest!r}? There are: {', '.join(PRESETS)}.")
    return PRESETS[name]()


def _value(options: Sequence[str], name: str) -> str | None:
    """What stands after an option, if it is there."""
    for option, value in pairwise([*options, ""]):
        if option == name or option.startswith(f"{name}="):
            return value if option == name else option.partition("=")[2]
    return None


def _preset_list() -> str:
    rows = (f"{name}: {' '.join(str(preset.__doc__).split())}" for name, preset in PRESETS.items())
    return "Presets (the default is digits):\n\n" + "\n\n".join(textwrap.fill(row, 100) for row in rows)
