"""Models and references of the repository."""

import json
import pathlib
import struct

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
TYPES = {"F32": "<f4", "F16": "<f2", "U8": "u1", "I32": "<i4", "I64": "<i8"}


def read_safetensors(path):
    """Tensors of a safetensors file by name."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    start = 8 + length
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = np.frombuffer(content[start + begin : start + end], TYPES[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def intent():
    import candle_coreml as ct

    return ct.MLModel(str(ROOT / "models/tiny-intent/intent.mlpackage"))


@pytest.fixture(scope="session")
def intent_reference():
    return read_safetensors(ROOT / "models/tiny-intent/reference.safetensors")


@pytest.fixture(scope="session")
def language():
    import candle_coreml as ct

    return ct.LanguageModel(ROOT / "models/tiny-qwen3")

