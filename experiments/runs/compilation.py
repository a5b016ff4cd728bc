"""What compiling costs a run: its seconds, and a folder where compiled programs outlive the process."""

from functools import cache

import jax

PREFIX = "/jax/core/compile/"  # of jax's events: tracing, lowering, compiling

_durations: list[float] = []  # of this process, in seconds


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
