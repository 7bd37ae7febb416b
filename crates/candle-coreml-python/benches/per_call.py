"""Time of a prediction through Python, beside the library's own:

    python crates/candle-coreml-python/benches/per_call.py
    cargo test --release -p candle-coreml-c --test interface -- --ignored --nocapture

Both print the best of many rounds, in microseconds for each call. With coremltools installed, a third line is about an array
of 10 MB: the program reads one element of it, so that time which grows with the array is a copy.
"""

import pathlib
import tempfile
import time

import numpy as np

import candle_coreml as ct

ROOT = pathlib.Path(__file__).resolve().parents[3]
ROUNDS, CALLS = 30, 200


def best(work, calls=CALLS):
    """Microseconds for a call, in the best round."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        rounds.append((time.perf_counter() - started) / calls)
    return min(rounds) * 1e6


def large():
    """A program that takes 10 MB and returns one element."""
    import coremltools
    from coremltools.converters.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 2_621_440))])
    def program(x):
        return mb.slice_by_size(x=x, begin=[0, 7], size=[1, 1], name="y")

    return coremltools.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )


def main():
    small = ct.MLModel(ROOT / "conformance/classic/normalizer_l2.mlmodel")
    (feature,) = small.description.inputs
    row = {feature.name: np.ones(feature.shape)}
    print(f"normalizer, {feature.shape[0]} numbers: {best(lambda: small.predict(row)):.1f} µs")
    intent = ct.MLModel(ROOT / "models/tiny-intent/intent.mlpackage")
    ids = np.array([[2, 40, 41, 3]], np.int32)
    row = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    print(f"encoder, 4 tokens: {best(lambda: intent.predict(row), 40):.1f} µs")
    try:
        made = large()
    except ImportError:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "large.mlpackage")
        made.save(str(path))
        model = ct.MLModel(path)
        x = np.ones((1, 2_621_440), np.float32)
        copied = best(lambda: x.copy(), 20)
        print(f"array of 10 MB: {best(lambda: model.predict({'x': x}), 20):.1f} µs; a copy of it alone: {copied:.1f} µs")
        wide = np.ones((1, 2 * 2_621_440), np.float32)[:, ::2]
        print(f"the same, every second element: {best(lambda: model.predict({'x': wide}), 5):.1f} µs")


if __name__ == "__main__":
    main()
