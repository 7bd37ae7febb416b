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
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
IMAGE, SMALL, SEQUENCE, HEADS = (1, 64, 56, 56), (1, 64, 28, 28), (1, 128, 384), (1, 6, 256, 64)


class Below(tuple):
    """The shape of an input of random integers below a bound."""

    def __new__(cls, bound, shape):
        self = super().__new__(cls, shape)
        self.bound = bound
        return self

    def random(self):
        return torch.randint(0, self.bound, tuple(self))


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
    "scatter, add rows": (lambda x, i: torch.zeros(2000, 64).scatter_add(0, i, x), [(20000, 64), Below(2000, (20000, 64))]),
    "scatter, add": (lambda x, i: torch.zeros(2000).scatter_add(0, i, x), [(50000,), Below(2000, (50000,))]),
    "scatter, set": (lambda x, i: torch.zeros(128, 512).scatter(1, i, x), [(128, 256), Below(512, (128, 256))]),
    "scatter, add at rows": (lambda x, i: torch.zeros(2000, 64).index_put((i,), x, True), [(5000, 64), Below(2000, (5000,))]),
    "gather along rows": (lambda x, i: torch.gather(x, 0, i), [(2000, 64), Below(2000, (10000, 64))]),
    "gather along columns": (lambda x, i: torch.gather(x, 1, i), [(512, 512), Below(512, (512, 512))]),
    "gather at pairs": (lambda x, i, j: x[i, j] + 1, [(512, 512), Below(512, (40000,)), Below(512, (40000,))]),
    "embedding": (nn.Embedding(1000, 256), [Below(1000, (1, 128))]),
    "one-hot": (lambda i: F.one_hot(i, 1000).float(), [Below(1000, (256,))]),
    "matmul, 4,000 small": (torch.matmul, [(4000, 1, 8), (4000, 8, 4)]),
    "matmul, 64 of 32×32": (torch.matmul, [(64, 32, 32), (64, 32, 32)]),
    "matmul, broadcast": (torch.matmul, [(16, 1, 64, 64), (1, 16, 64, 64)]),
    "matmul, constant": (lambda x, w=torch.randn(768, 3072): x @ w, [(64, 768)]),
    "matmul, constant at the left": (lambda x, w=torch.randn(512, 512): w @ x, [(512, 512)]),
    "einsum of channels": (lambda a, b: torch.einsum("nchw,nkc->nkhw", a, b), [SMALL, (1, 32, 64)]),
    "outer product": (lambda a, b: a[:, None] * b[None, :], [(512,), (512,)]),
    "lower triangle": (lambda x: torch.tril(x), [(8, 256, 256)]),
    "logic": (lambda a, b: torch.logical_or(torch.logical_and(a > 0, b > 0), a > b).float(), [IMAGE, IMAGE]),
    "to integers and back": (lambda x: x.int().float() * 2, [IMAGE]),
    "log-sum-exp of rows": (lambda x: torch.logsumexp(x, -1), [(512, 512)]),
    "log-softmax": (lambda x: torch.log_softmax(x, -1), [(512, 512)]),
    "largest of rows, where": (lambda x: x.argmax(-1), [(512, 512)]),
    "mean of positions": (lambda x: x.mean((2, 3)), [IMAGE]),
    "mean of channels": (lambda x: x.mean(1), [IMAGE]),
    "sum": (lambda x: x.sum().reshape(1), [IMAGE]),
    "largest of the first": (lambda x: x.amax(0), [(64, 56, 56)]),
    "root mean square": (lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5), [SEQUENCE]),
    "layer norm of images": (nn.LayerNorm((64, 28, 28)), [SMALL]),
    "group norm, 32 groups": (nn.GroupNorm(32, 64), [IMAGE]),
    "pad, edges": (lambda x: F.pad(x, (3, 3, 3, 3), mode="replicate"), [IMAGE]),
    "roll": (lambda x: torch.roll(x, (3, 3), (2, 3)), [IMAGE]),
    "permute to channels last": (lambda x: x.permute(0, 2, 3, 1) * 2, [IMAGE]),
    "permute of heads": (lambda x: x.reshape(1, 128, 6, 64).permute(0, 2, 1, 3) * 2, [SEQUENCE]),
    "transpose of a matrix": (lambda x: x.t() + 1, [(1024, 1024)]),
    "stack": (lambda a, b: torch.stack([a, b], 1) + 1, [IMAGE, IMAGE]),
    "split channels": (lambda x: torch.split(x, 32, 1), [IMAGE]),
    "sigmoid": (torch.sigmoid, [IMAGE]),
    "leaky relu": (nn.LeakyReLU(), [IMAGE]),
    "clamp": (lambda x: x.clamp(-1, 1), [IMAGE]),
    "square": (lambda x: x**2, [IMAGE]),
    "add to rows": (torch.add, [IMAGE, (56,)]),
    "add to columns": (torch.add, [IMAGE, (56, 1)]),
    "distances": (lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1), [(128, 64), (128, 64)]),
    "lstm, 16 sequences": (nn.LSTM(64, 128, batch_first=True), [(16, 20, 64)]),
    "gru, 8 sequences": (nn.GRU(64, 128, batch_first=True), [(8, 50, 64)]),
    "conv 3×3, depthwise": (nn.Conv2d(96, 96, 3, 1, 1, groups=96), [(1, 96, 56, 56)]),
    "conv 3×3, depthwise, stride 2": (nn.Conv2d(96, 96, 3, 2, 1, groups=96), [(1, 96, 56, 56)]),
    "conv 3×3, depthwise, dilated": (nn.Conv2d(96, 96, 3, 1, 2, 2, groups=96), [(1, 96, 56, 56)]),
    "transposed 4×4, depthwise": (nn.ConvTranspose2d(64, 64, 4, 2, 1, groups=64), [IMAGE]),
    "conv 1-D, wave": (nn.Conv1d(1, 64, 10, 5), [(1, 1, 16000)]),
    "unfold": (lambda x: F.unfold(x, 3, padding=1), [(1, 32, 28, 28)]),
}


def convert(module, x, path, half):
    with torch.no_grad():
        traced = torch.jit.trace(module, x)
    inputs = [ct.TensorType(name=f"x{i}", shape=tuple(v.shape), dtype=np.float32 if v.is_floating_point() else np.int32)
              for i, v in enumerate(x)]
    precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
    ct.convert(traced, inputs=inputs, minimum_deployment_target=ct.target.iOS17, compute_precision=precision,
               convert_to="mlprogram", skip_model_load=True).save(str(path))


def median(values):
    return sorted(values)[len(values) // 2] * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="the operations; all of them, if none is named")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--half", action="store_true", help="fp16 between inputs and outputs that stay f32; PyTorch computes in f32")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    command = str(ROOT / "target/release/candle-coreml")
    environment = {**os.environ, "CANDLE_COREML_THREADS": str(arguments.threads)}
    print("| | ours | PyTorch | speed |\n|---|---|---|---|")
    for name in arguments.names or OPERATIONS:
        function, shapes = OPERATIONS[name]
        module = (function if isinstance(function, nn.Module) else Call(function)).eval()
        x = tuple(shape.random() if isinstance(shape, Below) else torch.randn(shape) for shape in shapes)
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "operation.mlpackage"
            convert(module, x, package, arguments.half)
            np.savez(Path(folder) / "inputs.npz", **{f"x{i}": v.numpy().astype(np.float32 if v.is_floating_point() else np.int32)
                                                     for i, v in enumerate(x)})
            out = subprocess.run([command, "bench", "--model", str(package), "--inputs", f"{folder}/inputs.npz", "--json"],
                                 capture_output=True, text=True, check=True, env=environment)
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
