"""Descriptions, options, errors."""

import ast
import pathlib
import pickle
import sys

import numpy as np
import pytest

import candle_coreml as ct

CHUNK = "models/tiny-qwen3/qwen_FFN_PF_lut6_chunk_01of02.mlpackage"


def test_descriptions_name_types_shapes_and_metadata(intent):
    found = intent.description
    ids = {f.name: f for f in found.inputs}["input_ids"]
    assert (ids.kind, ids.dtype, ids.optional) == ("array", "int32", False)
    assert ids.shape is not None and ids.shape_ranges[0][0] == 1
    assert [f.name for f in found.outputs][0] == "logits" or "logits" in intent.output_description
    assert found.states == [] and found.functions == ["main"] and found.specification_version >= 6
    assert isinstance(intent.user_defined_metadata, dict)
    assert "input_ids" in intent.input_description and intent.engine == "portable"
    assert "input_ids" in repr(found) and "portable" in repr(intent)


def test_functions_are_chosen_by_name():
    infer, prefill = ct.MLModel(CHUNK, "infer"), ct.MLModel(CHUNK, function_name="prefill")
    assert (infer.function_name, prefill.function_name) == ("infer", "prefill")
    assert infer.description.functions == ["infer", "prefill"] and infer.description.states
    assert infer.description.inputs[0].shape != prefill.description.inputs[0].shape
    with pytest.raises(ct.NotFoundError) as raised:
        ct.MLModel(CHUNK, "other")
    assert "infer" in str(raised.value)


def test_compute_units_are_those_of_coremltools(root):
    path = root / "models/tiny-intent/intent.mlpackage"
    assert ct.MLModel(path).compute_unit is ct.ComputeUnit.ALL
    for unit in ct.ComputeUnit:
        assert ct.MLModel(path, compute_units=unit).compute_unit is unit
        assert ct.MLModel(path, compute_units=unit.name).compute_unit is unit
    with pytest.raises(ct.CoreMLError):
        ct.MLModel(path, compute_units="GPU")
    with pytest.raises(TypeError):
        ct.MLModel(path, compute_units=3)
    with pytest.raises(ct.CoreMLError):
        ct.MLModel(path, engine="other")


def test_errors_have_fields(intent):
    ids = np.ones((1, 4), np.int32)
    with pytest.raises(KeyError) as raised:
        intent.predict({"input_ids": ids, "attention_mask": ids, "more": ids})
    error = raised.value
    assert (error.kind, error.feature) == ("not-found", "more") and error.file.endswith("intent.mlpackage")
    assert "`more`" in str(error) and "input_ids" in error.expected
    with pytest.raises(ct.InputError) as raised:
        intent.predict({"input_ids": ids, "attention_mask": np.ones((1, 2, 3), np.int32)})
    error = raised.value
    assert error.feature == "attention_mask" and error.expected and "[1, 2, 3]" in error.found
    with pytest.raises(ct.InputError) as raised:
        intent.predict({"input_ids": ids})
    assert raised.value.feature == "attention_mask"
    with pytest.raises(ct.InputError) as raised:
        intent.predict([{"input_ids": ids, "attention_mask": ids}, {"input_ids": ids}])
    assert raised.value.row == 1
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (type(copy), str(copy), copy.row) == (ct.InputError, str(raised.value), 1)


@pytest.mark.parametrize(
    "wrong",
    ["text", {"a": 1.0}, object(), np.array(["a"]), np.ones((1, 4), complex), np.array([None]), None],
    ids=lambda w: type(w).__name__,
)
def test_what_is_no_array_is_refused_by_name(intent, wrong):
    with pytest.raises(ct.InputError) as raised:
        intent.predict({"input_ids": wrong, "attention_mask": np.ones((1, 4), np.int32)})
    assert raised.value.feature == "input_ids"


def test_large_unsigned_integers_are_refused(intent):
    ids = np.array([[2**63]], np.uint64)
    with pytest.raises(ct.InputError):
        intent.predict({"input_ids": ids, "attention_mask": ids})


def test_what_is_no_data_is_refused(intent):
    for wrong in [None, 3, "text", (1,), [1], [{}, 2]]:
        with pytest.raises(TypeError):
            intent.predict(wrong)


def test_files_are_named_in_errors(tmp_path):
    for name, content in [("none.mlpackage", None), ("bad.mlmodel", b"\xff" * 64)]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RuntimeError) as raised:
            ct.MLModel(path)
        assert isinstance(raised.value, ct.CoreMLError)
        assert raised.value.kind in ("io", "model") and name in raised.value.file


def test_a_specification_needs_coremltools(intent, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ImportError, match="get_spec returns coremltools.*install coremltools, or read `description`"):
        intent.get_spec()


def test_stubs_name_what_there_is():
    package = pathlib.Path(ct.__file__).parent
    assert (package / "py.typed").exists()
    stubs = ast.parse((package / "_native.pyi").read_text(encoding="utf-8"))
    for node in stubs.body:
        if isinstance(node, ast.ClassDef):
            named = {f.name for f in node.body if isinstance(f, ast.FunctionDef)}
            there = {n for n in vars(getattr(ct._native, node.name)) if not n.startswith("_")}
            assert there == {n for n in named if not n.startswith("_")}, node.name
    classes = {n for n, v in vars(ct._native).items() if isinstance(v, type)}
    assert classes == {n.name for n in stubs.body if isinstance(n, ast.ClassDef)}


def test_everything_public_has_a_docstring():
    for name in ct.__all__:
        value = getattr(ct, name)
        if isinstance(value, type):
            assert value.__doc__, name
            for member, found in vars(value).items():
                if not member.startswith("_") and callable(found):
                    assert found.__doc__, (name, member)
