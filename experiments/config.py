"""Configs: checking them, reading them from JSON, changing fields by name, comparing them."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from experiments.fields import GROUPS, PREFIXED, Config
from jsnn.data.datasets import info

_ADAPTER = TypeAdapter(Config)


def check(config: Config) -> None:
    """Refuse a config with a value out of its range, or fields that do not go together, by name, value and range."""
    from_json(dataclasses.asdict(config))
    data, network, options, tuning = config.data, config.network, config.convert, config.finetune
    of_neurons, is_scratch = set(tuning.trained) - {"weights"}, tuning.start == "scratch"
    if (eval_steps := config.evaluate.eval_steps) < options.num_steps:
        raise ValueError(f"eval_steps must be at least num_steps, {options.num_steps}, got {eval_steps}.")
    if options.balance == "stem" and not network.architecture.startswith("resnet"):
        raise ValueError(f"balance stem is for ResNets, {network.architecture} has no stem: use balance all.")
    if options.fold and network.norm == "none":
        raise ValueError("fold is for batch norm, of which the network has none: set norm batch, or leave fold off.")
    if tuning.by_channel and not of_neurons:
        raise ValueError("by_channel is for parameters of neurons, of which none is trained: name some in trained.")
    if tuning.by_channel and "threshold" in of_neurons and options.logits == "sum":
        raise ValueError("by_channel leaves no one threshold that the sum of logits is in units of: use logits mean.")
    if (tuning.residuals, tuning.surrogate) == ("byte", "stdb") and of_neurons:
        raise ValueError(
            f"residuals byte do not tell the gradient of STDB in parameters of neurons, and trained is "
            f"{', '.join(tuning.trained)}: use residuals exact, or surrogate linear, or train weights alone."
        )
    if is_scratch and not tuning.trained:
        raise ValueError("start scratch has nothing but what is trained: name some in trained.")
    if is_scratch and network.levels is not None:
        raise ValueError("start scratch balances thresholds, and QCFS has its own from an ANN's training: use ReLU.")
    if info(data.dataset).streamed and (data.crop_padding or data.flip):
        raise ValueError(f"{data.dataset} has crops and flips of its own: leave crop_padding 0 and flip off.")


def from_json(fields: Any) -> Config:
    """The Config of its JSON form; ValueError where a field is unknown or out of its range."""
    # As JSON, where a strict check takes lists for tuples and whole numbers for floats, but no text for numbers.
    try:
        return _ADAPTER.validate_json(json.dumps(fields, default=str, ensure_ascii=False).encode(), strict=True)
    except ValidationError as error:
        raise ValueError(_sentence(error, fields)) from error


def with_fields(config: Config, fields: Mapping[str, Any]) -> Config:
    """The config with some fields changed, as in {"finetune.lr": 1e-3}."""
    for name, value in fields.items():
        group, field = name.split(".")
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{field: value})})
    return config


def difference(one: Config, other: Config, last: str = "evaluate") -> str | None:
    """The first field in which two configs differ, with both values, or None; of the groups up to the last one."""
    there, here = ({**dataclasses.asdict(config), "seed": {"seed": config.seed}} for config in (one, other))
    for group in GROUPS[: GROUPS.index(last) + 1]:
        for name, value in there[group].items():
            if value != here[group][name]:
                return f"{_name(group, name)} is {value} there and {here[group][name]} here"
    return None


def _sentence(error: ValidationError, fields: Any) -> str:
    """What is wrong with the first field that is, and what it must be."""
    first = error.errors()[0]
    if len(first["loc"]) == 0 or first["type"] == "dataclass_type":
        return f"the fields of a config are groups of names and values, got {first['input']!r}."
    group, name = (*map(str, first["loc"]), None)[:2]
    if first["type"] == "unexpected_keyword_argument":
        return f"there is no field {_name(group, name)}."
    owner, values, field = (getattr(Config(), group), fields[group], name) if name else (Config, fields, group)
    limits = getattr(owner.__annotations__[field], "__metadata__", ())
    what = limits[0].description if limits else first["msg"].removeprefix("Input should be ")
    return f"{_name(group, name)} must be {what}, got {values[field]!r}."


def _name(group: str, name: str | None) -> str:
    """A field's name on the command line, with underscores."""
    return f"{group}.{name}" if group in PREFIXED else name or group
