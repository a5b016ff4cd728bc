"""A run that is killed while it saves or ends in an exception loses no more than its last steps."""

import os
import shutil
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.fields import Config, Runtime
from experiments.hybrid import hybrid
from experiments.runs import epochs, records
from jsnn.training.checkpoint import restore, save
from tests.experiments.commands import TINY, Killed, outcome, run, undone


@pytest.mark.parametrize(("keep", "new"), [(2, 3), (1, 3), (1, 2)])
def test_a_save_killed_at_any_call_of_the_system_leaves_an_intact_checkpoint(keep, new, tmp_path, monkeypatch):
    """Before and after each call that changes the disk, the old checkpoint or the new one is there, intact.

    The new one gets the next number, or replaces the only one that is kept.
    """
    trees = [{"x": jnp.arange(3) + step} for step in range(4)]
    before = tmp_path / "before"
    for step in (1, 2):
        save(before, step, trees[step], {"tree": step}, keep)
    calls = [(os, "fsync"), (os, "replace"), (os, "rename"), (shutil, "rmtree")]
    for point in range(200):
        folder, count = tmp_path / str(point), [0]
        shutil.copytree(before, folder)
        with monkeypatch.context() as patch:
            for module, name in calls:
                patch.setattr(module, name, partial(_killing, getattr(module, name), count, point))
            try:
                save(folder, new, trees[3], {"tree": 3}, keep)
            except Killed:
                pass
            else:
                break
        restored = restore(folder, trees[0])
        assert restored.step in (2, new)
        assert restored.record["tree"] in (2, 3)
        np.testing.assert_array_equal(restored.tree["x"], trees[restored.record["tree"]]["x"])
        save(folder, 4, trees[0], {}, keep)
        assert len(list(folder.iterdir())) == keep
    assert point > 2 * 12  # a seal, a record, a rename, what is not kept, each before and after


def _killing(call, count, point, *arguments, **options):
    """A call of the system at which the process dies, before it or after it."""
    count[0] += 1
    if point == 2 * count[0] - 2:
        raise Killed
    result = call(*arguments, **options)
    if point == 2 * count[0] - 1:
        raise Killed
    return result


def test_a_run_killed_between_its_two_notes_tells_its_results(tiny, tiny_copy, monkeypatch):
    undone(tiny_copy, "evaluate")
    write_json = records.write_json

    def killed(path, value):
        write_json(path, value)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_json", killed)
        with pytest.raises(Killed):
            run(hybrid, tiny_copy)
    assert run(hybrid, tiny_copy) == 0
    assert outcome(tiny_copy) == outcome(tiny)


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (OSError("cannot identify image file"), 2, "error: cannot identify image file"),
        (RuntimeError("a worker died"), 1, "error: RuntimeError, see --debug: a worker died"),
    ],
)
def test_a_run_goes_on_after_an_exception_in_the_input_pipeline(
    error, status, sentence, tiny, tmp_path, monkeypatch, capsys
):
    open_source = epochs.open_source

    def failing(*arguments):
        source = open_source(*arguments)

        def shuffled(batch_size, seed, epoch, start):
            for number, item in enumerate(source.shuffled(batch_size, seed, epoch, start), start):
                if (epoch, number) == (2, 13):
                    raise error
                yield item

        return source._replace(shuffled=shuffled)

    with monkeypatch.context() as patch:
        patch.setattr(epochs, "open_source", failing)
        assert run(hybrid, tmp_path, *TINY, "--checkpoint-steps", "3") == status
    assert capsys.readouterr().err == sentence + "\n"
    assert run(hybrid, tmp_path, *TINY) == 0
    assert outcome(tmp_path) == outcome(tiny)


def test_a_run_saves_after_so_many_steps_or_minutes():
    config = with_saves(checkpoint_steps=7, checkpoint_minutes=2)
    assert [epochs.should_save(config, steps, 0.0) for steps in (6, 7)] == [False, True]
    assert [epochs.should_save(config, 1, seconds) for seconds in (119, 120)] == [False, True]
    assert not epochs.should_save(with_saves(checkpoint_steps=None, checkpoint_minutes=2), 10**6, 119)


def with_saves(**fields):
    return Config(run=Runtime(**fields))
