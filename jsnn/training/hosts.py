"""Several processes as one run: how they find each other, what the first does for all, what they agree on.

A process alone does the plain thing in all of these functions.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

HEARTBEAT = 30  # seconds of silence after which a process counts as dead and the others stop
SHORTEST_MESSAGE = 256  # bytes
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # what srun sets


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes of a run; to be called before anything else of jax.

    Args:
        coordinator: host:port of the first process. None joins the tasks of SLURM or the hosts of a TPU slice, if this
            process is one of several; else it stays alone.
        num_processes: how many processes there are; goes with coordinator.
        process_id: which of them this is, from 0; goes with coordinator.

    Raises:
        ValueError: where only some of the three are given, one is out of its range, or the processes don't meet.
    """
    arguments = (coordinator, num_processes, process_id)
    on_tpu = "tpu" in (jax.config.jax_platforms or "")
    if arguments == (None, None, None):
        is_task = all(name in os.environ for name in SLURM) and int(os.environ["SLURM_NTASKS"]) > 1
        if not (is_task or on_tpu):
            return
    elif None in arguments:
        raise ValueError(f"coordinator, num_processes and process_id go together, got {arguments}.")
    elif not 0 <= process_id < num_processes or not coordinator.partition(":")[2].isdigit():
        raise ValueError(f"needed are host:port, a number of processes and an id below it, got {arguments}.")
    try:
        jax.distributed.initialize(*arguments, heartbeat_timeout_seconds=HEARTBEAT)
    except RuntimeError as error:
        raise ValueError(f"the processes of the run did not meet ({error}): are all started alike?") from error
    except ValueError:
        if coordinator is not None or not on_tpu:
            raise  # else this TPU belongs to no slice


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def on_first_process(work: Callable[[], Any]) -> Any:
    """Let the first process do something, as a write or a read, and give all processes the JSON value that it returns.

    A process alone raises what `work` raises. Of several, all raise a ValueError where it raises one or an OSError.
    """
    if jax.process_count() == 1:
        return work()
    answer, cause = None, None
    if is_first_process():
        try:
            answer = {"result": work()}
        except (ValueError, OSError) as error:
            answer, cause = {"error": str(error)}, error
    message = json.dumps(answer).encode()
    # Of few sizes, for a broadcast of each is compiled.
    size = int(broadcast_one_to_all(np.int32(max(SHORTEST_MESSAGE, 1 << len(message).bit_length()))))
    answer = json.loads(broadcast_one_to_all(np.frombuffer(message.ljust(size)[:size], np.uint8)).tobytes())
    if "error" in answer:
        raise ValueError(answer["error"]) from cause
    return answer["result"]


def all_gather(value: np.ndarray) -> np.ndarray:
    """The arrays [...], of one shape and dtype in all P processes, in their order, [P, ...], to the bit."""
    value = np.asarray(value)
    raw = process_allgather(np.frombuffer(value.tobytes(), np.uint8))  # as bytes: jax would cut 64 bits down to 32
    return np.asarray(raw).reshape(-1).view(value.dtype).reshape(-1, *value.shape)


def global_max(value: int) -> jax.Array | int:
    """The highest of the processes' small integers, without waiting for it; of a process alone its own."""
    if jax.process_count() == 1:
        return value
    return _global_max(np.full(jax.local_device_count(), value, np.int32))


@partial(jax.pmap, axis_name="devices", out_axes=None)
def _global_max(value: jax.Array) -> jax.Array:
    return jax.lax.pmax(value, "devices")
