"""Which layer of a PyTorch network belongs to which of a Flax one: by shapes, and among those of the same by names."""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple


class Layer(NamedTuple):
    """A module with weights, and those without that follow it, as its batch norm."""

    names: tuple[str, ...]  # of the modules
    leaves: tuple[dict[str, Any], ...]  # of each, by Flax's names: paths of a Flax net, arrays of a PyTorch one
    shapes: tuple[dict[str, tuple[int, ...]], ...]  # of them, in Flax's layout


def pairs_of_layers(ours: Sequence[Layer], theirs: Sequence[Layer], mapping: Mapping[str, str]) -> dict[str, Layer]:
    """Name of a Flax layer -> the layer of PyTorch that belongs to it; without those that one side lacks.

    Args:
        ours: of the Flax net, in the order in which they run.
        theirs: of the PyTorch one.
        mapping: of names, which decides.

    Raises:
        ValueError: where layers of the same shapes could be given in more than one way and no name decides, or a name
            of the mapping is none, is given twice, or pairs layers of other shapes.
    """
    pairs = _mapped(ours, theirs, mapping)
    taken = [layer.names[0] for layer in pairs.values()]
    left = [layer for layer in ours if layer.names[0] not in pairs]
    while left:
        shapes = left[0].shapes
        group = [layer for layer in left if layer.shapes == shapes]
        fitting = [layer for layer in theirs if layer.shapes == shapes and layer.names[0] not in taken]
        pairs |= _pairs_of_group(group, fitting)
        left = [layer for layer in left if layer.shapes != shapes]
    return pairs


def described(layer: Layer) -> str:
    """A layer with its shapes, for a message."""
    sizes = (f"{leaf} {'x'.join(map(str, shape))}" for shapes in layer.shapes for leaf, shape in shapes.items())
    return f"{' + '.join(layer.names)} ({', '.join(sizes)})"


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
                f"the mapping pairs {described(by_name[our])} with {described(by_their_name[their])}, which are of "
                "other shapes: pair layers of the same."
            )
    return {our: by_their_name[their] for our, their in mapping.items()}


def _pairs_of_group(ours: Sequence[Layer], theirs: Sequence[Layer]) -> dict[str, Layer]:
    """The pairs among layers of the same shapes."""
    names = [layer.names[0] for layer in ours]
    if len(ours) != len(theirs) or len(ours) == 1:  # the caller tells which one is left
        return dict(zip(names, theirs, strict=False))
    their_names = {_normal(layer.names[0]): layer for layer in theirs if re.search("[a-zA-Z]", layer.names[0])}
    agreed = {name: their_names[_normal(name)] for name in names if _normal(name) in their_names}
    if len(agreed) == len(ours):
        return agreed
    rest = [layer for layer in theirs if all(layer is not other for other in agreed.values())]
    of_rest = _by_number([name for name in names if name not in agreed], rest)
    ways = [{**agreed, **of_rest} if agreed and of_rest is not None else None, _by_number(names, theirs)]
    found = [{our: layer.names[0] for our, layer in way.items()} for way in ways if way is not None]
    if not found or found[0] != found[-1]:
        raise ValueError(
            f"the layers {', '.join(names)} of the Flax net and {', '.join(layer.names[0] for layer in theirs)} of the "
            f"PyTorch one are all of the same shapes, as {described(ours[0])}, and no name tells which belongs to "
            f"which: give a mapping as {{{names[0]!r}: {theirs[0].names[0]!r}}} for them."
        )
    return next(way for way in ways if way is not None)


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


def _normal(name: str) -> str:
    """A name that is the same whatever separates its parts."""
    return re.sub(r"[/._]+", ".", name)
