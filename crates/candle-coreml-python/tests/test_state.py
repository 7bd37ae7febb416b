"""States between predictions: a language model in one file whose caches are states, against transformers."""

import numpy as np
import pytest
from conftest import read_safetensors

import candle_coreml as ct


@pytest.fixture(scope="module")
def stateful(root):
    return ct.MLModel(root / "conformance/single_file/per-layer.mlpackage")


def feed(model, state, ids):
    """Logits after every token, one token at a time."""
    names = [f.name for f in model.description.inputs]
    shape = {f.name: f for f in model.description.inputs}
    rows = []
    for position, token in enumerate(ids):
        data = {}
        for name in names:
            low = name.lower()
            if "id" in low:
                data[name] = np.array([[token]], np.int32)
            elif "mask" in low:
                length = position + 1 if shape[name].shape_ranges else shape[name].shape[-1]
                mask = np.where(np.arange(length) <= position, 0.0, -np.inf)
                data[name] = mask.reshape(1, 1, 1, -1).astype(np.float16)
            else:
                data[name] = np.array([position], np.int32)
        outputs = model.predict(data, state)
        rows.append(next(iter(outputs.values())).reshape(-1))
    return np.array(rows)


def test_states_go_on_where_they_were(root, stateful):
    reference = read_safetensors(root / "conformance/single_file/reference.safetensors")
    ids, want = reference["short.ids"], reference["short.logits"]
    state = stateful.make_state()
    found = feed(stateful, state, ids)
    np.testing.assert_allclose(found, want, atol=0.03)
    # Another state begins anew, the first is where it was.
    np.testing.assert_allclose(feed(stateful, stateful.make_state(), ids), want, atol=0.03)


def test_states_are_read_written_and_reset(stateful):
    state = stateful.make_state()
    names = state.names
    assert names == [f.name for f in stateful.description.states] and names
    value = state.read_state(names[0])
    assert value.dtype == np.float32 and not value.any()
    state.write_state(names[0], np.full(value.shape, 0.5, np.float16))
    assert (state.read_state(names[0]) == 0.5).all() and not state.read_state(names[1]).any()
    state.reset()
    assert not state.read_state(names[0]).any()
    with pytest.raises(ct.NotFoundError):
        state.read_state("other")
    with pytest.raises(ct.InputError):
        state.write_state(names[0], np.zeros((1, 2), np.float16))


def test_states_are_asked_for(stateful):
    with pytest.raises(ct.InputError):
        stateful.predict([{}], stateful.make_state())
    with pytest.raises(ct.CoreMLError):
        feed(stateful, None, [1])
