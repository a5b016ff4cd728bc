"""What is kept of the study's runs: PRESET/TRIAL/seedN/results.json, small and committed."""

import json
from pathlib import Path
from typing import Any

from experiments.runs.environment import environment
from experiments.runs.workdir import Results
from jsnn.training.files import replace_text

RESULTS = Path(__file__).parent.parent / "results"
DIGITS = 6  # of a number that is kept
UNNEEDED = ("compile_seconds",)


def results_path(root: Path, preset: str, trial: str, seed: int) -> Path:
    """Where a trial's results are kept."""
    return root / preset / trial / f"seed{seed}" / "results.json"


def write_results(path: Path, results: Results) -> None:
    """Keep what a run found, a line for each network or stage, with the environment that it ran in.

    Args:
        path: the file; its folder is made where there is none.
        results: in JSON's types.
    """
    kept = {name: value for name, value in results.items() if name not in UNNEEDED}
    config = {name: value for name, value in kept["config"].items() if name != "data_dir"}
    kept |= {"config": config, "environment": environment()}
    lines = (f"{json.dumps(name)}: {json.dumps(_rounded(value))}" for name, value in kept.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read_seeds(preset: str, trial: str) -> list[Results]:
    """The results of a trial, of all seeds that were run, in their order."""
    paths = sorted((RESULTS / preset / trial).glob("seed*/results.json"))
    return [json.loads(path.read_text()) for path in paths]


def _rounded(value: Any) -> Any:
    """The value with numbers of few digits."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
