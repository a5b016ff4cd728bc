"""A network as a flat list of operations: the jaxpr of its function, with calls inlined and unused operations left out.

Values have numbers. The network's input depends on time, and so does every operation with an input that does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import flax
import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var
from jax.extend.source_info_util import summarize

from jsnn.network.calls import Call, as_function, called, closed_jaxpr, is_array
from jsnn.network.linear import is_linear
from jsnn.quantization import is_qcfs

LIBRARIES = *(f"{Path(module.__file__).parent}/" for module in (jax, flax)), f"{Path(__file__).parents[1]}/"
T = TypeVar("T")
NAMES_OF_LEAVES = ("value", "kernel", "embedding", "weight", "weights", "w")  # which are not those of a layer


class Operation(NamedTuple):
    """One operation of a network."""

    primitive: Primitive | None  # of JAX; None for a layer of neurons
    options: dict[str, Any]  # the primitive's parameters; of a layer those of its activation
    call: Callable[..., list[Any]] | None  # the inputs' values -> a list of those of the outputs
    inputs: tuple[int, ...]  # numbers of the values that go in
    outputs: tuple[int, ...]  # numbers of the values that come out
    where: str  # the scope of the module and the line of source that it comes from
    over_time: bool  # whether it depends on the network's input, and so on time


class Layer(NamedTuple):
    """A layer of spiking neurons."""

    name: str  # of the weights that feed it
    current: int  # number of the value that is its input current
    output: int  # number of the value that stands for its spikes
    shape: tuple[int, ...]  # [B, ...] of its current
    dtype: np.dtype  # of its neurons, that of its current but float32 for one in half precision
    ceiling: float | None  # the largest value of the activation that it stands for, as of relu6
    threshold: int | None  # number of the value that its threshold was trained as, lam of `jsnn.qcfs`; None elsewhere
    feeds: tuple[str, ...]  # names of the layers whose spikes its current is made of


class Graph(NamedTuple):
    """A network's operations in the order in which they run."""

    operations: tuple[Operation, ...]
    constants: dict[int, Any]  # value number -> array
    arrays: tuple[int, ...]  # numbers of the values that are the function's arguments but for the input
    input: int
    outputs: tuple[int, ...]  # numbers of the results
    structure: Any  # the treedef of the results
    avals: dict[int, Any]  # value number -> its shape and dtype, without an axis of time
    paths: dict[int, tuple[str, ...]]  # value number -> path of the argument that it is
    # In the order in which they run; empty before `jsnn.network.activations.with_neurons`.
    layers: dict[str, Layer] = {}  # noqa: RUF012  # replaced, never written to


def trace(apply: Callable[..., Any], call: Call) -> Graph:
    """The graph of a call of (variables, x, *args, **kwargs) -> results."""
    closed, structure = closed_jaxpr(apply, call)
    builder = _Builder()
    *arrays, x = inputs = [builder.new(var.aval) for var in closed.jaxpr.invars]
    builder.over_time.add(x)
    outputs = builder.open(closed.jaxpr, closed.consts, inputs)
    leaves = jax.tree_util.tree_leaves_with_path(call._replace(x=None))
    paths = dict(zip(arrays, (names_of(path[1:]) for path, leaf in leaves if is_array(leaf)), strict=True))
    operations = tuple(needed(builder.operations, outputs))
    return Graph(
        operations=operations,
        constants=builder.constants,
        arrays=tuple(arrays),
        input=x,
        outputs=tuple(outputs),
        structure=structure,
        avals=builder.avals,
        paths=paths,
    )


def needed(operations: Sequence[Operation], targets: Iterable[int], known: Iterable[int] = ()) -> list[Operation]:
    """The operations, in the order in which they run, that some values need where others are known."""
    known, wanted, kept = set(known), set(targets), []
    for operation in reversed(operations):
        if any(number in wanted and number not in known for number in operation.outputs):
            wanted.update(operation.inputs)
            kept.append(operation)
    return kept[::-1]


class _Builder:
    """The graph while it grows."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.constants: dict[int, Any] = {}
        self.avals: dict[int, Any] = {}
        self.over_time: set[int] = set()
        self._numbers: Iterator[int] = count()

    def new(self, aval: Any) -> int:
        """The number of a value."""
        number = next(self._numbers)
        self.avals[number] = aval
        return number

    def constant(self, value: Any, aval: Any) -> int:
        """The number of a value that is known."""
        number = self.new(aval)
        self.constants[number] = value
        return number

    def open(
        self, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[int], scope: str = "", line: str = ""
    ) -> list[int]:
        """Append the operations of a jaxpr that is called in a scope and a line; the numbers of its results."""
        numbers: dict[Var, int] = dict(zip(jaxpr.invars, arguments, strict=True))
        numbers |= {var: self.constant(value, var.aval) for var, value in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Var | Literal) -> int:
            return self.constant(atom.val, atom.aval) if isinstance(atom, Literal) else numbers[atom]

        for equation in jaxpr.eqns:
            inputs = tuple(map(read, equation.invars))
            where = f"{scope}/{equation.source_info.name_stack}".strip("/"), _line(equation) or line
            inside = self._opened(equation, inputs)
            if inside is not None:
                outputs = self.open(inside.jaxpr, inside.consts, inputs, *where)
            else:
                outputs = tuple(self.new(var.aval) for var in equation.outvars)
                self.append(equation, as_function(jaxpr, equation), inputs, outputs, where)
            numbers |= dict(zip(equation.outvars, outputs, strict=True))
        return list(map(read, jaxpr.outvars))

    def _opened(self, equation: JaxprEqn, inputs: Sequence[int]) -> ClosedJaxpr | None:
        """What is inside a call, where it is to be opened: in it are activations, or operations to be refused.

        Neither is in what does not depend on time and in qcfs. What is linear and has a derivative of its own keeps it.
        """
        places = [place for place, number in enumerate(inputs) if number in self.over_time]
        name, inside = equation.primitive.name, called(equation)
        if inside is None or not places or is_qcfs(name, equation.params):
            return None
        return None if name == "custom_jvp_call" and is_linear(inside.jaxpr, places) else inside

    def append(
        self,
        equation: JaxprEqn,
        call: Callable[..., list[Any]],
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        where: tuple[str, str],
    ) -> None:
        """Append one operation, with the scope and the line that it comes from."""
        over_time = bool(self.over_time.intersection(inputs))
        if over_time:
            self.over_time.update(outputs)
        scope, line = where
        place = f"{scope or 'the network'} ({line or summarize(equation.source_info)})"
        self.operations.append(Operation(equation.primitive, equation.params, call, inputs, outputs, place, over_time))


def _line(equation: JaxprEqn) -> str:
    """The innermost line of source that is the user's: none of jax, flax or this library; empty where there is none.

    An operation inside a call, as of a jitted function, knows the lines within the call alone.
    """
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if not frame.file_name.startswith((*LIBRARIES, "<")):
            return f"{frame.file_name}:{frame.line_num}"
    return ""


def names_of(path: Sequence[Any]) -> tuple[str, ...]:
    """The names on the path of a leaf of a pytree."""
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def first_origin(origins: Mapping[int, tuple[str, ...]], operation: Operation) -> tuple[str, ...] | None:
    """The path of the first of the weights that the inputs of an operation are made of."""
    return next((origins[number] for number in operation.inputs if number in origins), None)


def made_of(sources: Mapping[int, tuple[T, ...]], operation: Operation) -> tuple[T, ...]:
    """What the inputs of an operation are made of, each once: of each value number its names or paths."""
    return tuple(dict.fromkeys(source for number in operation.inputs for source in sources.get(number, ())))
