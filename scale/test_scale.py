"""The recipes on clusters of one machine give what the model gives for each row: pytest scale (needs ray, pyspark, Java)."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import candle_coreml as ct

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = str(ROOT / "models" / "tiny-intent" / "intent.mlpackage")
COUNT, LENGTH = 40, 6


@pytest.fixture
def rows(tmp_path):
    """Parquet files with rows of tokens."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 60, (COUNT, 1, LENGTH))
    folder = tmp_path / "rows"
    folder.mkdir()
    for part in range(4):
        some = ids[part::4].tolist()
        table = pa.table({"id": list(range(part, COUNT, 4)), "input_ids": some, "attention_mask": np.ones_like(ids[part::4]).tolist()})
        pq.write_table(table, folder / f"{part}.parquet")
    model = ct.MLModel(MODEL)
    mask = np.ones((1, LENGTH), int)
    wanted = [model.predict({"input_ids": row, "attention_mask": mask})["logits"] for row in ids]
    return str(folder), str(tmp_path / "out"), wanted


def check(out, wanted):
    table = pq.read_table(out)
    assert table.num_rows == COUNT
    for i, logits in zip(table["id"].to_pylist(), table["out_logits"].to_pylist()):
        np.testing.assert_array_equal(np.ravel(np.asarray(logits, dtype=np.float32)), wanted[i].ravel())


def recipe(name, *arguments):
    """Runs a recipe as a user does."""
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "RAY_DISABLE_IMPORT_WARNING": "1"}
    subprocess.run([sys.executable, str(ROOT / "scale" / name), MODEL, *arguments], env=environment, check=True, timeout=600)


def test_ray_data(rows):
    pytest.importorskip("ray")
    folder, out, wanted = rows
    recipe("ray_predict.py", folder, out, "--batch", "8", "--workers", "1")
    check(out, wanted)


def test_spark_map_in_arrow(rows):
    pytest.importorskip("pyspark")
    folder, out, wanted = rows
    recipe("spark_predict.py", folder, out)
    check(out, wanted)
