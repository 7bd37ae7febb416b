"""Predicts a folder of Parquet rows with Spark's mapInArrow: spark-submit scale/spark_predict.py MODEL ROWS OUT

Columns are the model's inputs; each output becomes a column, `out_NAME`: of arrays a list of doubles. A partition loads the
model once; the file is to be at the same path on every machine.
"""

import sys

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, DoubleType, LongType, MapType, StringType, StructField, StructType

import candle_coreml as ct

#: Columns of Spark for kinds of outputs.
TYPES = {"array": ArrayType(DoubleType()), "double": DoubleType(), "int64": LongType(), "string": StringType()}


def column_type(feature):
    """Type of an output's column."""
    if feature.kind == "dictionary":
        return MapType(LongType() if feature.dtype == "int64" else StringType(), DoubleType())
    if feature.kind not in TYPES:
        raise ValueError(f"output {feature.name}: a column of {feature.kind} values is not supported")
    return TYPES[feature.kind]


def plain(value):
    """A value as Arrow takes it."""
    if isinstance(value, np.ndarray):
        return value.astype(np.float64).ravel().tolist()
    return list(value.items()) if isinstance(value, dict) else value


def predictor(path, schema):
    """The function of a partition. `schema` is that of the results, in Arrow."""

    def predict(batches):
        model = ct.MLModel(path)
        inputs = [f.name for f in model.description.inputs]
        for batch in batches:
            given = {name: batch.column(name).to_pylist() for name in inputs if name in batch.schema.names}
            rows = [
                {name: np.asarray(values[i]) if isinstance(values[i], list) else values[i] for name, values in given.items()}
                for i in range(batch.num_rows)
            ]
            outputs = model.predict(rows)
            columns = [
                pa.array([plain(row[field.name[4:]]) for row in outputs], field.type)
                for field in schema
                if field.name.startswith("out_")
            ]
            yield pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema)

    return predict


def run(spark, model, rows, out):
    from pyspark.sql.pandas.types import to_arrow_schema

    data = spark.read.parquet(rows)
    outputs = ct.MLModel(model).description.outputs
    fields = [StructField(f"out_{f.name}", column_type(f)) for f in outputs]
    schema = StructType([*data.schema.fields, *fields])
    data.mapInArrow(predictor(model, to_arrow_schema(schema)), schema).write.parquet(out)


if __name__ == "__main__":
    run(SparkSession.builder.getOrCreate(), *sys.argv[1:4])
