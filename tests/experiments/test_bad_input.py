"""A bad option of a command is refused in one sentence, with status 2, before anything is written."""

import pytest

from tests.experiments.commands import finish, refused, start


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["cifar10_vgg5"], "Available subcommands: digits, fashion_mnist_cpu"),
        (["--num-stepz", "4"], "--num-steps"),
        (["--num-steps", "many"], "Error parsing --num-steps"),
        (["--num-steps"], "--num-steps"),
        (["--num-steps", "0"], "error: num_steps must be at least 1 and at most 100000, got 0."),
        (["--num-steps", "4.5"], "Error parsing --num-steps"),
        (["--num-steps", "4", "--eval-steps", "2"], "error: eval_steps must be at least num_steps, 4, got 2."),
        (
            ["--num-steps", "999999999", "--eval-steps", "999999999"],
            "error: num_steps must be at least 1 and at most 100000, got 999999999.",
        ),
        (["--balance-steps", "0"], "error: balance_steps must be at least 1 and at most 100000, got 0."),
        (["--balance-steps", "10000000"], "error: balance_steps must be at least 1 and at most 100000, got 10000000."),
        (["--balance-images", "-5"], "error: balance_images must be at least 1 and below 2^31, got -5."),
        (["--chunk", "0"], "error: chunk must be at least 1 and below 2^31, or auto, got 0."),
        (["--precision", "float16"], "bfloat16"),
        (["--finetune.leak", "0"], "error: finetune.leak must be in (0, 1], got 0.0."),
        (["--finetune.leak", "1.5"], "error: finetune.leak must be in (0, 1], got 1.5."),
        (["--finetune.leak", "nan"], "error: finetune.leak must be in (0, 1], got nan."),
        (["--scaling-factor", "-0.5"], "error: scaling_factor must be above 0 and finite, or auto, got -0.5."),
        (["--scaling-factor", "inf"], "error: scaling_factor must be above 0 and finite, or auto, got inf."),
        (["--percentile", "0"], "error: percentile must be in (0, 100], got 0.0."),
        (["--percentile", "100.1"], "error: percentile must be in (0, 100], got 100.1."),
        (["--batch-size", "66"], "error: batch_size 66 can't be split evenly over 4 devices: choose a multiple of 4."),
        (["--eval-batch-size", "6"], "error: eval_batch_size 6 can't be split evenly over 4 devices"),
        (["--batch-size", "4000"], "error: a batch of 4000 is larger than the training split of 1294 images"),
        (["--architecture", "vgg16"], "error: the image is too small for this model"),
        (["--architecture", "vgg6"], "vgg5"),
        (["--balance", "stem"], "error: balance stem is for ResNets"),
        (["--dataset", "cifar11"], "cifar10"),
        (["--dataset", "cifar100", "--data-dir", "nowhere"], "`tfds build cifar100 --file_format=array_record"),
        (["--ann.lr", "0"], "error: ann.lr must be above 0 and finite, got 0.0."),
        (["--ann.lr", "1e999"], "error: ann.lr must be above 0 and finite, got inf."),
        (["--ann.epochs", "0"], "error: ann.epochs must be at least 1 and at most 100000, got 0."),
        (["--ann.weight-decay", "nan"], "error: ann.weight_decay must be at least 0 and finite, got nan."),
        (["--conv-dropout", "1"], "error: conv_dropout must be in [0, 1), got 1.0."),
        (["--hidden", "0"], "error: hidden must be at least 1 and at most 65536 units each, got (0,)."),
        (["--width", "64", "--hidden", "65536", "65536"], "error: training the network's weights takes 88 GB, of"),
        (["--width", "0"], "error: width must be above 0 and at most 64, got 0.0."),
        (["--width", "1e9"], "error: width must be above 0 and at most 64, got 1000000000.0."),
        (["--finetune.alpha", "0"], "error: finetune.alpha must be above 0"),
        (["--finetune.beta", "inf"], "error: finetune.beta must be at least 0 and finite, got inf."),
        (["--seed", "-1"], "error: seed must be at least 0 and below 2^32, got -1."),
        (["--seed", "4294967296"], "error: seed must be at least 0 and below 2^32, got 4294967296."),
        (["--streams", "0"], "error: streams must be at least 1 and at most 1000, got 0."),
        (["--on-nan", "ignore"], "skip"),
        (["--ann.epochs", str(2**63)], f"error: ann.epochs must be at least 1 and at most 100000, got {2**63}."),
        (["--hidden", str(10**9)], "error: hidden must be at least 1 and at most 65536 units each, got (1000000000,)."),
        (
            ["--eval-batch-size", str(10**19)],
            "error: eval_batch_size must be at least 1 and below 2^31, got 1000",
        ),
        (["--crop-padding", str(10**9)], "error: crop_padding must be at least 0 and at most 1024, got 1000000000."),
        (["--data-dir", ""], "error: an argument is empty: name a value, or leave its option out."),
        (["--keep-checkpoints", "0"], "error: keep_checkpoints must be at least 1 and below 2^31, got 0."),
        (["--checkpoint-steps", "0"], "error: checkpoint_steps must be at least 1 and below 2^31, or None, got 0."),
        (["--checkpoint-minutes", "0"], "error: checkpoint_minutes must be above 0 and finite, got 0.0."),
        (["--process-id", "1"], "error: coordinator, num_processes and process_id go together, got"),
        (["--coordinator", "host:1", "--num-processes", "2", "--process-id", "2"], "error: needed are host:port, a"),
        (["--coordinator", "host", "--num-processes", "2", "--process-id", "0"], "error: needed are host:port, a"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_a_sentence(arguments, sentence, capsys, tmp_path):
    workdir = tmp_path / "run"
    assert sentence in refused(capsys, *arguments, "--workdir", str(workdir))
    assert not workdir.exists()


def test_the_exit_status_of_the_process_is_2():
    assert finish(start("--num-steps", "0")) == (2, "error: num_steps must be at least 1 and at most 100000, got 0.\n")


def test_the_traceback_is_there_on_demand():
    status, output = finish(start("--num-steps", "0", "--debug"))
    assert status == 2
    assert "Traceback" in output
