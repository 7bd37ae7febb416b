"""pytest plugin: coremltools' own tests predict in process, through candle_coreml.coremltools_backend.

Off Apple these tests skip their predictions; here the gates that look for macOS are opened, so that they compare results.

    python -m pytest -p plugin --pyargs coremltools.converters.mil.mil.ops.tests

Environment: COREMLTOOLS_TESTS_LOG, a file that gets one JSON line for each prediction (test, parts of the model, seconds,
the error if there is one); COREMLTOOLS_TESTS_SAMPLE, that many cases of every test function, chosen by
COREMLTOOLS_TESTS_SEED; COREMLTOOLS_TESTS_KEEP, `program` (default), `network` (with PYMIL_TEST_TARGETS=neuralnetwork) or
`all`; COREMLTOOLS_TESTS_MACOS, the system that the tests believe in (26.0).
"""

import json
import os
import random
import sys
import time

import candle_coreml.coremltools_backend as backend
import coremltools as ct
import coremltools.converters.mil.testing_utils  # noqa: F401  (its copies of the gates are opened too)
import coremltools.models.model as ct_model

LOG = os.environ.get("COREMLTOOLS_TESTS_LOG")
KEEP = os.environ.get("COREMLTOOLS_TESTS_KEEP", "program")
SAMPLE = int(os.environ.get("COREMLTOOLS_TESTS_SAMPLE", "0"))
SEED = os.environ.get("COREMLTOOLS_TESTS_SEED", "1")
MACOS = tuple(int(n) for n in os.environ.get("COREMLTOOLS_TESTS_MACOS", "26.0").split("."))
NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")


def parts(spec):
    """What a model consists of: operations, layers (`nn:…`), or the types of the models of a pipeline."""
    kind = spec.WhichOneof("Type")
    if kind == "mlProgram":
        found = set()

        def walk(block):
            for operation in block.operations:
                if operation.type != "const":
                    found.add(operation.type)
                for nested in operation.blocks:
                    walk(nested)

        for function in spec.mlProgram.functions.values():
            for block in function.block_specializations.values():
                walk(block)
        return sorted(found)
    if kind in NETWORKS:
        return sorted({"nn:" + layer.WhichOneof("layer") for layer in getattr(spec, kind).layers})
    if kind in ("pipeline", "pipelineClassifier", "pipelineRegressor"):
        body = getattr(spec, kind)
        models = body.models if kind == "pipeline" else body.pipeline.models
        return sorted({part for model in models for part in parts(model)} | {"pipeline"})
    return [kind or "no type"]


class LoggedProxy(backend.Proxy):
    """The backend, with a line in the log for every prediction."""

    def __init__(self, filename, *arguments, **named):
        super().__init__(filename, *arguments, **named)
        self.parts = parts(ct.utils.load_spec(filename)) if LOG else []

    def predict(self, data, state=None):
        return self.logged(lambda: super(LoggedProxy, self).predict(data, state))

    def batchPredict(self, data):
        return self.logged(lambda: super(LoggedProxy, self).batchPredict(data))

    def logged(self, work):
        if not LOG:
            return work()
        line = {"test": os.environ.get("PYTEST_CURRENT_TEST", ""), "parts": self.parts}
        started = time.perf_counter()
        try:
            return work()
        except Exception as error:
            line["error"] = str(error)[-400:]
            raise
        finally:
            line["seconds"] = round(time.perf_counter() - started, 6)
            with open(LOG, "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")


def open_gates():
    for name, module in list(sys.modules.items()):
        if name.startswith("coremltools") and module is not None:
            if hasattr(module, "_is_macos"):
                module._is_macos = lambda: True
            if hasattr(module, "_macos_version"):
                module._macos_version = lambda: MACOS
            if hasattr(module, "_IS_MACOS"):
                module._IS_MACOS = True
    backend.install(force=True)
    ct_model._MLModelProxy = LoggedProxy


open_gates()


def pytest_collection_modifyitems(config, items):
    """Cases for the other kind of model, twins for the GPU, and those outside the sample are left out."""
    keep, drop = [], []
    for item in items:
        other = {"program": "neuralnetwork", "network": "mlprogram"}.get(KEEP)
        out = (other is not None and other in item.name) or item.name.endswith("_gpu")
        (drop if out else keep).append(item)
    if SAMPLE:
        groups = {}
        for item in keep:
            groups.setdefault(item.nodeid.split("[")[0], []).append(item)
        chosen = set()
        for name in sorted(groups):
            group = groups[name]
            chosen.update(id(item) for item in random.Random(SEED + name).sample(group, min(SAMPLE, len(group))))
        drop += [item for item in keep if id(item) not in chosen]
        keep = [item for item in keep if id(item) in chosen]
    items[:] = keep
    config.hook.pytest_deselected(items=drop)
