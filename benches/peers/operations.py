"""Latency of single operations beside PyTorch, on the same machine in the same run.

    pip install -r benches/peers/requirements.txt
    cargo build --release
    python benches/peers/operations.py --threads 2 [NAME...]

Each operation is a model of its own, converted by coremltools; inputs are random, all arithmetic is f32. A prediction takes row-major
tensors and returns them, so that a convolution also pays for its change of memory order. The median of each counts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import coremltools as ct
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
IMAGE, SMALL, SEQUENCE, HEADS = (1, 64, 56, 56), (1, 64, 28, 28), (1, 128, 384), (1, 6, 256, 64)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *x):
        return self.function(*x)


# Name: what it computes (a module, or a function of tensors), and shapes of its inputs.
OPERATIONS = {
    "conv 3×3, stride 2": (nn.Conv2d(64, 128, 3, 2, 1), [IMAGE]),
    "conv 3×3": (nn.Conv2d(64, 64, 3, 1, 1), [IMAGE]),
    "conv 5×5": (nn.Conv2d(32, 32, 5, 1, 2), [(1, 32, 56, 56)]),
    "conv 3×3, 32 groups": (nn.Conv2d(128, 128, 3, 1, 1, groups=32), [(1, 128, 28, 28)]),
    "conv 7×7, depthwise": (nn.Conv2d(96, 96, 7, 1, 3, groups=96), [(1, 96, 56, 56)]),
    "conv 16×16, stride 16": (nn.Conv2d(3, 384, 16, 16), [(1, 3, 224, 224)]),
    "conv 1-D, 3 taps": (nn.Conv1d(80, 384, 3, 1, 1), [(1, 80, 1500)]),
    "conv 3-D, 3×3×3": (nn.Conv3d(16, 32, 3, 1, 1), [(1, 16, 8, 28, 28)]),
    "transposed 2×2, stride 2": (nn.ConvTranspose2d(128, 64, 2, 2), [(1, 128, 28, 28)]),
    "transposed 4×4, stride 2": (nn.ConvTranspose2d(64, 32, 4, 2, 1), [IMAGE]),
    "transposed 1-D, 16 taps, stride 8": (nn.ConvTranspose1d(128, 64, 16, 8, 4), [(1, 128, 400)]),
    "linear, 128 rows": (nn.Linear(384, 1536), [SEQUENCE]),
    "linear, 1 row": (nn.Linear(4096, 4096), [(1, 4096)]),
    "matmul": (torch.matmul, [(256, 512), (512, 256)]),
    "matmul, 8 matrices, transposed": (lambda a, b: a @ b.transpose(-1, -2), [(8, 256, 64), (8, 256, 64)]),
    "attention": (lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) * 0.125, -1) @ v, [HEADS] * 3),
    "lstm, 50 steps": (nn.LSTM(128, 256, batch_first=True), [(1, 50, 128)]),
    "gru, 50 steps": (nn.GRU(128, 256, batch_first=True), [(1, 50, 128)]),
    "max pool": (nn.MaxPool2d(3, 2, 1), [IMAGE]),
    "average pool": (nn.AvgPool2d(3, 2, 1), [IMAGE]),
    "global average": (nn.AdaptiveAvgPool2d(1), [IMAGE]),
    "bilinear, twice the size": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), [IMAGE]),
    "nearest, twice the size": (lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), [IMAGE]),
    "grid sample": (lambda x, g: F.grid_sample(x, g, align_corners=False), [IMAGE, (1, 56, 56, 2)]),
    "layer norm": (nn.LayerNorm(384), [SEQUENCE]),
    "group norm": (nn.GroupNorm(8, 64), [IMAGE]),
    "instance norm": (nn.InstanceNorm2d(64), [IMAGE]),
    "batch norm": (nn.BatchNorm2d(64), [IMAGE]),
    "softmax over rows": (nn.Softmax(-1), [(1, 6, 128, 128)]),
    "softmax over channels": (nn.Softmax(1), [IMAGE]),
    "relu": (nn.ReLU(), [IMAGE]),
    "gelu": (nn.GELU(), [IMAGE]),
    "gelu, tanh": (nn.GELU("tanh"), [IMAGE]),
    "silu": (nn.SiLU(), [IMAGE]),
    "hard swish": (nn.Hardswish(), [IMAGE]),
    "elu": (nn.ELU(), [IMAGE]),
    "prelu": (nn.PReLU(64), [IMAGE]),
    "softplus": (nn.Softplus(), [IMAGE]),
    "tanh": (torch.tanh, [IMAGE]),
    "exp": (torch.exp, [IMAGE]),
    "log": (lambda x: torch.log(x.abs() + 1), [IMAGE]),
    "sin": (torch.sin, [IMAGE]),
    "sqrt": (lambda x: torch.sqrt(x.abs()), [IMAGE]),
    "power of 3": (lambda x: x**3, [IMAGE]),
    "power of 1.5": (lambda x: x.abs() ** 1.5, [IMAGE]),
    "add": (torch.add, [IMAGE, IMAGE]),
    "multiply by channel": (torch.mul, [IMAGE, (1, 64, 1, 1)]),
    "divide": (lambda a, b: a / (b.abs() + 1), [IMAGE, IMAGE]),
    "where": (lambda a, b: torch.where(a > b, a, b), [IMAGE, IMAGE]),
    "sum of rows": (lambda x: x.sum(-1), [IMAGE]),
    "sum of channels": (lambda x: x.sum(1), [IMAGE]),
    "largest of rows": (lambda x: x.amax(-1), [IMAGE]),
    "largest of channels, where": (lambda x: x.argmax(1), [IMAGE]),
    "cumulative sum": (lambda x: x.cumsum(-1), [IMAGE]),
    "50 largest of 32,000": (lambda x: x.topk(50)[0], [(1, 32000)]),
    "sort, 64 rows": (lambda x: x.sort(-1)[0], [(64, 1000)]),
    "transpose": (lambda x: x.transpose(1, 3) + 0.0, [IMAGE]),
    "windows": (lambda x: x.reshape(1, 64, 8, 7, 8, 7).permute(0, 2, 4, 3, 5, 1).reshape(64, 49, 64) * 2, [IMAGE]),
    "concatenate channels": (lambda a, b: torch.cat([a, b], 1), [IMAGE, IMAGE]),
    "concatenate rows": (lambda a, b: torch.cat([a, b], -1), [IMAGE, IMAGE]),
    "slice in steps": (lambda x: x[:, :, ::2, 1::2] + 0.0, [IMAGE]),
    "gather": (lambda x: x[:, :, torch.arange(0, 56, 3)], [IMAGE]),
    "pad": (lambda x: F.pad(x, (1, 1, 1, 1)), [IMAGE]),
    "pad, reflected": (lambda x: F.pad(x, (3, 3, 3, 3), mode="reflect"), [IMAGE]),
    "reverse": (lambda x: x.flip(-1), [IMAGE]),
    "tile": (lambda x: x.repeat(1, 2, 2, 2), [SMALL]),
    "pixel shuffle": (nn.PixelShuffle(2), [IMAGE]),
}


def convert(module, x, path):
    with torch.no_grad():
        traced = torch.jit.trace(module, x)
    inputs = [ct.TensorType(name=f"x{i}", shape=tuple(v.shape)) for i, v in enumerate(x)]
    ct.convert(traced, inputs=inputs, minimum_deployment_target=ct.target.iOS16, compute_precision=ct.precision.FLOAT32,
               convert_to="mlprogram", skip_model_load=True).save(str(path))


def median(values):
    return sorted(values)[len(values) // 2] * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="the operations; all of them, if none is named")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    command = str(ROOT / "target/release/candle-coreml")
    environment = {**os.environ, "CANDLE_COREML_THREADS": str(arguments.threads)}
    print("| | ours | PyTorch | speed |\n|---|---|---|---|")
    for name in arguments.names or OPERATIONS:
        function, shapes = OPERATIONS[name]
        module = (function if isinstance(function, nn.Module) else Call(function)).eval()
        x = tuple(torch.randn(shape) for shape in shapes)
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "operation.mlpackage"
            convert(module, x, package)
            out = subprocess.run([command, "bench", "--model", str(package), "--json"], capture_output=True, text=True,
                                 check=True, env=environment)
        ours, theirs = json.loads(out.stdout)["latency_seconds"]["median"] * 1e3, []
        with torch.inference_mode():
            end = time.perf_counter() + 0.3
            while time.perf_counter() < end:
                start = time.perf_counter()
                module(*x)
                theirs.append(time.perf_counter() - start)
        peer = median(theirs)
        print(f"| {name} | {ours:.3f} ms | {peer:.3f} ms | {peer / ours:.2f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
