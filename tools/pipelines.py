"""A pipeline of ML Programs, and NumPy's results: `python -m tools.pipelines conformance/pipelines`."""

import sys
from pathlib import Path

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from safetensors.numpy import save_file

ROWS, INPUTS, HIDDEN, OUTPUTS = 3, 40, 50, 4


def part(inputs, body, outputs):
    """A program; `outputs` names its results."""
    program = mb.program(input_specs=[mb.TensorSpec(shape=s) for s in inputs.values()], opset_version=ct.target.iOS16)(body)
    return ct.convert(program, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32, minimum_deployment_target=ct.target.iOS16,
                      outputs=[ct.TensorType(name=n) for n in outputs], skip_model_load=True)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(20260103)
    draw = lambda *shape: random.uniform(-1, 1, shape).astype(np.float32)
    up, down, x, scale = draw(HIDDEN, INPUTS), draw(OUTPUTS, HIDDEN), draw(ROWS, INPUTS), draw(ROWS, 1)

    # Both parts use the same value names; the second also takes an input of the pipeline.
    def first(x):
        return mb.relu(x=mb.linear(x=x, weight=up, name="product"), name="h")

    def second(h, scale):
        return mb.mul(x=mb.linear(x=h, weight=down, name="product"), y=scale, name="y"), mb.reduce_sum(x=h, axes=[1], name="sum")

    parts = [part({"x": (ROWS, INPUTS)}, first, ["h"]),
             part({"h": (ROWS, HIDDEN), "scale": (ROWS, 1)}, second, ["y", "sum"])]
    ct.utils.make_pipeline(*parts).save(str(folder / "two.mlpackage"))
    h = np.maximum(x @ up.T, 0)
    save_file({"x": x, "scale": scale, "y": (h @ down.T) * scale, "sum": h.sum(1)}, folder / "reference.safetensors")


if __name__ == "__main__":
    main()
