"""Writes models with classes of the application: `python -m tools.custom_models conformance/custom`.

Networks are made by coremltools' builder, the other files by hand; results by NumPy. `candle-coreml/tests/custom.rs` supplies the
classes.
"""

import json
import sys
from pathlib import Path

import coremltools.proto.FeatureTypes_pb2 as types
import coremltools.proto.Model_pb2 as model_pb2
import coremltools.proto.NeuralNetwork_pb2 as nn
import numpy as np
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder, flexible_shape_utils

RNG = np.random.default_rng(11)
CASES = {}


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def numbers(x):
    return {"shape": list(np.shape(x)), "data": np.asarray(x, dtype=np.float64).ravel().tolist()}


def mix(channels):
    """`Mix`: y = scale · (first(c) · x + second(c) · z) + offset, and the means of its rows."""
    first, second = draw(channels), draw(channels).astype(np.float16)
    params = nn.CustomLayerParams(className="Mix", description="two blobs, mixed by channel")
    params.parameters["scale"].doubleValue = 0.75
    params.parameters["offset"].intValue = 2
    params.parameters["means"].stringValue = "rows"
    params.parameters["keep"].boolValue = True
    params.weights.add().floatValue.extend(first.tolist())
    params.weights.add().float16Value = second.tobytes()

    def compute(x, z):
        w = [v.astype(np.float32)[:, None, None] for v in (first, second)]
        y = np.float32(0.75) * (w[0] * x + w[1] * z) + 2
        return y, y.mean(-1, keepdims=True)

    return params, compute


def layer(folder):
    """A custom layer between two layers, of a fixed and of a flexible size."""
    for name, flexible in ("layer", False), ("flexible", True):
        x, w = draw(3, 4, 5), draw(3, 3)
        builder = NeuralNetworkBuilder([("x", datatypes.Array(*x.shape))], [("y", None), ("means", None)])
        builder.add_convolution("point", 3, 3, 1, 1, 1, 1, "valid", 1, w.T[None, None], None, False, input_name="x", output_name="z")
        params, compute = mix(3)
        builder.add_custom("mix", ["x", "z"], ["mixed", "means"], params)
        builder.add_activation("relu", "RELU", "mixed", "y")
        spec = builder.spec
        if flexible:
            flexible_shape_utils.add_multiarray_ndshape_enumeration(spec, "x", [(3, 4, 5), (3, 2, 7)])
        (folder / f"{name}.mlmodel").write_bytes(spec.SerializeToString())
        rows = []
        for shape in [(3, 4, 5), (3, 2, 7)] if flexible else [(3, 4, 5)]:
            x = draw(*shape)
            y, means = compute(x, np.einsum("oi,ihw->ohw", w, x))
            rows.append({"x": numbers(x), "y": numbers(np.maximum(y, 0)), "means": numbers(means)})
        CASES[name] = rows


def feature(all_features, name, optional=False):
    added = all_features.add(name=name)
    added.type.isOptional = optional
    return added.type


def blend(spec):
    """`Blend`: a word and the sum of numbers in every form."""
    spec.customModel.className = "Blend"
    spec.customModel.description = "sums"
    spec.customModel.parameters["factor"].doubleValue = 1.5
    spec.customModel.parameters["table"].bytesValue = bytes([1, 2, 3])
    inputs, outputs = spec.description.input, spec.description.output
    feature(inputs, "number").doubleType.SetInParent()
    feature(inputs, "count").int64Type.SetInParent()
    feature(inputs, "word").stringType.SetInParent()
    feature(inputs, "more", optional=True).doubleType.SetInParent()
    feature(inputs, "weights").dictionaryType.stringKeyType.SetInParent()
    feature(inputs, "array").multiArrayType.MergeFrom(types.ArrayFeatureType(shape=[3], dataType=types.ArrayFeatureType.DOUBLE))
    feature(outputs, "sum").doubleType.SetInParent()
    feature(outputs, "text").stringType.SetInParent()
    feature(outputs, "scaled").multiArrayType.MergeFrom(types.ArrayFeatureType(shape=[3], dataType=types.ArrayFeatureType.DOUBLE))


def expected(row):
    total = row["number"] + row["count"] + row.get("more", 0.0) + sum(row["weights"].values()) + sum(row["array"])
    scaled = [x * 1.5 + t for x, t in zip(row["array"], [1, 2, 3])]
    return {"sum": 1.5 * total, "text": f"{row['word']} of {len(row['weights'])}", "scaled": scaled}


def models(folder):
    """A custom model alone and behind a scaler."""
    row = {"number": 0.1, "count": 7, "word": "sum", "more": 2.25, "weights": {"a": 0.5, "b": -3.0}, "array": [1.0, 2.0, 0.3]}
    rows = [row, {k: v for k, v in row.items() if k != "more"}]
    spec = model_pb2.Model(specificationVersion=3)
    blend(spec)
    (folder / "model.mlmodel").write_bytes(spec.SerializeToString())
    CASES["model"] = [{"inputs": r, "outputs": expected(r)} for r in rows]
    whole = model_pb2.Model(specificationVersion=3)
    whole.description.MergeFrom(spec.description)
    whole.description.input[-1].name = "raw"
    scaler = whole.pipeline.models.add(specificationVersion=1)
    scaler.scaler.shiftValue.append(-1.0)
    scaler.scaler.scaleValue.append(2.0)
    array = types.ArrayFeatureType(shape=[3], dataType=types.ArrayFeatureType.DOUBLE)
    feature(scaler.description.input, "raw").multiArrayType.MergeFrom(array)
    feature(scaler.description.output, "array").multiArrayType.MergeFrom(array)
    whole.pipeline.models.add().MergeFrom(spec)
    whole.pipeline.names.extend(["scaler", "blend"])
    (folder / "pipeline.mlmodel").write_bytes(whole.SerializeToString())
    CASES["pipeline"] = []
    for r in rows:
        scaled = dict(r, array=[2.0 * (x - 1.0) for x in r["array"]])
        given = {("raw" if k == "array" else k): v for k, v in r.items()}
        CASES["pipeline"].append({"inputs": given, "outputs": expected(scaled)})


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    layer(folder)
    models(folder)
    (folder / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")


if __name__ == "__main__":
    main()
