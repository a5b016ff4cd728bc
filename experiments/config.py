"""Configs: checking them, reading them from JSON, changing fields by name, comparing them."""

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from experiments.fields import GROUPS, PREFIXED, Config
from jsnn.data.datasets import info


def check(config: Config) -> None:
    """Refuse a config with a value out of its range, or fields that do not go together, by name, value and range."""
    from_json(dataclasses.asdict(config))
    about, num_steps, balance = info(config.data.dataset), config.convert.num_steps, config.convert.balance
    if config.evaluate.eval_steps < num_steps:
        raise ValueError(f"eval_steps must be at least num_steps, {num_steps}, got {config.evaluate.eval_steps}.")
    if balance == "stem" and not config.network.architecture.startswith("resnet"):
        raise ValueError(f"balance stem is for ResNets, {config.network.architecture} has no stem: use balance all.")
    if config.convert.fold and config.network.norm == "none":
        raise ValueError("fold is for batch norm, of which the network has none: set norm batch, or leave fold off.")
    _check_finetune(config)
    if about.streamed and (config.data.crop_padding or config.data.flip):
        raise ValueError(f"{config.data.dataset} has crops and flips of its own: leave crop_padding 0 and flip off.")


def _check_finetune(config: Config) -> None:
    trained, is_scratch = config.finetune.trained, config.finetune.start == "scratch"
    if config.finetune.by_channel and set(trained) <= {"weights"}:
        raise ValueError("by_channel is for parameters of neurons, of which none is trained: name some in trained.")
    if config.finetune.by_channel and "threshold" in trained and config.convert.logits == "sum":
        raise ValueError("by_channel leaves no one threshold that the sum of logits is in units of: use logits mean.")
    if (config.finetune.residuals, config.finetune.surrogate) == ("byte", "stdb") and not set(trained) <= {"weights"}:
        raise ValueError(
            f"residuals byte do not tell the gradient of STDB in parameters of neurons, and trained is "
            f"{', '.join(trained)}: use residuals exact, or surrogate linear, or train weights alone."
        )
    if is_scratch and not trained:
        raise ValueError("start scratch has nothing but what is trained: name some in trained.")
    if is_scratch and config.network.levels is not None:
        raise ValueError("start scratch balances thresholds, and QCFS has its own from an ANN's training: use ReLU.")


def from_json(fields: Any) -> Config:
    """The Config of its JSON form; ValueError where a field is unknown or out of its range."""
    # As JSON, where a strict check takes lists for tuples and whole numbers for floats, but no text for numbers.
    try:
        return _adapter().validate_json(json.dumps(fields, default=str, ensure_ascii=False).encode(), strict=True)
    except ValidationError as error:
        raise ValueError(_sentence(error, fields)) from error


@cache
def _adapter() -> TypeAdapter:
    return TypeAdapter(Config)


def with_fields(config: Config, fields: Mapping[str, Any]) -> Config:
    """The config with some fields changed, as in {"finetune.lr": 1e-3}."""
    for name, value in fields.items():
        group, field = name.split(".")
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{field: value})})
    return config


def difference(one: Config, other: Config, last: str = "evaluate") -> str | None:
    """The first field in which two configs differ, with both values, or None; of the groups up to the last named.

    That is "evaluate" for all that matter to results, and "run" for all.
    """
    there, here = dataclasses.asdict(one), dataclasses.asdict(other)
    for group in GROUPS[: GROUPS.index(last) + 1]:
        if not isinstance(there[group], dict):
            there[group], here[group] = {group: there[group]}, {group: here[group]}
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
    value = fields[group] if name is None else fields[group][name]
    what = _range(group, name) or first["msg"].removeprefix("Input should be ")
    return f"{_name(group, name)} must be {what}, got {value!r}."


def _range(group: str, name: str | None) -> str | None:
    """The range of a field as its annotation says it."""
    owner, name = (getattr(Config(), group), name) if name else (Config, group)
    kind = next(field.type for field in dataclasses.fields(owner) if field.name == name)
    return next((limits.description for limits in getattr(kind, "__metadata__", ())), None)


def _name(group: str, name: str | None) -> str:
    """A field's name on the command line, with underscores."""
    return f"{group}.{name}" if group in PREFIXED else name or group
