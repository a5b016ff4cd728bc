"""Several processes as one run: how they find each other, what the first does for all, what they agree on.

With a single process everything here does the plain thing.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

HEARTBEAT = 30  # seconds of silence after which a process counts as dead and the others stop
SHORTEST_MESSAGE = 256  # bytes
GRACE = 2  # seconds that the first, on whom the others hang, lets them report the same error
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # what srun sets


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes of a run; to be called before anything else of jax.

    The coordinator is host:port of the first process. Without it, the processes are those that SLURM or the TPU pod
    slice names; where neither does, this one is alone. ValueError where only some of the three are given, one is out of
    its range, or the processes don't meet.
    """
    arguments = (coordinator, num_processes, process_id)
    if arguments == (None, None, None):
        if not (_is_task_of_slurm() or _is_on_tpu()):
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
        if coordinator is not None or not _is_on_tpu():
            raise  # else jax found a TPU that belongs to no slice


def leave(status: int) -> NoReturn:
    """End this process with a status. After an error it does not wait for the others, which then stop too."""
    if status and jax.distributed.is_initialized():
        if is_first_process():
            time.sleep(GRACE)
        sys.stdout.flush()
        os._exit(status)
    raise SystemExit(status)


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def on_first_process(work: Callable[[], Any]) -> Any:
    """Let the first process do something and wait for it: an exclusive write, or a read that all shall agree on.

    All get the JSON value that it returns. Alone, what it raises is raised; of several, all get a ValueError where it
    raises one or an OSError.
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


def on_every_process(work: Callable[[], Any]) -> Any:
    """Do something in all processes; where it fails in one, that one raises what failed and the others a ValueError."""
    result, failure = None, None
    try:
        result = work()
    except (ValueError, OSError) as error:
        failure = error
    if not all_gather(np.array(failure is not None)).any():
        return result
    raise failure or ValueError("another process of the run has failed: see what it says.")


def all_gather(value: np.ndarray) -> np.ndarray:
    """The arrays [...], of one shape and dtype in all P processes, in their order, [P, ...], to the bit."""
    value = np.asarray(value)
    raw = process_allgather(np.frombuffer(value.tobytes(), np.uint8))  # as bytes: jax would cut 64 bits down to 32
    return np.asarray(raw).reshape(-1).view(value.dtype).reshape(-1, *value.shape)


def global_max(value: int) -> jax.Array | int:
    """The highest of the processes' small integers, on its way while the host goes on; alone, the value itself."""
    if jax.process_count() == 1:
        return value
    return _global_max(np.full(jax.local_device_count(), value, np.int32))


@partial(jax.pmap, axis_name="devices", out_axes=None)
def _global_max(value: jax.Array) -> jax.Array:
    return jax.lax.pmax(value, "devices")


def _is_task_of_slurm() -> bool:
    """Whether srun started several tasks, of which this is one."""
    return all(name in os.environ for name in SLURM) and int(os.environ["SLURM_NTASKS"]) > 1


def _is_on_tpu() -> bool:
    """Whether jax has found itself on a TPU machine, which may be one of a slice's."""
    return "tpu" in (jax.config.jax_platforms or "")
