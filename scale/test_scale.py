"""The recipes on clusters of one machine give what the model gives for each row: pytest scale (needs ray, pyspark, Java)."""

import os
import pathlib

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


def test_ray_data(rows):
    ray = pytest.importorskip("ray")
    import ray_predict

    folder, out, wanted = rows
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": os.path.dirname(__file__)}})
    try:
        ray_predict.run(MODEL, folder, out, batch=8, workers=2)
    finally:
        ray.shutdown()
    check(out, wanted)


def test_spark_map_in_arrow(rows):
    pytest.importorskip("pyspark")
    import sys

    from pyspark.sql import SparkSession

    import spark_predict

    folder, out, wanted = rows
    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        spark_predict.run(spark, MODEL, folder, out)
    finally:
        spark.stop()
    check(out, wanted)
