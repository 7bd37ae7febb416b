"""Numbers, strings, lists and dictionaries, in and out, against scikit-learn, XGBoost and NumPy
(conformance/classic, conformance/values)."""

import json

import numpy as np
import pytest

import candle_coreml as ct
from conftest import ROOT

# Computed in f64 in another order; XGBoost's references are f32.
TOLERANCE = 2e-6

CASES = sorted(p for folder in ("classic", "values") for p in (ROOT / "conformance" / folder).glob("*.json"))


def as_given(feature, value):
    if feature.kind == "dictionary" and feature.dtype == "int64":
        return {int(k): v for k, v in value.items()}
    return np.array(value, np.float64) if feature.kind == "array" else value


def check(feature, found, want):
    if feature.kind == "dictionary":
        assert isinstance(found, dict)
        assert all(isinstance(k, int if feature.dtype == "int64" else str) for k in found)
        assert {str(k) for k in found} == set(want)
        for key, value in found.items():
            assert value == pytest.approx(want[str(key)], rel=TOLERANCE, abs=TOLERANCE)
    elif feature.kind in ("string", "int64"):
        assert found == want and type(found) is type(want)
    elif feature.kind == "double":
        assert isinstance(found, float) and found == pytest.approx(want, rel=TOLERANCE, abs=TOLERANCE)
    elif feature.kind == "sequence":
        assert isinstance(found, list) and found == want
    else:
        assert isinstance(found, np.ndarray)
        # JSON does not say the shape of no rows.
        want = np.array(want).reshape(found.shape) if np.size(want) == 0 else np.array(want)
        np.testing.assert_allclose(found, want, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES, ids=[p.stem for p in CASES])
def test_values_agree_with_the_references(case):
    cases = json.loads(case.read_text())
    rows = cases if isinstance(cases, list) else cases.get("rows", cases.get("cases"))
    model = ct.MLModel(case.with_suffix(".mlmodel"))
    taken = {f.name: f for f in model.description.inputs}
    returned = {f.name: f for f in model.description.outputs}
    given = [{n: as_given(taken[n], v) for n, v in row["inputs"].items() if v is not None} for row in rows]
    batch = model.predict(given)
    for row, data, in_batch in zip(rows, given, batch):
        outputs = model.predict(data)
        assert outputs.keys() == in_batch.keys()
        for name, want in row["outputs"].items():
            check(returned[name], outputs[name], want)
            check(returned[name], in_batch[name], want)


def test_integers_are_keys_where_strings_are_described(tmp_path):
    (source,) = (ROOT / "conformance").glob("*/dict_vectorizer.mlmodel")
    model = tmp_path / "seven.mlmodel"
    # The second feature is named 7, as scikit-learn's vectorizer would name an integer.
    model.write_bytes(source.read_bytes().replace(b"\n\x01b", b"\n\x017"))
    model = ct.MLModel(model)
    assert model.predict({"x": {"a": 1.0, 7: 2.5}})["y"].tolist() == [1.0, 2.5, 0.0]
    with pytest.raises(ct.errors.InputError, match="strings as keys"):
        model.predict({"x": {7.5: 1.0}})
