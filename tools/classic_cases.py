"""Classic models with reference results, for crates/coreml-engine/tests/classic.rs.

Models are written by coremltools' converters of scikit-learn and by its protobuf messages; results are those of
scikit-learn and of NumPy and SciPy in double precision. Run: python -m tools.classic_cases conformance/classic
Needs coremltools 9.0, scikit-learn 1.5 and SciPy.
"""

import json
import pathlib
import sys

import numpy as np
import sklearn

sklearn.__version__ = "1.5.1"  # the newest that the converters admit; 1.5.2 writes the same models
import coremltools as ct  # noqa: E402
from coremltools.converters import sklearn as converter  # noqa: E402
from coremltools.models.datatypes import Array  # noqa: E402
from coremltools.proto import FeatureTypes_pb2 as features  # noqa: E402
from coremltools.proto import Model_pb2  # noqa: E402
from scipy.stats import norm  # noqa: E402
from sklearn import ensemble, linear_model, preprocessing, svm, tree  # noqa: E402
from sklearn.feature_extraction import DictVectorizer  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.pipeline import Pipeline  # noqa: E402

RNG = np.random.default_rng(7)
ROWS = 4


def plain(value):
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float) and np.isnan(value):
        return "NaN"
    return [plain(v) for v in value] if isinstance(value, list) else value


def save(folder, name, spec, rows):
    (folder / f"{name}.mlmodel").write_bytes(spec.SerializeToString())
    rows = [{"inputs": plain(i), "outputs": plain(o)} for i, o in rows]
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")


def classifiers():
    lr = lambda: linear_model.LogisticRegression(multi_class="ovr")
    yield "logistic", lr(), 2
    yield "logistic_one_vs_rest", lr(), 3
    for classes in (2, 4):
        for kernel in ("linear", "rbf", "poly", "sigmoid"):
            machine = svm.SVC(kernel=kernel, probability=True, random_state=1, gamma=0.2, coef0=0.5)
            yield f"svc_{kernel}_{classes}", machine, classes
    yield "nu_svc", svm.NuSVC(nu=0.3, probability=True, random_state=1), 3
    yield "svc_label", svm.SVC(gamma=0.3), 3
    yield "decision_tree", tree.DecisionTreeClassifier(max_depth=4, random_state=1), 3
    yield "random_forest", ensemble.RandomForestClassifier(5, max_depth=3, random_state=1), 3
    yield "random_forest_2", ensemble.RandomForestClassifier(5, max_depth=3, random_state=1), 2
    yield "boosted_trees_2", ensemble.GradientBoostingClassifier(n_estimators=5, random_state=1), 2
    yield "boosted_trees", ensemble.GradientBoostingClassifier(n_estimators=5, random_state=1), 3
    scaled = Pipeline([("scale", preprocessing.StandardScaler()), ("model", lr())])
    yield "scaled_logistic", scaled, 2


def regressors():
    yield "linear", linear_model.LinearRegression()
    for kernel in ("linear", "rbf", "poly", "sigmoid"):
        yield f"svr_{kernel}", svm.SVR(kernel=kernel, gamma=0.1, coef0=0.5, degree=2)
    yield "regression_tree", tree.DecisionTreeRegressor(max_depth=4, random_state=1)
    yield "regression_forest", ensemble.RandomForestRegressor(5, max_depth=3, random_state=1)
    yield "boosted_regression", ensemble.GradientBoostingRegressor(n_estimators=5, random_state=1)


def by_scikit_learn(folder):
    x = RNG.normal(size=(60, 4))
    for name, model, classes in classifiers():
        y = (x @ RNG.normal(size=(4, classes)) + RNG.normal(size=(60, classes)) * 0.3).argmax(1)
        model.fit(x, y)
        rows = []
        for row in x[:ROWS]:
            outputs = {"classLabel": int(model.predict([row])[0])}
            if hasattr(model, "predict_proba"):
                outputs["classProbability"] = dict(enumerate(model.predict_proba([row])[0]))
                outputs["classLabel"] = int(np.argmax(model.predict_proba([row])[0]))
            if name == "random_forest":
                # The converter divides the leaves by their sums, as older versions of scikit-learn wanted, not by the
                # number of trees: the file says the sum of the trees.
                outputs["classProbability"] = dict(enumerate(5 * model.predict_proba([row])[0]))
            if classes == 2 and hasattr(model, "probA_"):
                # libsvm iterates to half a percent even for two classes, whose probability is the sigmoid itself.
                p = 1 / (1 + np.exp(-model.probA_[0] * model.decision_function([row])[0] + model.probB_[0]))
                assert abs(p - outputs["classProbability"][0]) < 0.005, (name, p, outputs)
                outputs["classProbability"] = {0: p, 1: 1 - p}
                outputs["classLabel"] = int(p <= 0.5)
            rows.append(({"input": row}, outputs))
        spec = converter.convert(model, "input", "classLabel").get_spec()
        save(folder, name, spec, rows)
    y = x @ np.array([1.0, -2.0, 0.5, 0.0]) + np.sin(x[:, 0])
    for name, model in regressors():
        model.fit(x, y)
        spec = converter.convert(model, "input", "prediction").get_spec()
        save(folder, name, spec, [({"input": r}, {"prediction": model.predict([r])[0]}) for r in x[:ROWS]])
    holes = x.copy()
    holes[::3, 1] = np.nan
    transformers = [
        ("scaler", preprocessing.StandardScaler(), x),
        ("normalizer_l1", preprocessing.Normalizer("l1"), x),
        ("normalizer_l2", preprocessing.Normalizer("l2"), x),
        ("normalizer_max", preprocessing.Normalizer("max"), np.abs(x)),
        ("imputer", SimpleImputer(), holes),
    ]
    for name, model, data in transformers:
        model.fit(data)
        spec = converter.convert(model, [("input", Array(4))], "output").get_spec()
        save(folder, name, spec, [({"input": r}, {"output": model.transform([r])[0]}) for r in data[:ROWS]])


def described(inputs, outputs, label=None, probabilities=None):
    spec = Model_pb2.Model(specificationVersion=4)
    for features_, side in ((inputs, spec.description.input), (outputs, spec.description.output)):
        for name, kind in features_.items():
            feature = side.add(name=name)
            if isinstance(kind, int):
                feature.type.multiArrayType.shape.append(kind)
                feature.type.multiArrayType.dataType = features.ArrayFeatureType.DOUBLE
            elif kind == "dictionary":
                feature.type.dictionaryType.stringKeyType.SetInParent()
            else:
                getattr(feature.type, kind + "Type").SetInParent()
    spec.description.predictedFeatureName = label or ""
    spec.description.predictedProbabilitiesName = probabilities or ""
    return spec


def by_hand(folder):
    x = RNG.normal(size=(ROWS, 3))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    labels = ["a", "b", "c"]
    for name, link, encoding, classes in (
        ("glm_probit", 1, 0, 2),
        ("glm_probit_one_vs_rest", 1, 1, 2),
        ("glm_reference", 0, 0, 3),
        ("glm_one_vs_rest", 0, 1, 3),
    ):
        spec = described({"x": 3}, {"y": "string", "p": "dictionary"}, "y", "p")
        rows = 1 if classes == 2 else classes - (encoding == 0)
        w, b = RNG.normal(size=(rows, 3)), RNG.normal(size=rows)
        model = spec.glmClassifier
        for row in w:
            model.weights.add(value=row)
        model.offset.extend(b)
        model.postEvaluationTransform, model.classEncoding = link, encoding
        model.stringClassLabels.vector.extend(labels[:classes])
        out = []
        for row in x:
            s = w @ row + b
            if classes == 2:
                q = norm.cdf(s[0])
                p = np.array([1 - q, q])
            elif encoding == 0:
                e = np.exp(np.append(0, s))
                p = e / e.sum()
            else:
                p = sigmoid(s) / sigmoid(s).sum()
            out.append(({"x": row}, {"y": labels[int(p.argmax())], "p": dict(zip(labels, p))}))
        save(folder, name, spec, out)
    for name, link, f in (("glm_logit", 1, sigmoid), ("glm_probit_regression", 2, norm.cdf)):
        spec = described({"x": 3}, {"y": 2})
        w, b = RNG.normal(size=(2, 3)), RNG.normal(size=2)
        for row in w:
            spec.glmRegressor.weights.add(value=row)
        spec.glmRegressor.offset.extend(b)
        spec.glmRegressor.postEvaluationTransform = link
        save(folder, name, spec, [({"x": r}, {"y": f(w @ r + b)}) for r in x])
    # Every behaviour of a branch, around its threshold; NaN on both sides.
    tests = [np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal]
    spec = described({"x": 1}, {"y": 6})
    parameters = spec.treeEnsembleRegressor.treeEnsemble
    parameters.numPredictionDimensions = 6
    parameters.basePredictionValue.extend([0.25] * 6)
    third = 1 / 3
    for i in range(6):
        parameters.nodes.add(
            treeId=i, nodeId=5, nodeBehavior=i, branchFeatureIndex=0, branchFeatureValue=third,
            trueChildNodeId=2, falseChildNodeId=1, missingValueTracksTrueChild=i % 2 == 0)
        for node, value in ((1, -1.0), (2, 0.1)):
            leaf = parameters.nodes.add(treeId=i, nodeId=node, nodeBehavior=6)
            leaf.evaluationInfo.add(evaluationIndex=i, evaluationValue=value)
    values = [third, np.nextafter(third, 0), np.nextafter(third, 1), np.nan]
    yes = lambda i, v: i % 2 == 0 if np.isnan(v) else tests[i](v, third)
    out = [({"x": [v]}, {"y": np.array([0.25 + (0.1 if yes(i, v) else -1.0) for i in range(6)])}) for v in values]
    save(folder, "branches", spec, out)
    spec = described({"x": 3}, {"y": "string", "p": "dictionary"}, "y", "p")
    model = spec.treeEnsembleClassifier
    model.stringClassLabels.vector.extend(labels)
    model.postEvaluationTransform = 3
    model.treeEnsemble.numPredictionDimensions = 2
    leaf = model.treeEnsemble.nodes.add(nodeBehavior=6)
    leaf.evaluationInfo.add(evaluationIndex=0, evaluationValue=1.5)
    leaf.evaluationInfo.add(evaluationIndex=1, evaluationValue=-0.5)
    e = np.exp([0, 1.5, -0.5])
    save(folder, "softmax_with_zero", spec, [({"x": x[0]}, {"y": "b", "p": dict(zip(labels, e / e.sum()))})])
    spec = described({"x": "string"}, {"y": "int64"})
    spec.categoricalMapping.stringToInt64Map.map["red"] = 7
    spec.categoricalMapping.stringToInt64Map.map["blue"] = 2**60 + 1
    spec.categoricalMapping.int64Value = -1
    rows = [({"x": k}, {"y": v}) for k, v in (("red", 7), ("blue", 2**60 + 1), ("green", -1))]
    save(folder, "mapping", spec, rows)
    spec = described({"x": "int64"}, {"y": "string"})
    spec.categoricalMapping.int64ToStringMap.map[7] = "red"
    spec.categoricalMapping.strValue = "none"
    save(folder, "mapping_back", spec, [({"x": 7}, {"y": "red"}), ({"x": 8}, {"y": "none"})])
    spec = described({"x": "string"}, {"y": 3})
    spec.oneHotEncoder.stringCategories.vector.extend(labels)
    spec.oneHotEncoder.handleUnknown = 1
    save(folder, "one_hot", spec, [({"x": "b"}, {"y": [0.0, 1.0, 0.0]}), ({"x": "z"}, {"y": [0.0] * 3})])
    spec = described({"n": "int64", "d": "double", "a": 2}, {"y": 4})
    for column, length in (("a", 2), ("n", 1), ("d", 1)):
        spec.featureVectorizer.inputList.add(inputColumn=column, inputDimensions=length)
    fine = 1 + 2.0**-40
    save(folder, "features", spec, [({"n": 2**40 + 1, "d": fine, "a": [0.1, -0.0]}, {"y": [0.1, -0.0, 2.0**40 + 1, fine]})])
    words = [{"a": 1.0, "b": 2.5}, {"c": -1.0}, {"b": 0.1, "unknown": 9.0}, {}]
    spec = described({"x": "dictionary"}, {"y": 3})
    spec.dictVectorizer.stringToIndex.vector.extend(labels)
    save(folder, "dict_vectorizer", spec, [({"x": w}, {"y": [w.get(k, 0.0) for k in labels]}) for w in words])
    spec = described({"x": 3}, {"y": "double"})
    spec.arrayFeatureExtractor.extractIndex.append(2)
    save(folder, "extract", spec, [({"x": r}, {"y": r[2]}) for r in x])


def sparse(folder):
    """Dictionaries from positions to values as vectors, as the converters of scikit-learn write them."""
    rng = np.random.default_rng(7)
    rows = [{"foo": 1.0, "bar": 3.0}, {"bar": 4.0, "baz": 2.0}, {"other": 9.0}, {}]
    model = DictVectorizer().fit(rows[:2])
    spec = converter.convert(model, "x", "y").get_spec()
    save(folder, "sparse_words", spec, [({"x": r}, {"y": model.transform([r]).toarray()[0]}) for r in rows])
    # Integers as keys: the converter describes strings.
    counts = [{int(k): 1.0 for k in rng.integers(0, 40, 8)} for _ in range(30)]
    model = Pipeline([("words", DictVectorizer()), ("model", linear_model.LogisticRegression(multi_class="ovr"))])
    model.fit(counts, [0, 1] * 15)
    spec = converter.convert(model, "x", "y").get_spec()
    out = [({"x": r}, {"y": model.predict([r])[0], "classProbability": dict(enumerate(model.predict_proba([r])[0]))}) for r in counts[:ROWS]]
    save(folder, "sparse_numbers", spec, out)
    x = np.array([[0, 1], [1, 0], [2, 1], [0, 2]], float)
    model = preprocessing.OneHotEncoder().fit(x)
    spec = converter.convert(model, ["a", "b"], "y").get_spec()
    save(folder, "sparse_categories", spec, [({"a": a, "b": b}, {"y": model.transform([[a, b]]).toarray()[0]}) for a, b in x])
    # Two features, the first of which has no entry in a row: elements keep their places.
    spec = described({"d": "dictionary", "a": 2}, {"y": 5})
    spec.description.input[0].type.dictionaryType.int64KeyType.SetInParent()
    for column, length in (("a", 2), ("d", 3)):
        spec.featureVectorizer.inputList.add(inputColumn=column, inputDimensions=length)
    save(folder, "sparse_features", spec, [
        ({"d": {2: 0.1, 0: -1.0}, "a": [5.0, 6.0]}, {"y": [5.0, 6.0, -1.0, 0.0, 0.1]}),
        ({"d": {}, "a": [5.0, 6.0]}, {"y": [5.0, 6.0, 0.0, 0.0, 0.0]})])
    # A machine that training left without a result: libsvm's comparisons make its least probability of NaN.
    spec = described({"x": 1}, {"y": "int64", "p": "dictionary"}, "y", "p")
    spec.description.output[1].type.dictionaryType.int64KeyType.SetInParent()
    machine = spec.supportVectorClassifier
    machine.kernel.linearKernel.SetInParent()
    machine.numberOfSupportVectorsPerClass.extend([1, 1])
    for v in (1.0, -1.0):
        machine.denseSupportVectors.vectors.add(values=[v])
    machine.coefficients.add(alpha=[np.nan, np.nan])
    machine.rho.append(np.nan)
    machine.probA.append(-1.0)
    machine.probB.append(0.0)
    machine.int64ClassLabels.vector.extend([1, 2])
    save(folder, "svc_without_result", spec, [({"x": [3.0]}, {"y": 2, "p": {1: 1e-7, 2: 1 - 1e-7}})])


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    by_scikit_learn(folder)
    by_hand(folder)
    sparse(folder)
    print(f"coremltools {ct.__version__}")


if __name__ == "__main__":
    main()
