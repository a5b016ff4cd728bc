"""The command line of every stage: a preset, fields of the config, a workdir; errors in one sentence, status 2."""

import difflib
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tyro

from experiments import compilation
from experiments.config import Config
from experiments.presets import PRESETS
from experiments.workdir import Run, open_run, reopen, saved_config

DEFAULT_PRESET = "digits"


@dataclass(frozen=True)
class Arguments:
    """What a command line says besides the preset."""

    config: Config
    workdir: Path | None = None
    """Folder of the run; without it, runs/PRESET."""
    debug: bool = False
    """Show the traceback of an error."""


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

    sys.exit(main(f"python -m experiments.{name}", description, again, sys.argv[1:]))


def main(program: str, description: str, work: Callable[[Run], None], arguments: Sequence[str]) -> int:
    """Parse a command line, open the run and do the work.

    Args:
        program: how the command is called, for --help.
        description: what it does, for --help.
        work: what to do with the run.
        arguments: the command line.

    Returns:
        The exit status: 0, 2 for bad input or 1 for a loss that is not finite, told in one sentence.
    """
    try:
        parsed = parse(program, description, arguments)
        compilation.watch()
        compilation.keep_programs(parsed.config.compilation_cache)
        work(open_run(parsed.config, parsed.workdir))
    except (ValueError, OSError, FloatingPointError) as error:
        return refuse(error, "--debug" in arguments)
    return 0


def refuse(error: Exception, debug: bool) -> int:
    """Tell what went wrong in one sentence; the exit status: 2 for bad input, 1 for a run that went astray."""
    if debug:
        raise error
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1 if isinstance(error, FloatingPointError) else 2


def parse(program: str, description: str, arguments: Sequence[str]) -> Arguments:
    """Read a command line: [PRESET] [--workdir DIR] [--field value ...].

    Without a preset the config is that of the workdir where there is one, else the default preset's.

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
    preset = arguments[0] if named else DEFAULT_PRESET
    config = _preset(preset)
    options = list(arguments[1:] if named else arguments)
    if not named:
        config = _config_of_workdir(options) or config
    parsed = tyro.cli(
        Arguments,
        args=options,
        default=Arguments(config),
        prog=f"{program} [PRESET]",
        description=f"{description}\n{_preset_list()}",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return parsed if parsed.workdir else Arguments(parsed.config, Path("runs") / preset, parsed.debug)


def _preset(name: str) -> Config:
    if name not in PRESETS:
        nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown preset {name!r}, did you mean {nearest!r}? There are: {', '.join(PRESETS)}.")
    return PRESETS[name]()


def _config_of_workdir(options: Sequence[str]) -> Config | None:
    """The config saved in the folder after --workdir, or in the default one, if any."""
    for option, value in pairwise([*options, ""]):
        if option.startswith("--workdir="):
            return saved_config(Path(option.partition("=")[2]))
        if option == "--workdir":
            return saved_config(Path(value))
    return saved_config(Path("runs") / DEFAULT_PRESET)


def _preset_list() -> str:
    rows = (f"{name}: {preset.__doc__}" for name, preset in PRESETS.items())
    return "Presets (the default is digits):\n\n" + "\n\n".join(textwrap.fill(row, 100) for row in rows)
