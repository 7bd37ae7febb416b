"""Latency of an encoder and two image networks beside ONNX Runtime, on the same machine in the same run.

    pip install -r benches/peers/requirements.txt
    cargo build --release
    python benches/peers/networks.py --threads 2
    python benches/peers/networks.py --threads 2 --only convnext_tiny lraspp_mobilenet_v3_large

The encoder has the dimensions of MiniLM-L6 at a sequence of 128; all weights are random, all arithmetic is f32.
Outputs are compared too, the difference relative to the largest one. Runs alternate, so that a busy machine disturbs both; the best of the rounds counts.
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
import onnxruntime
import torch
import torchvision
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
SEQUENCE, HIDDEN, FFN, HEADS, LAYERS, VOCABULARY = 128, 384, 1536, 12, 6, 30522


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        linear = torch.nn.Linear
        self.q, self.k, self.v, self.o = (linear(HIDDEN, HIDDEN) for _ in range(4))
        self.up, self.down = linear(HIDDEN, FFN), linear(FFN, HIDDEN)
        self.first, self.second = torch.nn.LayerNorm(HIDDEN, 1e-12), torch.nn.LayerNorm(HIDDEN, 1e-12)

    def forward(self, x):
        size = HIDDEN // HEADS
        q, k, v = (f(x).reshape(1, SEQUENCE, HEADS, size).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (q @ k.transpose(2, 3) / size**0.5).softmax(-1)
        x = self.first(x + self.o((weights @ v).transpose(1, 2).reshape(1, SEQUENCE, HIDDEN)))
        return self.second(x + self.down(torch.nn.functional.gelu(self.up(x))))


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(VOCABULARY, HIDDEN)
        self.positions = torch.nn.Parameter(torch.randn(1, SEQUENCE, HIDDEN) * 0.02)
        self.norm = torch.nn.LayerNorm(HIDDEN, 1e-12)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids):
        x = self.norm(self.words(ids) + self.positions)
        for layer in self.layers:
            x = layer(x)
        return x


class Mask(torch.nn.Module):
    """A segmentation network, which returns its results by name."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)["out"]


def of_torchvision(name):
    size = 299 if name.startswith("inception") else 224
    kinds = {"weights": None, "weights_backbone": None} if hasattr(torchvision.models.segmentation, name) else {"weights": None}
    network = torchvision.models.get_model(name, **kinds).eval()
    return name, Mask(network) if len(kinds) == 2 else network, torch.randn(1, 3, size, size)


def networks(only):
    if only:
        yield from map(of_torchvision, only)
        return
    image = torch.randn(1, 3, 224, 224)
    yield "encoder", Encoder(), torch.randint(0, VOCABULARY, (1, SEQUENCE), dtype=torch.int32)
    yield "ResNet-18", torchvision.models.resnet18(), image
    yield "MobileNetV2", torchvision.models.mobilenet_v2(), image


def convert(folder, network, x):
    """The same network as Core ML package and as ONNX file."""
    network = network.eval()
    traced = torch.jit.trace(network, x)
    inputs = [ct.TensorType(name="x", shape=tuple(x.shape), dtype=x.numpy().dtype)]
    ct.convert(traced, inputs=inputs, outputs=[ct.TensorType(name="y")], minimum_deployment_target=ct.target.iOS16,
               compute_precision=ct.precision.FLOAT32, convert_to="mlprogram").save(str(folder / "model.mlpackage"))
    torch.onnx.export(network, (x,), str(folder / "model.onnx"), input_names=["x"], output_names=["y"], opset_version=17,
                      dynamo=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a folder in which the made models stay, and are found again")
    parser.add_argument("--only", nargs="+", help="networks of torchvision, by name, instead")
    parser.add_argument("--before", metavar="COMMAND", help="another build of candle-coreml, measured in the same run")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    command = str(ROOT / "target/release/candle-coreml")
    environment = {**os.environ, "CANDLE_COREML_THREADS": str(arguments.threads)}
    builds = [command] + ([arguments.before] if arguments.before else [])
    before = ["before"] if arguments.before else []
    print("| " + " | ".join(["", "ours", *before, "ONNX Runtime", "speed", "difference"]) + " |")
    print("|---" * (5 + len(before)) + "|")
    for name, network, x in networks(arguments.only):
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.keep / name if arguments.keep else Path(temporary)
            if not (folder / "model.onnx").exists():
                folder.mkdir(parents=True, exist_ok=True)
                with torch.no_grad():
                    convert(folder, network, x)
            package = str(folder / "model.mlpackage")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = arguments.threads, 1
            session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
            save_file({"x": x.numpy()}, folder / "in.safetensors")
            files = ["--inputs", str(folder / "in.safetensors"), "--outputs", str(folder / "out.safetensors")]
            subprocess.run([command, "predict", package, *files], check=True, env=environment)
            theirs = session.run(None, {"x": x.numpy()})[0]
            difference = np.abs(load_file(folder / "out.safetensors")["y"] - theirs).max() / np.abs(theirs).max()
            ours, peer = {build: [] for build in builds}, []
            for _ in range(arguments.rounds):
                for build in builds:
                    out = subprocess.run([build, "bench", "--model", package, "--json"], capture_output=True, text=True, check=True,
                                         env=environment)
                    ours[build].append(json.loads(out.stdout)["latency_seconds"]["least"])
                for _ in range(50):
                    start = time.perf_counter()
                    session.run(None, {"x": x.numpy()})
                    peer.append(time.perf_counter() - start)
            times, b = [min(ours[build]) * 1e3 for build in builds], min(peer) * 1e3
            cells = [f"{t:.1f} ms" for t in [*times, b]] + [f"{b / times[0]:.2f}", f"{difference:.1e}"]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
