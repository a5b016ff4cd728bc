"""What compiling costs a run: effort, seconds, and a folder where compiled programs outlive the process."""

import os
from functools import cache

import jax

PREFIX = "/jax/core/compile/"  # of jax's events: tracing, lowering, compiling

LESS_EFFORT = "--xla_backend_optimization_level=1"  # on a CPU the numbers stay the same, to the bit

_durations: list[float] = []  # of this process, in seconds


def take_effort(effort: str) -> None:
    """Choose, before any program is compiled, how much the compiler does; the user's own flags win."""
    if effort == "less" and LESS_EFFORT not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{LESS_EFFORT} {os.environ.get('XLA_FLAGS', '')}".strip()


@cache
def watch() -> None:
    """Begin to count the seconds spent on compiling; further calls change nothing."""

    def count(event: str, duration: float, **_: object) -> None:
        if event.startswith(PREFIX):
            _durations.append(duration)

    jax.monitoring.register_event_duration_secs_listener(count)


def take_seconds() -> float:
    """Seconds spent on tracing, lowering and compiling since `watch` or this was last called."""
    spent = sum(_durations)
    _durations.clear()
    return spent


def keep_programs(folder: str | None) -> None:
    """Keep compiled programs in a folder and take them from there, so that a second run starts at once."""
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
