"""Pairs the layers of a PyTorch and a Flax network: by shape, and among equal shapes by name."""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Layer(NamedTuple):
    """A module with weights, and those without that follow it, as its batch norm."""

    names: tuple[str, ...]  # of the modules
    leaves: tuple[dict[str, Any], ...]  # of each, by Flax's names: paths of a Flax net, arrays of a PyTorch one
    shapes: tuple[dict[str, tuple[int, ...]], ...]  # of them, in Flax's layout


def in_order_of_names(ours: Sequence[str], theirs: Mapping[str, T]) -> Mapping[str, T]:
    """Modules of PyTorch in the order of the Flax net where all of their names agree, so that norms find their layers.

    Else as they are.
    """
    agreed = _agreed(ours, [*theirs])
    whole = len(agreed) == len(ours) == len(theirs)
    return {agreed[name]: theirs[agreed[name]] for name in ours} if whole else theirs


def pairs_of_layers(ours: Sequence[Layer], theirs: Sequence[Layer], mapping: Mapping[str, str]) -> dict[str, Layer]:
    """Name of a Flax layer -> the layer of PyTorch that belongs to it.

    Args:
        ours: of the Flax net, in the order in which they run.
        theirs: of the PyTorch one.
        mapping: of names, which decides.

    Raises:
        ValueError: where a layer is left on one side, those of the same shapes could be given in more than one way and
            no name decides, or a name of the mapping is none, is given twice, or pairs layers of other shapes.
    """
    pairs = _mapped(ours, theirs, mapping)
    others = [layer for layer in theirs if all(layer is not taken for taken in pairs.values())]
    left = unmapped = [layer for layer in ours if layer.names[0] not in pairs]
    while left:
        shapes = left[0].shapes
        group = [layer for layer in left if layer.shapes == shapes]
        pairs |= _pairs_of_group(group, [layer for layer in others if layer.shapes == shapes])
        left = [layer for layer in left if layer.shapes != shapes]
    _check_left(ours, theirs, pairs)
    _check_words(unmapped, others, pairs)
    return pairs


def _mapped(ours: Sequence[Layer], theirs: Sequence[Layer], mapping: Mapping[str, str]) -> dict[str, Layer]:
    """The pairs that a mapping names."""
    by_name, by_their_name = ({layer.names[0]: layer for layer in layers} for layers in (ours, theirs))
    for side, names, known in (("Flax", [*mapping], by_name), ("PyTorch", [*mapping.values()], by_their_name)):
        for name in names:
            if name not in known or names.count(name) > 1:
                why = "twice" if name in known else f"and the {side} net has {', '.join(known)}"
                raise ValueError(f"the mapping names the {side} layer {name!r} {why}: name each with weights once.")
    for our, their in mapping.items():
        if by_name[our].shapes != by_their_name[their].shapes:
            raise ValueError(
                f"the mapping pairs {_described(by_name[our])} with {_described(by_their_name[their])}, which are of "
                "other shapes: pair layers of the same."
            )
    return {our: by_their_name[their] for our, their in mapping.items()}


def _pairs_of_group(ours: Sequence[Layer], theirs: Sequence[Layer]) -> dict[str, Layer]:
    """The pairs among layers of the same shapes."""
    names = [layer.names[0] for layer in ours]
    their_names = [layer.names[0] for layer in theirs]
    agreed = {name: theirs[their_names.index(their)] for name, their in _agreed(names, their_names).items()}
    rest = [layer for layer in theirs if all(layer is not other for other in agreed.values())]
    names_of_rest = [name for name in names if name not in agreed]
    if len(ours) != len(theirs) or len(rest) == 0 or len(theirs) == 1:  # too few or many: `_check_left` tells which
        return {**agreed, **dict(zip(names_of_rest, rest, strict=False))}
    of_rest, ordered = _by_number(names_of_rest, rest), _by_number(names, theirs)
    # Where fc.2 agrees and fc.4 is left, numbers may count differently on both sides: such names alone don't decide.
    is_counted = {_normal(name, "0") for name in agreed} & {_normal(layer.names[0], "0") for layer in rest}
    named = {**agreed, **of_rest} if agreed and of_rest is not None and not (is_counted and ordered is None) else None
    ways = [way for way in (named, ordered) if way is not None]
    if not ways or any(ways[0][name] is not ways[-1][name] for name in names):
        raise ValueError(
            f"the layers {', '.join(names)} of the Flax net and {', '.join(their_names)} of the PyTorch one are "
            f"all of the same shapes, as {_described(ours[0])}, and no name tells which belongs to which: "
            f"give a mapping as {{{names[0]!r}: 'its name in PyTorch'}} for them."
        )
    return ways[0]


def _by_number(names: Sequence[str], theirs: Sequence[Layer]) -> dict[str, Layer] | None:
    """Names, in the order in which they run, with layers in that of the numbers in theirs; None where these have none.

    Numbers count in the order of running: features.3 before features.10, layer1.0.conv2 before layer1.1.conv1.
    """
    parts = {layer.names[0]: _parts(layer.names[0]) for layer in theirs}
    for one, other in combinations(parts.values(), 2):
        differing = next((pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]), ("", ""))
        if not all(isinstance(part, int) for part in differing):
            return None
    return dict(zip(names, sorted(theirs, key=lambda layer: parts[layer.names[0]]), strict=True))


def _parts(name: str) -> list[str | int]:
    """A name as texts and the numbers between them."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _check_left(ours: Sequence[Layer], theirs: Sequence[Layer], pairs: Mapping[str, Layer]) -> None:
    """Refuse a layer of one side that the other lacks."""
    for layer in ours:
        source = pairs.get(layer.names[0])
        if source is None:
            there = f"the first that is left is {_described(theirs[0])}" if theirs else "all of its layers are taken"
            raise ValueError(f"the state_dict has no layer for {_described(layer)} of the Flax net: {there}.")
        theirs = [other for other in theirs if other is not source]
    if theirs:
        raise ValueError(
            f"the Flax net has no layer for {_described(theirs[0])} of the state_dict: all of its own are filled."
        )


def _check_words(ours: Sequence[Layer], theirs: Sequence[Layer], pairs: Mapping[str, Layer]) -> None:
    """Refuse that a module, as a norm behind a layer, gets another's weights where PyTorch has one of its very name."""
    names, their_names = ([name for layer in layers for name in layer.names] for layers in (ours, theirs))
    words = {name: their for name, their in _agreed(names, their_names).items() if not re.search(r"\d", name)}
    for layer in ours:
        for name, their in zip(layer.names, pairs[layer.names[0]].names, strict=True):
            if words.get(name, their) != their:
                raise ValueError(
                    f"{name} of the Flax net would get the weights of PyTorch's {their}, by shapes and order, and not "
                    f"those of {words[name]}: let all names agree, make norms in PyTorch right behind their layers, or "
                    f"give a mapping with {layer.names[0]!r} if it is meant."
                )


def _described(layer: Layer) -> str:
    """A layer with its shapes, for a message."""
    sizes = (f"{leaf} {'x'.join(map(str, shape))}" for shapes in layer.shapes for leaf, shape in shapes.items())
    return f"{' + '.join(layer.names)} ({', '.join(sizes)})"


def _agreed(names: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    """Names that hold a letter -> those of PyTorch that are the same, where each is there once."""
    normal, others = [_normal(name) for name in names], [_normal(name) for name in theirs]
    once = {name for name in normal if re.search("[a-zA-Z]", name) and normal.count(name) == others.count(name) == 1}
    return {name: theirs[others.index(same)] for name, same in zip(names, normal, strict=True) if same in once}


def _normal(name: str, number: str = r"\g<0>") -> str:
    """A name that is the same whatever separates its parts, and with one number for all if that is given."""
    return re.sub(r"\d+", number, re.sub(r"[/._]+", ".", name))
