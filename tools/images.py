"""Models with image inputs and outputs, and NumPy's results: `python -m tools.images conformance/images`."""

import sys
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from safetensors.numpy import save_file

HEIGHT, WIDTH = 4, 6
GAIN, SHIFT = 1.5, -40.1
LAYOUTS = ct.colorlayout
# Name, layout of the input, layout of the output, scale and bias of the input's description, precision.
MODELS = [
    ("rgb-bgr", LAYOUTS.RGB, LAYOUTS.BGR, 0.5, [30.0, -20.0, 100.0], ct.precision.FLOAT32),
    ("bgr-rgb", LAYOUTS.BGR, LAYOUTS.RGB, 1.5, [0.0, 7.0, -60.0], ct.precision.FLOAT16),
    ("gray-gray", LAYOUTS.GRAYSCALE, LAYOUTS.GRAYSCALE, 0.75, 11.0, ct.precision.FLOAT32),
    ("gray16-gray16", LAYOUTS.GRAYSCALE_FLOAT16, LAYOUTS.GRAYSCALE_FLOAT16, 1.0, 0.0, ct.precision.FLOAT16),
]


class Affine(torch.nn.Module):
    """A linear map that exceeds the pixel range at both ends, so that results must be clamped and rounded."""

    def forward(self, x):
        return x * GAIN + SHIFT


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(20260102)
    tensors = {}
    for name, source, target, scale, bias, precision in MODELS:
        color = source in (LAYOUTS.RGB, LAYOUTS.BGR)
        shape = (1, 3 if color else 1, HEIGHT, WIDTH)
        example = torch.zeros(shape)
        model = ct.convert(
            torch.jit.trace(Affine(), example),
            inputs=[ct.ImageType(name="x", shape=shape, color_layout=source, scale=scale, bias=bias)],
            outputs=[ct.ImageType(name="y", color_layout=target)],
            convert_to="mlprogram", compute_precision=precision, minimum_deployment_target=ct.target.iOS16)
        model.save(str(folder / f"{name}.mlpackage"))
        # In the order of the input's channels; the image file is RGB.
        x = random.integers(0, 256, shape).astype(np.float32)
        if source is LAYOUTS.GRAYSCALE_FLOAT16:
            x = (x / 7).astype(np.float16).astype(np.float32)
        y = (x * np.float32(scale) + np.asarray(bias, np.float32).reshape(1, -1, 1, 1)) * GAIN + SHIFT
        y = y.astype(np.float16) if target is LAYOUTS.GRAYSCALE_FLOAT16 else np.clip(np.rint(y), 0, 255).astype(np.uint8)
        if y.dtype == np.uint8:
            assert (y == 0).any() and (y == 255).any()
        tensors[f"{name}/x"], tensors[f"{name}/y"] = x, y
    save_file(tensors, folder / "reference.safetensors")


if __name__ == "__main__":
    main()
