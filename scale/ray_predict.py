"""Predicts a folder of Parquet rows with Ray Data: python scale/ray_predict.py MODEL ROWS OUT [--batch 256] [--workers 2]

Columns are the model's inputs and pass through; each output becomes a column, `out_NAME`. A worker loads the model once and
predicts batches with it.
"""

import argparse

import numpy as np
import ray

import candle_coreml as ct


class Predictor:
    """One worker: the model, mapped from the file that all workers of a machine share."""

    def __init__(self, path):
        self.model = ct.MLModel(path)
        self.inputs = [f.name for f in self.model.description.inputs]

    def __call__(self, batch):
        count = len(next(iter(batch.values())))
        rows = [{name: value(batch[name][i]) for name in self.inputs if name in batch} for i in range(count)]
        outputs = self.model.predict(rows)
        return {**batch, **{f"out_{name}": column([row[name] for row in outputs]) for name in outputs[0]}}


def value(x):
    """A value of a row; lists of lists come as arrays of arrays."""
    return np.stack([value(y) for y in x]) if isinstance(x, np.ndarray) and x.dtype == object else x


def column(values):
    """Values of one output as a column: of arrays and numbers one array, of others as they are."""
    if isinstance(values[0], (np.ndarray, np.number, int, float)):
        return np.stack([np.asarray(value) for value in values])
    return np.array(values, dtype=object)


def run(model, rows, out, batch=256, workers=2):
    data = ray.data.read_parquet(rows)
    predicted = data.map_batches(Predictor, fn_constructor_args=(model,), batch_size=batch, concurrency=workers)
    predicted.write_parquet(out)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "rows", "out"):
        arguments.add_argument(name)
    arguments.add_argument("--batch", type=int, default=256)
    arguments.add_argument("--workers", type=int, default=2)
    run(**vars(arguments.parse_args()))
