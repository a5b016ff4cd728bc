"""docs/accelerators.md: its tables, made from what `python -m experiments.compile --out` wrote, a line each.

Another result is kept by `cat FILE >> experiments/results/compile.jsonl`.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.compile.chips import CHIPS, GB
from experiments.compile.programs import ANN_STEP, HYBRID_STEP
from experiments.config import difference, from_json
from experiments.fields import PREFIXED
from experiments.presets import PRESETS
from experiments.reports.table import aligned, with_tables
from experiments.runs.files import replace_text

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs" / "accelerators.md", ROOT / "experiments" / "results" / "compile.jsonl"
Numbers = dict[str, Any]  # of a command
TABLES = {  # name on the page -> columns, see `_cells`
    "presets": "command|ANN step, GB|SNN step, GB|spare|SNN step at least, s|SNN epoch, h|row, h",
    "further": "command|temporaries, GB|in all, GB|spare|step at least, s|computing|moving|exchanging",
    "slices": "command|hosts|images on a chip|all-reduce, GB|of the step|images/s|for each host|ANN, images/s|"
    "ANN, for each host",
}


def rebuild(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Make the tables of the page anew; ValueError where it lacks the place of one."""
    presets, chips = [*PRESETS], [*CHIPS]
    kept = [json.loads(line) for line in results.read_text().splitlines()]
    kept.sort(key=lambda of: (presets.index(of["preset"]), chips.index(of["topology"].split(":")[0]), of["devices"]))
    rows = {"presets": [], "further": [], "slices": []}
    for of in kept:
        changed = difference(from_json(of["config"]), PRESETS[of["preset"]].config, "run")
        rows["further" if changed else "presets"].append(of)
        if of["topology"].startswith("v5e:") and of["hosts"] > 1:
            rows["slices"].append(of)
    named = {"commits": ", ".join(sorted({of["versions"]["commit"] for of in kept}))}
    for name, head in TABLES.items():
        cells = [[of_command[column] for column in head.split("|")] for of_command in map(_cells, rows[name])]
        named[name] = aligned([head.replace("ANN, for", "for").split("|"), *cells])
    replace_text(page, with_tables(page.read_text(), named))


def _cells(of: Numbers) -> dict[str, str]:
    """What the tables tell of a command; where a column does not say otherwise, of the SNN's training step."""
    config, (ann, snn) = from_json(of["config"]), (of["programs"][name] for name in (ANN_STEP, HYBRID_STEP))
    least, images_per_second = snn["least_seconds"], "images_per_second_at_most"
    hours = config.ann.epochs * ann["hours_at_least"] + config.finetune.epochs * snn["hours_at_least"]
    step = [f"{one['bytes'] / GB:.2f}{'' if one['fits'] else ', does not fit'}" for one in (ann, snn)]
    return {
        "command": command(of),
        **dict(zip(("ANN step, GB", "SNN step, GB", "in all, GB"), (*step, step[1]), strict=True)),
        "temporaries, GB": f"{(snn['memory'] or {}).get('temporaries', math.nan) / GB:.2f}",
        "spare": f"{1 - snn['bytes'] / snn['device_bytes']:.0%}",
        **dict.fromkeys(("SNN step at least, s", "step at least, s"), f"{least['total']:.3g}"),
        **{part: f"{least[part]:.3g}" for part in ("computing", "moving", "exchanging")},
        "SNN epoch, h": f"{snn['hours_at_least']:.2g}",
        "row, h": f"{hours:.3g}",
        "hosts": str(of["hosts"]),
        "images on a chip": f"{snn['images']['call'] / of['devices']:g}",
        "all-reduce, GB": f"{(snn['collectives'] or {}).get('all-reduce', {'bytes': 0})['bytes'] / GB:.2f}",
        "of the step": f"{least['exchanging'] / least['total']:.1%}",
        "images/s": f"{snn[images_per_second]:,.0f}",
        "for each host": f"{snn[images_per_second] / of['hosts']:,.0f}",
        "ANN, images/s": f"{ann[images_per_second]:,.0f}",
        "ANN, for each host": f"{ann[images_per_second] / of['hosts']:,.0f}",
    }


def command(numbers: Numbers) -> str:
    """What the command has after `python -m experiments.compile`."""
    preset = asdict(PRESETS[numbers["preset"]].config)
    options = [f"--topology {numbers['topology']}", *(["--optimize"] if numbers["optimize"] else [])]
    for group, value in numbers["config"].items():
        fields, of_preset = (value, preset[group]) if isinstance(value, dict) else ({group: value}, preset)
        prefix = f"{group}." if group in PREFIXED else ""
        changed = (name for name in fields if json.dumps(fields[name]) != json.dumps(of_preset[name]))
        options += [f"--{prefix}{name.replace('_', '-')} {fields[name]}" for name in changed]
    return f"`{' '.join([numbers['preset'], *options])}`"
