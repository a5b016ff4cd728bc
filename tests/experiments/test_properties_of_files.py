"""Any tear of the metrics is survived, and any flipped bit of a checkpoint is detected."""

import json

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsnn.training import metrics
from jsnn.training.checkpoint import is_intact, save
from tests.properties import many

records = st.fixed_dictionaries({"stage": st.sampled_from(["ann", "hybrid"]), "step": st.integers(1, 99)})


@many
@given(st.lists(records, max_size=6), st.lists(records, max_size=4), st.integers(0, 40))
def test_metrics_survive_any_tear(tmp_path_factory, before, wanted, lost):
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    text = "".join(json.dumps(entry) + "\n" for entry in before)
    path.write_text(text[: max(0, len(text) - lost)])
    complete = text[: max(0, len(text) - lost)].count("\n")
    assert metrics.read(path) == before[:complete]
    mine = [{**entry, "stage": "hybrid"} for entry in wanted]
    metrics.rewrite(path, "hybrid", mine)
    assert metrics.read(path) == [entry for entry in before[:complete] if entry["stage"] == "ann"] + mine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small one, whose bits are flipped one by one."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save(folder, 1, {"x": jnp.arange(200.0), "y": {"z": jnp.ones((3, 4))}}, {"seed": 1})
    return folder / "1"


@many
@given(st.data())
def test_any_flipped_bit_of_a_checkpoint_is_detected(checkpoint, data):
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    assert is_intact(checkpoint)
    try:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        assert not is_intact(checkpoint)
    finally:
        path.write_bytes(content)
