"""Chips that programs are compiled for: what their vendors say they can do, and how to compile for several of them."""

import math
import os
import re
from typing import Any, NamedTuple

from jax.experimental import topologies

from experiments.machine import Machine

GIB, GB = 2**30, 1e9


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
    source: str  # of the rates
    options: dict[str, Any]  # of jax.experimental.topologies
    compiler_options: dict[str, Any]


# XLA gives a TPU's matrix unit bfloat16 also where operands are float32, and an H100's tensor cores TensorFloat-32.
_TPU_OPERANDS = {"float32": 2, "bfloat16": 2}


def _tpu(gib: float, near: int, teraflops: float, bandwidth: float, link: float, page: str, **options: Any) -> Chip:
    rates = dict.fromkeys(_TPU_OPERANDS, teraflops * 1e12)
    source = f"Google Cloud TPU documentation, {page}"
    memory = int(gib * GIB), near * 2**20
    return Chip("tpu", "libtpu", *memory, rates, bandwidth * GB, link * GB, _TPU_OPERANDS, source, options, {})


CHIPS = {
    "v4": _tpu(30.75, 160, 275, 1228, 300, "TPU v4", chip_config_name="megacore"),
    "v5e": _tpu(15.75, 128, 197, 819, 200, "TPU v5e"),
    "v6e": _tpu(31.25, 128, 918, 1640, 400, "TPU v6e"),
    "h100": Chip(
        platform="cuda",
        wheels="jax-cuda12-plugin, jax-cuda12-pjrt and nvidia-cuda-nvcc-cu12",
        device_bytes=int(0.75 * 84_942_979_072),  # of 80 GB, XLA_PYTHON_CLIENT_MEM_FRACTION's default
        near_bytes=50 * 2**20,
        operations_per_second={"float32": 494.5e12, "bfloat16": 989.5e12},
        bytes_per_second=3352 * GB,
        link_bytes_per_second=450 * GB,
        operand_bytes={"float32": 4, "bfloat16": 2},
        source="NVIDIA H100 Tensor Core GPU data sheet, SXM, without sparsity",
        options={},
        compiler_options={"xla_gpu_autotune_level": "0"},  # else it would run kernels
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

    name: str  # as v5e:2x4
    chip: Chip
    machine: Machine


def target_of(topology: str) -> Target:
    """The devices of a topology as v5e:2x4, v4:2x2x1 or h100:2.

    Raises:
        ValueError: where the topology is unknown, or the compiler for it is not installed.
    """
    named = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)
    if named is None or named[1] not in CHIPS:
        examples = "v5e:2x4, v4:2x2x1 or h100:2"
        raise ValueError(f"there is no topology {topology!r}: name a chip and how many, as {examples}.")
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
    return Target(topology, chip, Machine(tuple(described.devices), count, chip.device_bytes))
