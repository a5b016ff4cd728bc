"""docs/accelerators.md: its tables, made from what `python -m experiments.compile --out` wrote."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.compile.chips import CHIPS, GB
from experiments.compile.programs import ANN_STEP, HYBRID_STEP
from experiments.config import difference, from_json
from experiments.fields import PREFIXED, Config
from experiments.presets import PRESETS
from experiments.reports.table import aligned, with_tables
from jsnn.training.files import replace_text

ROOT = Path(__file__).parent.parent.parent
PAGE, RESULTS = ROOT / "docs" / "accelerators.md", ROOT / "experiments" / "results" / "compile"
Numbers = dict[str, Any]


def rebuild(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Make the tables of the page anew; ValueError where it lacks the place of one."""
    kept = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    order = {name: place for place, name in enumerate(PRESETS)}
    kept.sort(key=lambda numbers: (order[numbers["preset"]], [*CHIPS].index(_chip(numbers)), numbers["devices"]))
    named = {
        "presets": presets_table([numbers for numbers in kept if _is_of_table(numbers)]),
        "further": further_table([numbers for numbers in kept if not _is_of_table(numbers)]),
        "slices": slices_table([numbers for numbers in kept if _chip(numbers) == "v5e" and numbers["hosts"] > 1]),
        "commits": ", ".join(sorted({numbers["versions"]["commit"] for numbers in kept})),
    }
    replace_text(page, with_tables(page.read_text(), named))


def presets_table(kept: Sequence[Numbers]) -> str:
    """Both training steps of each preset on each chip."""
    head = ["command", "ANN step, GB", "SNN step, GB", "spare", "SNN step at least, s", "SNN epoch, h", "row, h"]

    def rows() -> Iterator[list[str]]:
        for numbers in kept:
            config = from_json(numbers["config"])
            ann, hybrid = (numbers["programs"][name] for name in (ANN_STEP, HYBRID_STEP))
            hours = config.ann.epochs * ann["hours_at_least"] + config.finetune.epochs * hybrid["hours_at_least"]
            yield [
                _command(numbers),
                *(f"{one['bytes'] / GB:.2f}" + ("" if one["fits"] else ", does not fit") for one in (ann, hybrid)),
                f"{1 - hybrid['bytes'] / hybrid['device_bytes']:.0%}",
                f"{hybrid['least_seconds']['total']:.3g}",
                f"{hybrid['hours_at_least']:.2g}",
                f"{hours:.3g}",
            ]

    return aligned([head, *rows()])


def further_table(kept: Sequence[Numbers]) -> str:
    """The SNN's step of presets with fields of the command line."""
    head = [
        "command",
        "temporaries, GB",
        "in all, GB",
        "spare",
        "step at least, s",
        "computing",
        "moving",
        "exchanging",
    ]

    def rows() -> Iterator[list[str]]:
        for numbers in kept:
            hybrid = numbers["programs"][HYBRID_STEP]
            least = [hybrid["least_seconds"][part] for part in ("total", "computing", "moving", "exchanging")]
            yield [
                _command(numbers),
                f"{hybrid['memory']['temporaries'] / GB:.2f}",
                f"{hybrid['bytes'] / GB:.2f}",
                f"{1 - hybrid['bytes'] / hybrid['device_bytes']:.0%}",
                *(f"{seconds:.3g}" for seconds in least),
            ]

    return aligned([head, *rows()])


def slices_table(kept: Sequence[Numbers]) -> str:
    """What several hosts gain, and what they must be fed."""
    head = ["command", "hosts", "images on a chip", "all-reduce, GB", "of the step", "images/s", "for each host"]
    head += ["ANN, images/s", "for each host"]

    def rows() -> Iterator[list[str]]:
        for numbers in kept:
            hosts, (ann, hybrid) = numbers["hosts"], (numbers["programs"][name] for name in (ANN_STEP, HYBRID_STEP))
            least, speeds = hybrid["least_seconds"], [one["images_per_second_at_most"] for one in (hybrid, ann)]
            yield [
                _command(numbers),
                str(hosts),
                f"{hybrid['images']['call'] / numbers['devices']:g}",
                f"{hybrid['collectives']['all-reduce']['bytes'] / GB:.2f}",
                f"{least['exchanging'] / least['total']:.1%}",
                *(text for speed in speeds for text in (f"{speed:,.0f}", f"{speed / hosts:,.0f}")),
            ]

    return aligned([head, *rows()])


def _command(numbers: Numbers) -> str:
    """What the command has after `python -m experiments.compile`."""
    preset = asdict(PRESETS[numbers["preset"]].config)
    options = [f"--topology {numbers['topology']}", *(["--optimize"] if numbers["optimize"] else [])]
    for group, fields in numbers["config"].items():
        of_preset = preset[group] if isinstance(fields, dict) else {group: preset[group]}
        for name, value in (fields if isinstance(fields, dict) else {group: fields}).items():
            if json.dumps(value) != json.dumps(of_preset[name]):
                prefix = f"{group}." if group in PREFIXED else ""
                options.append(f"--{prefix}{name.replace('_', '-')} {value}")
    return f"`{' '.join([numbers['preset'], *options])}`"


def _is_of_table(numbers: Numbers) -> bool:
    """Whether a preset was compiled as it is."""
    config: Config = from_json(numbers["config"])
    return difference(config, PRESETS[numbers["preset"]].config, "run") is None


def _chip(numbers: Numbers) -> str:
    return numbers["topology"].split(":")[0]
