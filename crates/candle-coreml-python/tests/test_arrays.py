"""Arrays in and out, against PyTorch's results of the encoder in the repository."""

import sys

import numpy as np
import pytest

import candle_coreml as ct

# Of logits computed in fp16 there, in f32 here: as in the library's own test.
TOLERANCE = 0.02


def inputs(reference, name):
    return {k: reference[name + "." + k] for k in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("name", ["one", "four", "twelve"])
def test_results_are_the_references(intent, intent_reference, name):
    outputs = intent.predict(inputs(intent_reference, name))
    want = intent_reference[name + ".logits"]
    assert outputs["logits"].dtype == np.float32 and outputs["logits"].shape == want.shape
    np.testing.assert_allclose(outputs["logits"], want, atol=TOLERANCE)


def forms():
    yield "int32", lambda a: a.astype(np.int32)
    yield "int64", lambda a: a.astype(np.int64)
    yield "int16", lambda a: a.astype(np.int16)
    yield "uint16", lambda a: a.astype(np.uint16)
    yield "uint32", lambda a: a.astype(np.uint32)
    yield "uint64", lambda a: a.astype(np.uint64)
    yield "float64", lambda a: a.astype(np.float64)
    yield "column-major", lambda a: np.asfortranarray(a)
    yield "big-endian", lambda a: a.astype(">i4")
    yield "every second", lambda a: np.repeat(a, 2, axis=1)[:, ::2]
    yield "reversed twice", lambda a: a[::-1].copy()[::-1]
    yield "a list", lambda a: a.tolist()
    yield "read only", read_only
    yield "unaligned", unaligned


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)[1:]
    raw[:] = np.frombuffer(a.tobytes(), np.uint8)
    return raw.view(a.dtype).reshape(a.shape)


@pytest.mark.parametrize("form", [f for _, f in forms()], ids=[n for n, _ in forms()])
def test_every_form_of_an_array_is_the_same_input(intent, intent_reference, form):
    plain = inputs(intent_reference, "four")
    want = intent.predict(plain)["logits"]
    got = intent.predict({k: form(np.array(v)) for k, v in plain.items()})["logits"]
    np.testing.assert_array_equal(got, want)


def test_inputs_are_not_changed_and_outputs_are_ones_own(intent, intent_reference):
    given = {k: np.array(v) for k, v in inputs(intent_reference, "four").items()}
    before = {k: v.copy() for k, v in given.items()}
    first = intent.predict(given)["logits"]
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(intent.predict(given)["logits"], kept)
    for name, value in given.items():
        np.testing.assert_array_equal(value, before[name])


def test_a_list_of_dictionaries_is_predicted_row_by_row(intent, intent_reference):
    one = inputs(intent_reference, "one")
    rows = [dict(one), {k: v[:, :9] for k, v in one.items()}, dict(one)]
    found = intent.predict(rows)
    assert len(found) == 3
    for row, outputs in zip(rows, found):
        np.testing.assert_array_equal(outputs["logits"], intent.predict(row)["logits"])
    assert intent.predict([]) == []


@pytest.mark.skipif(sys.platform == "win32", reason="getrusage")
def test_large_arrays_are_not_copied_on_the_way_in(intent):
    import resource

    scale = 1 if sys.platform == "darwin" else 1024

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale

    # Of another shape than the model takes: the library has seen it when it says so.
    big = np.zeros((1, 1 << 26), np.int32)
    big[0, ::512] = 1
    before = peak()
    with pytest.raises(ct.InputError) as raised:
        intent.predict({"input_ids": big, "attention_mask": big})
    assert "67108864" in str(raised.value)
    assert peak() - before < big.nbytes // 4, "a copy of 256 MB"


def test_scalars_and_torch_like_tensors_become_arrays(intent, intent_reference):
    class Tensor:
        """What torch's tensors have."""

        def __init__(self, array):
            self.array = array

        def detach(self):
            return self

        def cpu(self):
            return self.array

    plain = inputs(intent_reference, "one")
    got = intent.predict({k: Tensor(v) for k, v in plain.items()})["logits"]
    np.testing.assert_array_equal(got, intent.predict(plain)["logits"])
