"""Pipelines of unlike parts, and their results: `python -m tools.nested_pipelines conformance/nested`.

`nested`: a scaler, a pipeline of a neural network and a stateful ML Program, trees; NumPy computes three predictions over one
state. `detector`: as exporters of detectors write them, an ML Program on an image and non-maximum suppression with
thresholds that may be left out; torchvision computes the boxes that stay. `table`: as tables are exported, categories and numbers in
one vector for boosted trees; scikit-learn's encoder and NumPy compute it.
"""

import json
import sys
from pathlib import Path

import coremltools as ct
import coremltools.proto.FeatureTypes_pb2 as types
import coremltools.proto.Model_pb2 as model_pb2
import numpy as np
import torch
import torchvision
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types as mil_types
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from coremltools.models.tree_ensemble import TreeEnsembleClassifier, TreeEnsembleRegressor

RNG = np.random.default_rng(20261127)
DOUBLE, FLOAT = types.ArrayFeatureType.DOUBLE, types.ArrayFeatureType.FLOAT32
REFERENCES = {}


def draw(*shape):
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def array(features, name, shape, dtype=DOUBLE):
    features.add(name=name).type.multiArrayType.MergeFrom(types.ArrayFeatureType(shape=shape, dataType=dtype))


def program(specs, body, target, **more):
    """An ML Program."""
    function = mb.program(input_specs=specs, opset_version=target)(body)
    return ct.convert(function, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32, minimum_deployment_target=target,
                      skip_model_load=True, **more)


def nested(folder):
    size, hidden = 4, 3
    whole = model_pb2.Model(specificationVersion=9)
    scaler = whole.pipeline.models.add(specificationVersion=1)
    shift, scale = RNG.uniform(-1, 1, size), RNG.uniform(0.5, 2, size)
    scaler.scaler.shiftValue.extend(shift)
    scaler.scaler.scaleValue.extend(scale)
    array(scaler.description.input, "raw", [size])
    array(scaler.description.output, "scaled", [size])

    inner = whole.pipeline.models.add(specificationVersion=9)
    w, b = draw(hidden, size), draw(hidden)
    builder = NeuralNetworkBuilder([("scaled", datatypes.Array(size))], [("hidden", datatypes.Array(hidden))],
                                   disable_rank5_shape_mapping=True)
    builder.add_inner_product("product", w, b, size, hidden, True, "scaled", "sum")
    builder.add_activation("tanh", "TANH", "sum", "hidden")
    inner.pipeline.models.add().MergeFrom(builder.spec)

    def accumulate(hidden_, total):
        before = mb.read_state(input=total)
        after = mb.coreml_update_state(state=total, value=mb.add(x=before, y=mb.cast(x=hidden_, dtype="fp16")))
        return mb.cast(x=after, dtype="fp32", name="totals")

    inputs = [mb.TensorSpec(shape=(hidden,)), mb.StateTensorSpec((hidden,), dtype=mil_types.fp16)]
    stateful = program(inputs, accumulate, ct.target.iOS18).get_spec()
    ct.utils.rename_feature(stateful, "hidden_", "hidden")
    inner.pipeline.models.add().MergeFrom(stateful)
    array(inner.description.input, "scaled", [size])
    array(inner.description.output, "totals", [hidden], FLOAT)
    inner.description.state.extend(stateful.description.state)

    trees = TreeEnsembleRegressor([("totals", datatypes.Array(hidden))], "score")
    trees.set_default_prediction_value(0.25)
    leaves = RNG.uniform(-1, 1, (hidden, 2))
    for tree in range(hidden):
        trees.add_branch_node(tree, 0, tree, 0.1, "BranchOnValueLessThanEqual", 1, 2)
        for side in range(2):
            trees.add_leaf_node(tree, 1 + side, float(leaves[tree, side]))
    whole.pipeline.models.add().MergeFrom(trees.spec)
    array(whole.description.input, "raw", [size])
    whole.description.output.add(name="score").type.doubleType.SetInParent()
    array(whole.description.output, "totals", [hidden], FLOAT)
    whole.description.state.extend(stateful.description.state)
    (folder / "nested.mlmodel").write_bytes(whole.SerializeToString())

    total, rows = np.zeros(hidden, np.float16), []
    for _ in range(3):
        raw = RNG.uniform(-1, 1, size)
        h = np.tanh(w @ ((raw + shift) * scale).astype(np.float32) + b)
        total = (total + h.astype(np.float16)).astype(np.float16)
        score = 0.25 + sum(leaves[i, 0 if total[i] <= 0.1 else 1] for i in range(hidden))
        rows.append({"raw": raw.tolist(), "totals": total.tolist(), "score": score})
    REFERENCES["nested"] = rows


def detector(folder):
    side, cell, classes = 32, 8, 3
    count = (side // cell) ** 2
    w = draw(4 + classes, 3, 4, 4) * 0.12
    grid = (np.stack(np.meshgrid(np.arange(4), np.arange(4))).reshape(2, -1).T.astype(np.float32) + 0.5) / 4

    def network(image):
        y = mb.conv(x=mb.mul(x=image, y=np.float32(1 / 255)), weight=w, strides=[cell, cell], pad_type="valid")
        y = mb.transpose(x=mb.reshape(x=y, shape=[4 + classes, count]), perm=[1, 0])
        offset, extent, score = mb.split(x=y, split_sizes=[2, 2, classes], axis=1)
        centre = mb.add(x=mb.mul(x=mb.tanh(x=offset), y=np.float32(0.4)), y=grid)
        extent = mb.add(x=mb.mul(x=mb.sigmoid(x=extent), y=np.float32(0.8)), y=np.float32(0.05))
        return (mb.sigmoid(x=mb.mul(x=score, y=np.float32(8)), name="raw_confidence"),
                mb.concat(values=[centre, extent], axis=1, name="raw_coordinates"))

    inputs = [ct.ImageType("image", shape=(1, 3, side, side), color_layout=ct.colorlayout.RGB)]
    made = program([mb.TensorSpec(shape=(1, 3, side, side))], network, ct.target.iOS16, inputs=inputs)
    spec = made.get_spec()
    for output, width in zip(spec.description.output, (classes, 4)):
        output.type.multiArrayType.shape[:] = [count, width]
    for per_class, name in (True, "detector"), (False, "detector_any"):
        whole = model_pb2.Model(specificationVersion=7)
        whole.pipeline.models.add().MergeFrom(spec)
        boxes = whole.pipeline.models.add(specificationVersion=3)
        nms = boxes.nonMaximumSuppression
        nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName = "raw_confidence", "raw_coordinates"
        nms.confidenceOutputFeatureName, nms.coordinatesOutputFeatureName = "confidence", "coordinates"
        nms.iouThresholdInputFeatureName, nms.confidenceThresholdInputFeatureName = "iouThreshold", "confidenceThreshold"
        nms.iouThreshold, nms.confidenceThreshold = 0.45, 0.25
        nms.pickTop.perClass = per_class
        nms.stringClassLabels.vector.extend(["cat", "dog", "bird"])
        array(boxes.description.input, "raw_confidence", [count, classes], FLOAT)
        array(boxes.description.input, "raw_coordinates", [count, 4], FLOAT)
        for all_features in boxes.description.input, whole.description.input:
            if all_features is whole.description.input:
                all_features.add().MergeFrom(spec.description.input[0])
            for threshold in "iouThreshold", "confidenceThreshold":
                feature = all_features.add(name=threshold)
                feature.type.doubleType.SetInParent()
                feature.type.isOptional = True
        for all_features in boxes.description.output, whole.description.output:
            for output, width in ("confidence", classes), ("coordinates", 4):
                added = all_features.add(name=output).type.multiArrayType
                added.dataType = FLOAT
                for low, high in (0, -1), (width, width):
                    added.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
        saved = ct.models.MLModel(whole, weights_dir=made.weights_dir, skip_model_load=True)
        saved.save(str(folder / f"{name}.mlpackage"))
        rows = []
        for thresholds in {}, {"iouThreshold": 0.2}, {"confidenceThreshold": 0.6}, {"iouThreshold": 0.7, "confidenceThreshold": 0.5}, \
                {"confidenceThreshold": 0.9999}:
            pixels = RNG.integers(0, 256, (3, side, side))
            y = torch.nn.functional.conv2d(torch.from_numpy((pixels / 255).astype(np.float32))[None], torch.from_numpy(w), stride=cell)
            y = y.reshape(4 + classes, count).T
            centre = torch.tanh(y[:, :2]) * 0.4 + torch.from_numpy(grid)
            extent = torch.sigmoid(y[:, 2:4]) * 0.8 + 0.05
            score = torch.sigmoid(y[:, 4:] * 8)
            best, label = score.max(1)
            keep = best >= thresholds.get("confidenceThreshold", 0.25)
            corners = torch.cat([centre - extent / 2, centre + extent / 2], 1)[keep]
            iou = thresholds.get("iouThreshold", 0.45)
            if per_class:
                left = torchvision.ops.batched_nms(corners, best[keep], label[keep], iou)
            else:
                left = torchvision.ops.nms(corners, best[keep], iou)
            rows.append({"pixels": pixels.ravel().tolist(), "thresholds": thresholds,
                         "confidence": score[keep][left].tolist(),
                         "coordinates": torch.cat([centre, extent], 1)[keep][left].tolist()})
        print(name, [(len(r["confidence"])) for r in rows])
        REFERENCES[name] = rows


def table(folder):
    """A string, an integer category and two numbers, one-hot where they are categories, in one vector for boosted trees."""
    whole = model_pb2.Model(specificationVersion=1)
    parts = whole.pipelineClassifier.pipeline.models
    colours, sizes = ["blue", "green", "red"], [1, 5, 9]
    for name, encoder in ("colour", parts.add(specificationVersion=1)), ("size", parts.add(specificationVersion=1)):
        feature = encoder.description.input.add(name=name).type
        if name == "colour":
            feature.stringType.SetInParent()
            encoder.oneHotEncoder.stringCategories.vector.extend(colours)
        else:
            feature.int64Type.SetInParent()
            encoder.oneHotEncoder.int64Categories.vector.extend(sizes)
        encoder.oneHotEncoder.handleUnknown = 1
        array(encoder.description.output, f"{name}_encoded", [3])
    vector = parts.add(specificationVersion=1)
    array(vector.description.output, "features", [8])
    for name, width in ("weight", 1), ("colour_encoded", 3), ("size_encoded", 3), ("price", 1):
        vector.featureVectorizer.inputList.add(inputColumn=name, inputDimensions=width)
        if width == 1:
            vector.description.input.add(name=name).type.doubleType.SetInParent()
        else:
            array(vector.description.input, name, [width])
    trees = TreeEnsembleClassifier([("features", datatypes.Array(8))], ["no", "yes"], [("label", datatypes.String()), ("chance", datatypes.Dictionary(datatypes.String()))])
    trees.set_default_prediction_value([0.0])
    trees.set_post_evaluation_transform("Regression_Logistic")
    nodes = []
    for tree in range(12):
        feature, threshold, values = int(RNG.integers(8)), float(RNG.choice([0.5, 0.25, 1.5])), RNG.uniform(-1, 1, 2)
        nodes.append((feature, threshold, values))
        trees.add_branch_node(tree, 0, feature, threshold, "BranchOnValueLessThan", 1, 2, missing_value_tracks_true_child=True)
        for side in range(2):
            trees.add_leaf_node(tree, 1 + side, [float(values[side])])
    parts.add().MergeFrom(trees.spec)
    inputs = whole.description.input
    inputs.add(name="colour").type.stringType.SetInParent()
    inputs.add(name="size").type.int64Type.SetInParent()
    inputs.add(name="weight").type.doubleType.SetInParent()
    inputs.add(name="price").type.doubleType.SetInParent()
    whole.description.output.extend(trees.spec.description.output)
    whole.description.predictedFeatureName, whole.description.predictedProbabilitiesName = "label", "chance"
    (folder / "table.mlmodel").write_bytes(whole.SerializeToString())
    rows = []
    for i in range(40):
        row = {"colour": str(RNG.choice([*colours, "grey"])), "size": int(RNG.choice([*sizes, 4])),
               "weight": float(np.round(RNG.uniform(-1, 2), 6)), "price": float(RNG.choice([0.25, 0.5, 1.5, 3.0]))}
        x = [row["weight"], *(float(row["colour"] == c) for c in colours), *(float(row["size"] == s) for s in sizes), row["price"]]
        total = 0.0
        for feature, threshold, values in nodes:
            total += values[0 if x[feature] < threshold else 1]
        chance = 1 / (1 + np.exp(-total))
        rows.append({"inputs": row, "label": "yes" if chance > 0.5 else "no", "chance": {"no": 1 - chance, "yes": chance}})
    print("table", sum(r["label"] == "yes" for r in rows))
    REFERENCES["table"] = rows


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    nested(folder)
    detector(folder)
    table(folder)
    (folder / "references.json").write_text(json.dumps(REFERENCES) + "\n")


if __name__ == "__main__":
    main()
