"""A program compiled for a target: what it takes of each device's memory, and what the devices say to each other."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from experiments.compile.chips import Target

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
LEAST_EFFORT = -1.0  # of the compiler, from -1 to 1; a run has 0


class Memory(NamedTuple):
    """Bytes of a device that a program takes."""

    arguments: int
    results: int  # that do not take an argument's place
    temporaries: int
    code: int


class Compiled(NamedTuple):
    """What the compiler says of a program."""

    memory: Memory | None  # None where it gave up for want of memory
    needed: int  # bytes of a device, all together
    collectives: Mapping[str, tuple[int, int]] | None  # name -> how many, and bytes of their results; None likewise

    def fits(self, target: Target) -> bool:
        """Whether a device of the target has the memory."""
        return self.memory is not None and self.needed <= target.chip.device_bytes


def compiled(lowered: Any, target: Target, optimize: bool) -> Compiled:
    """Compile a lowered program as a run does, or with less effort, in a fraction of the time."""
    before = jax.config.jax_exec_time_optimization_effort
    jax.config.update("jax_exec_time_optimization_effort", before if optimize else LEAST_EFFORT)
    try:
        program = lowered.compile(compiler_options=target.chip.compiler_options)
    except jax.errors.JaxRuntimeError as error:
        stated = re.search(r"\(([\d.]+)([KMGT])\) exceeds|Used ([\d.]+)([KMGT]) of", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or stated is None:
            raise
        number, unit = (group for group in stated.groups() if group)
        return Compiled(None, int(float(number) * 1024 ** " KMGT".index(unit)), None)
    finally:
        jax.config.update("jax_exec_time_optimization_effort", before)
    stats = program.memory_analysis()
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    code = stats.generated_code_size_in_bytes
    memory = Memory(stats.argument_size_in_bytes, results, stats.temp_size_in_bytes, code)
    return Compiled(memory, sum(memory), collectives(program.as_text()))


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """The collectives of a compiled program's text: name -> how many, and bytes of their results; in loops once."""
    counted: dict[str, tuple[int, int]] = {}
    for shapes, name, start in re.findall(rf"= (.+?) ({'|'.join(COLLECTIVES)})(-start)?\(", text):
        sizes = [_bytes(*array) for array in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes)]
        if start and name == "collective-permute":
            sizes = sizes[1:2]  # operand, result, two counters
        elif start and name != "all-reduce":
            sizes = sizes[len(sizes) // 2 :]  # operands before results
        number, size = counted.get(name, (0, 0))
        counted[name] = number + 1, size + sum(sizes)
    return counted


def _bytes(dtype: str, shape: str) -> int:
    bits = int(re.sub(r"\D", "", dtype) or 8)  # of a truth value a byte
    return bits * math.prod(int(side) for side in shape.split(",") if side) // 8
