"""Compare packages that the command converts with those of ANEMLL's own converter, for the same configurations.

    python -m tools.anemll_interfaces --command target/release/candle-coreml --layouts ../shared/llm-layouts

For each folder of ANEMLL's packages: a checkpoint with random weights is made of its `hf_config.json`, converted with the
same options, and functions, inputs, outputs and states (names, element types, shapes) of every file are compared; they must
be equal, as must operations by type and by the element types and shapes of their results, but in DIFFERENT.
"""

import argparse
import collections
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import coremltools as ct

OPTIONS = {
    "gemma3-c1-ctx96-w32": ["--context", "96", "--batch", "8"],
    "gemma3-c3-ctx96-w32": ["--context", "96", "--batch", "8", "--chunks", "3"],
    "gemma3-monolithic-argmax": ["--context", "96", "--batch", "8", "--monolithic", "--argmax", "--lut-ffn", "4",
                                 "--lut-embeddings", "4", "--lut-head", "6"],
    "qwen3-monolithic-f16": ["--context", "64", "--batch", "16", "--monolithic"],
    "qwen25-monolithic-argmax": ["--context", "96", "--batch", "16", "--monolithic", "--argmax"],
    "qwen3-c2-lut6": ["--context", "128", "--batch", "16", "--chunks", "2", "--lut-ffn", "6", "--lut-head", "6"],
    "llama-monolithic-f16": ["--context", "96", "--batch", "16", "--monolithic"],
    "llama-apple-stateful": ["--to", "stateful", "--context", "96"],
}

# Functions whose operations differ, for the reasons that docs/writing.md gives.
DIFFERENT = {("gemma3-monolithic-argmax", "prefill_rotate"), ("llama-apple-stateful", "main")}


def checkpoint(folder, out):
    """Random weights for a configuration, in F16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    source = folder / "hf_config.json"
    config = json.loads((source if source.exists() else folder / "config.json").read_text())
    (out / "config").mkdir(parents=True)
    (out / "config" / "config.json").write_text(json.dumps(config))
    config = AutoConfig.from_pretrained(out / "config")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).half().save_pretrained(out / "model")
    return out / "model"


def feature(f):
    kind = f.type.WhichOneof("Type")
    array = f.type.multiArrayType if kind == "multiArrayType" else f.type.stateType.arrayType
    flexible = array.WhichOneof("ShapeFlexibility")
    return kind, f.name, array.dataType, tuple(array.shape), str(getattr(array, flexible)) if flexible else ""


def results(op):
    """Type of an operation, and element types and shapes of its results."""
    kinds = [o.type.tensorType for o in op.outputs]
    extents = [[d.constant.size if d.WhichOneof("dimension") == "constant" else -1 for d in k.dimensions] for k in kinds]
    return op.type, str([(k.dataType, e) for k, e in zip(kinds, extents)])


def interface(package):
    """Features of each function, without order; operations by type; operations by type and what they make."""
    spec = ct.utils.load_spec(str(package))
    functions = {f.name: f for f in spec.description.functions} or {"main": spec.description}
    described = {name: sorted(map(feature, [*f.input, *f.output, *f.state])) for name, f in functions.items()}
    kinds, made = {}, {}
    for name, f in spec.mlProgram.functions.items():
        operations = [op for op in f.block_specializations[f.opset].operations if op.type != "const"]
        kinds[name] = collections.Counter(op.type for op in operations)
        made[name] = collections.Counter(map(results, operations))
    return described, kinds, made


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", type=Path, required=True)
    parser.add_argument("--layouts", type=Path, required=True)
    options = parser.parse_args()
    wrong = 0
    for name, arguments in OPTIONS.items():
        theirs = options.layouts / name
        with tempfile.TemporaryDirectory() as folder:
            source = checkpoint(theirs, Path(folder))
            ours = Path(folder) / "converted"
            subprocess.run([options.command.resolve(), "convert", source, "--quiet", "--out", ours, *arguments], check=True)
            packages = sorted(theirs.glob("*.mlpackage"))
            found = sorted(p.name for p in ours.glob("*.mlpackage"))
            if "stateful" not in arguments and found != [p.name for p in packages]:
                wrong += 1
                print(f"{name}: files {found}, expected {[p.name for p in packages]}")
            for package in packages:
                mine = ours / (found[0] if len(found) == 1 else package.name)
                if not mine.exists():
                    continue
                (a, kinds_a, made_a), (b, kinds_b, made_b) = interface(mine), interface(package)
                if a != b:
                    wrong += 1
                    for function in sorted(set(a) | set(b)):
                        only = set(a.get(function, [])) ^ set(b.get(function, []))
                        if only:
                            print(f"{name}/{package.name}: `{function}` differs in {sorted(only)}")
                for function in sorted(set(kinds_a) & set(kinds_b)):
                    x, y = kinds_a[function], kinds_b[function]
                    off = {k: f"{x[k]} for {y[k]}" for k in sorted(set(x) | set(y)) if x[k] != y[k]}
                    print(f"{name}/{package.name} {function}: {sum(x.values())} operations for {sum(y.values())}; {off or 'equal'}")
                    x, y = made_a[function], made_b[function]
                    wrong += x != y and (name, function) not in DIFFERENT
                    if not off and x != y:
                        print(f"    results differ: {dict(x - y)} for {dict(y - x)}")
    print(f"{wrong} differences of files, features or operations")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
