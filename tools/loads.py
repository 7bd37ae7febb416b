"""Load what the command writes with coremltools: its protobuf classes and its MIL deserializer, without complaint.

    python -m tools.loads --command target/release/candle-coreml

Converts the small checkpoints and encoders of `conformance/` to every layout, compresses in every form, edits, merges,
splits, compiles and goes back, and rewrites the programs of `tools/passes.py` with each pass, branches and loops among them,
in a temporary folder. Each package is parsed, every operation is built again by
coremltools (which infers its types and folds its constants), and inputs, outputs, states and functions are compared
with the description. `--packages PATH...` loads those instead.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import coremltools as ct
from coremltools.converters.mil.frontend.milproto.load import load

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ["qwen2.5-shards-f32", "qwen3-tied-bf16", "llama-rope3-f16", "mistral-f16", "gemma3-window-f16"]
LAYOUTS = {
    "chunks": ["--to", "anemll", "--context", "64", "--batch", "8", "--chunks", "2"],
    "argmax": ["--to", "anemll", "--context", "64", "--batch", "8", "--monolithic", "--argmax"],
    "tables": ["--to", "anemll", "--context", "64", "--batch", "8", "--lut-ffn", "4", "--lut-head", "6,16",
               "--lut-embeddings", "8,0"],
    "stateful": ["--to", "stateful", "--context", "64"],
}
FORMS = {
    "bits1": ["--bits", "1"], "bits3-groups": ["--bits", "3", "--group", "8"], "bits4": ["--bits", "4"],
    "vectors": ["--bits", "2", "--group", "16", "--vector", "2"], "int8": ["--linear", "8"],
    "int8-asymmetric": ["--linear", "8", "--asymmetric"], "int4-blocks": ["--linear", "4", "--block", "16"],
    "sparse": ["--sparsity", "0.5"], "structured": ["--sparsity", "2:4"], "sparse-bits": ["--sparsity", "0.5", "--bits", "4"],
}


def check(package):
    """Parses a package and builds its program again; returns the number of operations."""
    spec = ct.models.MLModel(str(package), skip_model_load=True).get_spec()
    if spec.WhichOneof("Type") != "mlProgram":
        return 0
    weights = package / "Data" / "com.apple.CoreML" / "weights"
    program = load(spec, spec.specificationVersion, str(weights))
    described = {f.name: f for f in spec.description.functions} or {"main": spec.description}
    assert set(described) == set(program.functions), (list(described), list(program.functions))
    count = 0
    for name, function in program.functions.items():
        d = described[name]
        names = {i.name for i in d.input} | {s.name for s in d.state}
        assert names == set(function.inputs), (name, names, list(function.inputs))
        outputs = [o.name for o in function.outputs]
        assert [o.name for o in d.output] == outputs, (name, outputs)
        count += len(function.operations)
    return count


def make(command, out):
    """Packages of every kind."""
    def run(*arguments):
        subprocess.run([command, *map(str, arguments)], check=True, capture_output=True)

    for name in CHECKPOINTS:
        for layout, options in LAYOUTS.items():
            run("convert", ROOT / "conformance/checkpoints" / name, "--quiet", "--out", out / f"{name}-{layout}", *options)
    for source in sorted((ROOT / "conformance/encoders").iterdir()):
        run("convert", source, "--quiet", "--out", out / source.name, "--to", "encoder")
    package = out / "qwen3-tied-bf16-stateful/StatefulModel.mlpackage"
    for form, options in FORMS.items():
        run("compress", package, "--smallest", "64", "--out", out / f"{form}.mlpackage", *options)
    run("decompress", out / "bits4.mlpackage", "--out", out / "dense.mlpackage")
    run("edit", package, "--out", out / "edited.mlpackage", "--author", "A. Name", "--rename", "logits=scores")
    run("merge", f"a={package}", f"b={out / 'bits4.mlpackage'}", "--out", out / "merged.mlpackage")
    run("split", out / "merged.mlpackage", "--out", out / "parts")
    run("compile", out / "merged.mlpackage", "-o", out / "merged.mlmodelc")
    run("compile", out / "merged.mlmodelc", "-o", out / "back.mlpackage")
    from tools.passes import PROGRAMS, package as write
    for name, (source, opset) in PROGRAMS.items():
        single = out / "single" / f"{name}.mlpackage"
        write(source, opset, single)
        run("edit", single, "--out", out / f"{name}-optimized.mlpackage", "--optimize")
        half = ["--precision", "fp16"] + (["--fp16-features"] if opset.value > ct.target.iOS15.value else [])
        run("edit", single, "--out", out / f"{name}-fp16.mlpackage", *half)
        run("compile", single, "-o", out / f"{name}.mlmodelc")
        run("compile", out / f"{name}.mlmodelc", "-o", out / f"{name}-back.mlpackage")
    return sorted(out.rglob("*.mlpackage"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", type=Path, default=ROOT / "target/release/candle-coreml")
    parser.add_argument("--packages", type=Path, nargs="*")
    options = parser.parse_args()
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    with tempfile.TemporaryDirectory() as folder:
        packages = options.packages or make(options.command.resolve(), Path(folder))
        failed = 0
        for package in packages:
            name = package if options.packages else package.relative_to(folder)
            try:
                print(f"{name}: {check(package)} operations", flush=True)
            except Exception as e:
                failed += 1
                print(f"{name}: {type(e).__name__}: {e}", flush=True)
    print(f"{len(packages)} packages, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
