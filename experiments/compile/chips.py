"""Chips that programs are compiled for: what their vendors say they can do, and how to compile for several of them."""

import math
import os
import re
from typing import Any, NamedTuple

from jax.experimental import topologies

from experiments.machine import Machine

GB = 1e9


class Chip(NamedTuple):
    """What a device can do, by its data sheet, and how it is named to the compiler."""

    platform: str  # as jax lowers for it
    wheels: str  # that bring its compiler
    device_bytes: int  # that programs may take: what the compiler says is there, or what jax takes by default
    near_bytes: int  # memory beside the cores, which need not be read twice: VMEM, CMEM, or the cache of a GPU
    operations_per_second: dict[str, float]  # precision of operands -> peak rate; a multiply-add is two
    bytes_per_second: float  # to and from its memory
    link_bytes_per_second: float  # to all its neighbours, in one direction
    operand_bytes: dict[str, int]  # precision -> bytes of a number that enters a product
    options: dict[str, Any]  # of jax.experimental.topologies


def _tpu(gib: float, near: int, teraflops: float, bandwidth: float, link: float, **options: Any) -> Chip:
    memory, rates = (int(gib * 2**30), near * 2**20), dict.fromkeys(("float32", "bfloat16"), teraflops * 1e12)
    return Chip("tpu", "libtpu", *memory, rates, bandwidth * GB, link * GB, dict.fromkeys(rates, 2), options)


# Rates are those of Google Cloud's TPU documentation, and of NVIDIA's data sheet of the H100 SXM, without sparsity. XLA
# gives a TPU's matrix unit bfloat16 also where operands are float32, and an H100's tensor cores TensorFloat-32.
CHIPS = {
    "v4": _tpu(30.75, 160, 275, 1228, 300, chip_config_name="megacore"),
    "v5e": _tpu(15.75, 128, 197, 819, 200),
    "v6e": _tpu(31.25, 128, 918, 1640, 400),
    "h100": Chip(
        platform="cuda",
        wheels="jax-cuda12-plugin, jax-cuda12-pjrt and nvidia-cuda-nvcc-cu12",
        device_bytes=int(0.75 * 84_942_979_072),  # of 80 GB, XLA_PYTHON_CLIENT_MEM_FRACTION's default
        near_bytes=50 * 2**20,
        operations_per_second={"float32": 494.5e12, "bfloat16": 989.5e12},
        bytes_per_second=3352 * GB,
        link_bytes_per_second=450 * GB,
        operand_bytes={"float32": 4, "bfloat16": 2},
        options={},
    ),
}
# XLA's description of an H100, of which the compiler needs the numbers: a driver would give them.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Target(NamedTuple):
    """Chips in a topology."""

    chip: Chip
    machine: Machine


def target_of(topology: str) -> Target:
    """The devices of a topology as v5e:2x4 or h100:2; ValueError where it is unknown, or its compiler not installed."""
    named = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)
    if named is None or named[1] not in CHIPS:
        sentence = f"there is no topology {topology!r}: name a chip and how many"
        raise ValueError(f"{sentence}, as v5e:2x4, v4:2x2x1 or h100:2.")
    kind, shape = named.groups()
    chip, count = CHIPS[kind], math.prod(map(int, shape.split("x")))
    # libtpu asks the network which TPU it is on, complains of no answer, and refuses a second process, unless told.
    here = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", **here}
    of_gpus = {"target_config": H100, "topology": f"1x1x{count}"}
    of_tpus = {**chip.options, **({"chips_per_host_bounds": (1, 1, 1)} if count == 1 else {})}
    name, options = (kind, of_gpus) if chip.platform == "cuda" else (topology, of_tpus)
    try:
        described = topologies.get_topology_desc(name, chip.platform, **options)
    except Exception as error:
        sentence = f"programs can't be compiled for {topology} ({' '.join(str(error).split())[:200]})"
        raise ValueError(f"{sentence}: install {chip.wheels}, of the version that jax names.") from error
    return Target(chip, Machine(tuple(described.devices), count, chip.device_bytes))
