"""A program's operations and bytes on another platform, as counted by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from experiments.compile.counting import Platform, Work, count
from experiments.compile.programs import hybrid_step
from experiments.config import with_fields
from experiments.machine import Machine
from experiments.presets import PRESETS
from jsnn.kernels import conv_general_dilated

X, KERNEL = jnp.zeros((4, 8, 8, 40)), jnp.zeros((3, 3, 40, 48))


def gradients(convolve):
    def total(x, kernel):
        return (convolve(x, kernel) ** 2).sum()

    return jax.grad(total, (0, 1))


TPU = Platform("tpu")
# Of 8 pixels and a window of 3, the places at which one meets the other: the outermost windows miss a pixel each.
MACS = 4 * (3 * 8 - 2) ** 2 * 40 * 48


def ours(x, kernel, stride=1):
    return conv_general_dilated(x, kernel, (stride, stride), [(1, 1), (1, 1)])


def platforms_own(x, kernel, stride=1, dilation=1, groups=1):
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
    padding, dilations = [(dilation, dilation)] * 2, (dilation, dilation)
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, rhs_dilation=dilations, **options)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_a_program_for_another_platform_holds_no_way_of_the_cpu(platform):
    """Lowered on a CPU: the convolution and its two gradients, and no loop over pieces of images."""
    text = jax.jit(gradients(ours)).trace(X, KERNEL).lower(lowering_platforms=(platform,)).as_text()
    assert [text.count(f"stablehlo.{name}") for name in ("convolution", "while", "dot_general")] == [3, 0, 0]


@pytest.mark.parametrize(
    ("options", "macs"),
    [
        ({}, MACS),
        ({"stride": 2}, 4 * (3 * 4 - 1) ** 2 * 40 * 48),  # and not the zeros between pixels in its gradient
        ({"dilation": 2, "groups": 4}, 4 * (3 * 8 - 4) ** 2 * 10 * 48),
    ],
)
def test_a_convolutions_operations_are_those_counted_by_hand(options, macs):
    kernel = jnp.zeros((3, 3, 40 // options.get("groups", 1), 48))
    assert count(gradients(partial(platforms_own, **options)), (X, kernel), TPU).operations == 3 * 2 * macs


def test_a_convolutions_bytes_are_those_counted_by_hand():
    x_and_y, kernel = 4 * (X.size + 4 * 8 * 8 * 48), 4 * KERNEL.size
    actual = count(gradients(platforms_own), (X, KERNEL), TPU).bytes
    assert actual == 3 * (x_and_y + kernel) + 2 * (4 * X.size + kernel)


def test_the_way_of_the_platform_is_counted():
    assert count(gradients(ours), (X, KERNEL), TPU) == count(gradients(platforms_own), (X, KERNEL), TPU)
    on_cpu = count(gradients(ours), (X, KERNEL), Platform("cpu")).operations
    assert on_cpu == 3 * 2 * 16 * (4 * 4 * 4) * 40 * 48  # Winograd's: 16 products for each tile of four outputs


def test_of_a_choice_the_shorter_way_is_counted():
    def choose(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert count(choose, (jnp.zeros((16, 16)),), TPU).operations == 2 * 16**3


def test_trips_count_and_what_nobody_uses_does_not():
    matrix = jnp.zeros((16, 16))

    def power(x):
        def step(x, _):
            unused = x @ x.T
            return x @ matrix, unused

        return jax.lax.scan(step, x, length=5)[0]

    work = count(power, (jnp.zeros((8, 16)),), Platform("tpu", operand_bytes=2))
    assert work.operations == 5 * 2 * 8 * 16 * 16
    assert work.bytes == 5 * (2 * 8 * 16 + 2 * 16 * 16 + 4 * 8 * 16) + 2 * 4 * 8 * 16
    near = count(power, (jnp.zeros((8, 16)),), Platform("tpu", near_bytes=2**20))
    assert near == Work(work.operations, 2 * 4 * 8 * 16)  # only what comes in and goes out
    part = count(power, (jnp.zeros((8, 16)),), Platform("tpu", near_bytes=500, operand_bytes=2))
    assert part.bytes == 5 * (2 * 16 * 16 - 500 + 4 * 8 * 16 - 500) + 2 * 4 * 8 * 16


def test_of_a_data_set_only_rows_are_taken():
    images, index = jnp.zeros((1000, 8)), jnp.zeros(4, jnp.int32)
    assert count(lambda images, index: images[index], (images, index), TPU, gathered=(0,)).bytes == 4 * 4 + 4 * 4 * 8


def test_a_step_of_the_snn_counts_three_products_a_layer_and_step():
    """... but for the first layer's image gradient, which nobody needs, and no product of the forward pass twice."""
    fields = {"network.width": 0.25, "network.hidden": (256,), "data.batch_size": 8}
    config = with_fields(PRESETS["vgg5_cifar10"].config, fields | {"convert.num_steps": 16, "run.chunk": 8})
    program = hybrid_step(config, Machine(None, 1, None))
    of_images = 46**2 * 16 * 32 + 46**2 * 32 * 32  # 3 * 16 - 2 places along a side
    first, others = 94**2 * 3 * 16, of_images + 2048 * 256 + 256 * 10
    actual = count(program.on_one, program.arguments, TPU, program.gathered)
    assert actual.operations == 2 * 8 * 16 * (2 * first + 3 * others)
