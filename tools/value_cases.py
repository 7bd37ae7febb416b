"""Models with optional inputs, lists and dictionaries, with results, for crates/candle-coreml/tests/values.rs.

Nearest neighbours against scikit-learn; boxes, recommendations, Gaussian weights and links against NumPy, written here from
coremltools' definitions of the formats. Run: python -m tools.value_cases conformance/values
Needs coremltools 9.0 and scikit-learn 1.5.
"""

import pathlib
import sys

import numpy as np
from coremltools.proto import FeatureTypes_pb2 as features
from coremltools.proto import Model_pb2
from sklearn.neighbors import KNeighborsClassifier

from .classic_cases import save

RNG = np.random.default_rng(11)
DOUBLE = features.ArrayFeatureType.DOUBLE


def model(version, inputs, outputs):
    """A model with features: name → "double", "int64", "ints", "strings", "int_dict", "string_dict", "string", or a shape."""
    spec = Model_pb2.Model(specificationVersion=version)
    for side, described in ((spec.description.input, inputs), (spec.description.output, outputs)):
        for name, kind in described.items():
            feature = side.add(name=name.rstrip("?"))
            feature.type.isOptional = name.endswith("?")
            if kind == "double":
                feature.type.doubleType.SetInParent()
            elif kind == "int64":
                feature.type.int64Type.SetInParent()
            elif kind == "string":
                feature.type.stringType.SetInParent()
            elif kind == "ints":
                feature.type.sequenceType.int64Type.SetInParent()
            elif kind == "strings":
                feature.type.sequenceType.stringType.SetInParent()
            elif kind == "int_dict":
                feature.type.dictionaryType.int64KeyType.SetInParent()
            elif kind == "string_dict":
                feature.type.dictionaryType.stringKeyType.SetInParent()
            else:
                feature.type.multiArrayType.dataType = DOUBLE
                feature.type.multiArrayType.shape.extend(n for n in kind if n is not None)
                if None in kind:
                    del feature.type.multiArrayType.shape[:]
                    for n in kind:
                        low, high = (0, -1) if n is None else (n, n)
                        feature.type.multiArrayType.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
    return spec


def touch(message, field):
    """Sets a field of a message without fields."""
    getattr(message, field).SetInParent()


def neighbours(folder):
    """The same samples in both indices, with both weights, and labels of both kinds."""
    samples = RNG.normal(size=(60, 3)).astype(np.float32)
    numbers = RNG.integers(0, 3, size=60) * 10
    texts = np.array(["pear", "apple", "fig"])[numbers // 10]
    queries = np.concatenate([RNG.normal(size=(6, 3)), samples[:2].astype(float)])
    for name, leaf, weights, labels, k in [
        ("neighbours", 0, "uniform", texts, 5),
        ("neighbours_tree", 4, "distance", numbers, 7),
        ("neighbours_weighted", 0, "distance", texts, 3),
    ]:
        strings = labels is texts
        kind = "string" if strings else "int64"
        spec = model(4, {"x": [3]}, {"label": kind, "shares": "string_dict" if strings else "int_dict"})
        spec.description.predictedFeatureName = "label"
        spec.description.predictedProbabilitiesName = "shares"
        knn = spec.kNearestNeighborsClassifier
        index = knn.nearestNeighborsIndex
        index.numberOfDimensions = 3
        touch(index, "squaredEuclideanDistance")
        for row in samples:
            index.floatSamples.add(vector=row.tolist())
        if leaf:
            index.singleKdTreeIndex.leafSize = leaf
        else:
            touch(index, "linearIndex")
        knn.numberOfNeighbors.defaultValue = k
        knn.numberOfNeighbors.range.minValue = 1
        knn.numberOfNeighbors.range.maxValue = 60
        touch(knn, "uniformWeighting" if weights == "uniform" else "inverseDistanceWeighting")
        if strings:
            knn.stringClassLabels.vector.extend(labels.tolist())
            knn.defaultStringLabel = "none"
        else:
            knn.int64ClassLabels.vector.extend(labels.tolist())
            knn.defaultInt64Label = -1
        reference = KNeighborsClassifier(k, weights=weights, algorithm="brute").fit(samples.astype(float), labels)
        rows = []
        for x in queries:
            shares = reference.predict_proba(x[None])[0]
            label = reference.predict(x[None])[0]
            rows.append(({"x": x}, {"label": label.item(), "shares": dict(zip(reference.classes_.tolist(), shares))}))
        save(folder, name, spec, rows)
    del knn.nearestNeighborsIndex.floatSamples[:]
    del knn.stringClassLabels.vector[:]
    save(folder, "no_neighbours", spec, [({"x": [0.0, 1.0, 2.0]}, {"label": "none", "shares": {"none": 0.0}})])


def overlap(a, b):
    edges = [np.stack([r[:2] - r[2:] / 2, r[:2] + r[2:] / 2]) for r in (a, b)]
    sides = np.minimum(edges[0][1], edges[1][1]) - np.maximum(edges[0][0], edges[1][0])
    both = np.prod(np.maximum(sides, 0))
    return both / (np.prod(a[2:]) + np.prod(b[2:]) - both)


def suppressed(scores, boxes, iou, least, per_class):
    best = scores.max(axis=1)
    order = [i for i in np.argsort(-best, kind="stable") if best[i] >= least]
    kept = []
    for i in order:
        worse = [j for j in kept if not per_class or scores[i].argmax() == scores[j].argmax()]
        if all(overlap(boxes[i], boxes[j]) <= iou for j in worse):
            kept.append(i)
    return kept


def detections(folder):
    for name, per_class, fixed in [("boxes", False, None), ("boxes_per_class", True, None), ("boxes_fixed", True, 6)]:
        spec = model(
            3,
            {"raw_scores": [None, 3], "raw_boxes": [None, 4], "iou?": "double", "least?": "double"},
            {"scores": [fixed, 3], "boxes": [fixed, 4]},
        )
        nms = spec.nonMaximumSuppression
        nms.pickTop.perClass = per_class
        nms.iouThreshold, nms.confidenceThreshold = 0.45, 0.25
        nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName = "raw_scores", "raw_boxes"
        nms.iouThresholdInputFeatureName, nms.confidenceThresholdInputFeatureName = "iou", "least"
        nms.confidenceOutputFeatureName, nms.coordinatesOutputFeatureName = "scores", "boxes"
        nms.stringClassLabels.vector.extend(["cat", "dog", "cow"])
        rows = []
        for count, given in [(30, {}), (40, {"iou": 0.1}), (40, {"iou": 1.0, "least": 0.8}), (20, {"least": 2.0})]:
            scores = RNG.uniform(size=(count, 3)) ** 3
            boxes = np.concatenate([RNG.uniform(0, 1, (count, 2)), RNG.uniform(0.2, 0.6, (count, 2))], axis=1)
            kept = suppressed(scores, boxes, given.get("iou", 0.45), given.get("least", 0.25), per_class)
            results = {"scores": scores[kept], "boxes": boxes[kept]}
            if fixed:
                fill = lambda a: np.concatenate([a[:fixed], np.zeros((max(0, fixed - len(a)), a.shape[1]))])
                results = {n: fill(a) for n, a in results.items()}
            rows.append(({"raw_scores": scores, "raw_boxes": boxes, **given}, results))
        save(folder, name, spec, rows)


def recommendations(folder):
    texts = [f"item {i}" for i in range(12)]
    similar = {i: {int(k): float(RNG.uniform()) for k in RNG.choice(12, 4, replace=False)} for i in range(10)}
    shift = RNG.uniform(-0.2, 0.2, size=12)
    shift[10:] = 0
    for name, ids, kinds in [
        ("recommender", texts, ("string_dict", "strings")),
        ("recommender_numbers", [100 + 3 * i for i in range(12)], ("int_dict", "ints")),
        ("recommender_unnamed", list(range(12)), ("int_dict", "ints")),
    ]:
        spec = model(
            4,
            {"given": kinds[0], "count?": "int64", "only?": kinds[1], "without?": kinds[1]},
            {"items": kinds[1], "scores": kinds[0]},
        )
        body = spec.itemSimilarityRecommender
        for i, near in similar.items():
            entry = body.itemItemSimilarities.add(itemId=i, itemScoreAdjustment=shift[i])
            for k, score in near.items():
                entry.similarItemList.add(itemId=k, similarityScore=score)
        # Item 11 is only known by a similarity of 0, where items have no names.
        body.itemItemSimilarities[0].similarItemList.add(itemId=11, similarityScore=0.0)
        if name == "recommender":
            body.itemStringIds.vector.extend(ids)
        elif name == "recommender_numbers":
            body.itemInt64Ids.vector.extend(ids)
        body.itemInputFeatureName, body.numRecommendationsInputFeatureName = "given", "count"
        body.itemRestrictionInputFeatureName, body.itemExclusionInputFeatureName = "only", "without"
        body.recommendedItemListOutputFeatureName = "items"
        body.recommendedItemScoreOutputFeatureName = "scores"
        rows = []
        for given in [
            {"given": {0: 1.0, 3: 2.0}},
            {"given": {0: 1.0, 3: 2.0, 7: 0.5}, "count": 3},
            {"given": {1: 1.5}, "only": [0, 2, 4, 6, 8], "without": [4]},
            {"given": {2: 1.0}, "without": []},
            {"given": {}, "count": 2},
        ]:
            scores = np.zeros(12)
            for i, value in given["given"].items():
                for k, score in similar.get(i, {}).items():
                    scores[k] += score * (value - shift[k])
            open_ = set(given.get("only", range(12))) - set(given.get("without", given["given"]))
            order = sorted(sorted(open_), key=lambda k: -scores[k])[: given.get("count")]
            inputs = {"given": {ids[i]: v for i, v in given["given"].items()}}
            inputs |= {n: [ids[i] for i in given[n]] for n in ("only", "without") if n in given}
            inputs |= {n: given[n] for n in ("count",) if n in given}
            results = {"items": [ids[k] for k in order], "scores": {ids[k]: scores[k] for k in order}}
            rows.append((inputs, results))
        save(folder, name, spec, rows)


def others(folder):
    spec = model(1, {"x": [3]}, {"mean": "double", "variance": "double"})
    body = spec.bayesianProbitRegressor
    body.numberOfFeatures = 3
    body.bias.mean, body.bias.precision = 0.5, 4.0
    means, precisions = RNG.normal(size=(3, 4)), RNG.uniform(0.5, 3, size=(3, 4))
    for i in range(3):
        weights = body.features.add(featureId=i)
        for v in range(4):
            weight = weights.weights.add(featureValue=v)
            weight.featureWeight.mean, weight.featureWeight.precision = means[i, v], precisions[i, v]
    body.regressionInputFeatureName = "x"
    body.meanOutputFeatureName, body.varianceOutputFeatureName = "mean", "variance"
    rows = []
    for x in ([0, 1, 2], [3, 3, 0]):
        mean = 0.5 + sum(means[i, v] for i, v in enumerate(x))
        variance = 0.25 + sum(1 / precisions[i, v] for i, v in enumerate(x))
        rows.append(({"x": [float(v) for v in x]}, {"mean": mean, "variance": variance}))
    save(folder, "probit", spec, rows)

    spec = model(8, {"x": [4]}, {"y": [2, 4]})
    curve = spec.classConfidenceThresholding.precisionRecallCurves.add()
    curve.precisionValues.vector.extend([0.5, 0.9])
    save(folder, "confidences", spec, [({"x": [0.1, 0.2, 0.3, 0.4]}, {"y": [[0.1, 0.2, 0.3, 0.4], [1.0] * 4]})])

    spec = model(1, {"x": [2], "name": "string"}, {"x": [2], "name": "string"})
    touch(spec, "identity")
    save(folder, "identity", spec, [({"x": [1.5, -2.0], "name": "a"}, {"x": [1.5, -2.0], "name": "a"})])

    spec = model(4, {"given": "string_dict", "count?": "int64"}, {"items": "strings"})
    file = spec.linkedModel.linkedModelFile
    file.linkedModelFileName.defaultValue = "recommender.mlmodelc"
    file.linkedModelSearchPath.defaultValue = "$BUNDLE_MAIN:nowhere:."
    save(folder, "link", spec, [({"given": {"stranger": 1.0}, "count": 2}, {"items": ["item 0", "item 1"]})])


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    neighbours(folder)
    detections(folder)
    recommendations(folder)
    others(folder)


if __name__ == "__main__":
    main()
