"""Compare the command's rewrites (`edit --optimize --precision fp16`) with coremltools' own passes on the same programs.

    python -m tools.passes --command target/release/candle-coreml

Each program is made by coremltools in float32 without passes. The command rewrites it; coremltools runs its passes of the
same names on it. The operations of both in order of computation, with the element types of what they make, must be equal but
for the places named in `KNOWN`; the rewritten package loads with coremltools' protobuf classes and its MIL deserializer.
With `--keep FOLDER` the packages stay there. With `--predict`, `MLModel.predict` of coremltools, on the Python package's
backend, gives the values of the program of before, optimized within 1e-4 and in fp16 within 1e-2 of the largest.
"""

import argparse
import collections
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from tools.loads import check, load

PASSES = [
    "const_elimination", "fuse_matmul_weight_bias", "fuse_linear_bias", "fuse_conv_scale", "fuse_conv_bias",
    "fuse_conv_batchnorm", "fuse_conv_scale", "fuse_conv_bias", "fuse_conv_batchnorm", "dead_code_elimination",
    "add_fp16_cast", "const_elimination", "dead_code_elimination", "cast_optimization", "dead_code_elimination",
    "const_elimination", "dead_code_elimination",
]
PROGRAMS = {}
# Where results differ, and why.
KNOWN = {
    "branches": "one cast of `x` for both branches, where coremltools casts in each",
}


def program(*shapes, opset=ct.target.iOS17, dtype=types.fp32):
    def register(f):
        specs = [mb.TensorSpec(shape, dtype=dtype) for shape in shapes]
        PROGRAMS[f.__name__] = (mb.program(input_specs=specs, opset_version=opset)(f), opset)
        return f
    return register


def numbers(*shape, scale=1.0, shift=0.0):
    count = int(np.prod(shape))
    return ((np.sin(np.arange(count) * 1.7) * scale + shift).reshape(shape)).astype(np.float32)


@program((1, 3, 8, 8))
def conv_batch_norm(x):
    x = mb.conv(x=x, weight=numbers(6, 3, 3, 3), pad_type="same")
    x = mb.batch_norm(x=x, mean=numbers(6), variance=numbers(6, shift=2.0), gamma=numbers(6), beta=numbers(6), epsilon=1e-5)
    x = mb.relu(x=x)
    x = mb.conv(x=x, weight=numbers(4, 3, 1, 1), bias=numbers(4), groups=2)
    x = mb.mul(x=x, y=numbers(4, 1, 1, shift=2.0))
    x = mb.add(x=x, y=np.float32(0.5))
    return mb.sub(x=x, y=numbers(1, 4, 1, 1))


@program((1, 4, 5))
def transposed(x):
    x = mb.conv_transpose(x=x, weight=numbers(4, 3, 3), groups=2)
    return mb.batch_norm(x=x, mean=numbers(6), variance=numbers(6, shift=2.0), gamma=numbers(6), beta=numbers(6))


@program((2, 5))
def linears(x):
    y = mb.linear(x=x, weight=numbers(7, 5), bias=numbers(7))
    y = mb.add(x=y, y=numbers(7))
    y = mb.gelu(x=y, mode="EXACT")
    y = mb.matmul(x=y, y=numbers(7, 3))
    y = mb.add(x=y, y=numbers(1, 3))
    z = mb.linear(x=x, weight=numbers(3, 5), bias=numbers(3))
    z = mb.sub(x=numbers(3), y=z)
    return mb.softmax(x=mb.sub(x=y, y=z), axis=-1)


@program((1, 6, 8))
def norms(x):
    y = mb.layer_norm(x=x, axes=[-1], gamma=numbers(8), beta=numbers(8), epsilon=1e-12)
    y = mb.rsqrt(x=mb.square(x=y), epsilon=1e-9)
    y = mb.leaky_relu(x=y, alpha=0.3)
    y = mb.clip(x=y, alpha=-3.0, beta=3.0)
    return mb.elu(x=y, alpha=1.5), mb.reduce_mean(x=y, axes=[-1], keep_dims=False)


@program((1, 6, 8), opset=ct.target.iOS15)
def norms_of_ios_15(x):
    y = mb.layer_norm(x=x, axes=[-1], gamma=numbers(8), beta=numbers(8), epsilon=1e-12)
    y = mb.rsqrt(x=mb.square(x=y), epsilon=1e-3)
    y = mb.leaky_relu(x=y, alpha=0.3)
    return mb.upsample_bilinear(x=mb.expand_dims(x=y, axes=[0]), scale_factor_height=2.0, scale_factor_width=2.0)


@program((2, 4))
def beyond(x):
    """Constants beyond fp16: a product keeps float32, a mask becomes infinite."""
    y = mb.mul(x=x, y=np.float32(1e5))
    y = mb.real_div(x=y, y=np.float32(1e5))
    mask = mb.select(cond=mb.greater(x=x, y=np.float32(0)), a=numbers(2, 4), b=np.full((2, 4), -3e38, np.float32))
    return mb.softmax(x=mb.add(x=y, y=mask), axis=-1), mb.exp(x=y)


@program((4, 6))
def casts(x):
    i = mb.cast(x=x, dtype="int32")
    y = mb.cast(x=mb.add(x=i, y=np.int32(2)), dtype="fp32")
    y = mb.mul(x=y, y=x)
    h = mb.cast(x=y, dtype="fp16")
    h = mb.cast(x=mb.relu(x=h), dtype="fp32")
    b = mb.cast(x=mb.less(x=y, y=np.float32(0.3)), dtype="fp32")
    return mb.add(x=mb.mul(x=h, y=b), y=y)


@program((3, 4))
def constants(x):
    a = mb.transpose(x=numbers(4, 3), perm=[1, 0])
    b = mb.exp(x=mb.concat(values=[numbers(1, 4), numbers(2, 4)], axis=0))
    width = mb.gather(x=mb.shape(x=x), indices=np.int32(1), axis=0)
    s = mb.concat(values=[mb.reshape(x=width, shape=[1]), [3]], axis=0)
    return mb.reshape(x=mb.add(x=mb.mul(x=x, y=a), y=b), shape=s)


@program((3,))
def branches(x):
    total = mb.reduce_sum(x=x, keep_dims=False)
    return mb.cond(
        pred=mb.greater(x=total, y=np.float32(1)),
        _true_fn=lambda: mb.mul(x=mb.exp(x=x), y=numbers(3)),
        _false_fn=lambda: mb.add(x=x, y=np.float32(1)),
    )


@program((3,))
def loops(x):
    return mb.while_loop(
        _cond=lambda i, y: mb.less(x=i, y=np.int32(3)),
        _body=lambda i, y: (mb.add(x=i, y=np.int32(1)), mb.mul(x=mb.tanh(x=y), y=x)),
        loop_vars=(np.int32(0), x),
    )[1]


@program((1, 4, 6, 6))
def images(x):
    y = mb.upsample_bilinear(x=x, scale_factor_height=2.0, scale_factor_width=2.0, align_corners=False)
    y = mb.pad(x=y, pad=[1, 1, 1, 1], mode="constant", constant_val=np.float32(0.25))
    y = mb.avg_pool(x=y, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
    y = mb.instance_norm(x=y, gamma=numbers(4), beta=numbers(4), epsilon=1e-5)
    v, i = mb.topk(x=y, k=2, axis=-1)
    return v, mb.cast(x=i, dtype="fp32")


@program((1, 4, 8))
def recurrent(x):
    x = mb.transpose(x=x, perm=[1, 0, 2])
    y, h, c = mb.lstm(x=x, initial_h=numbers(1, 5), initial_c=numbers(1, 5), weight_ih=numbers(20, 8),
                      weight_hh=numbers(20, 5), bias=numbers(20), output_sequence=True)
    return y, mb.tanh(x=c)


def listed(block):
    """Operations in order of computation from the results, with the element types of their results."""
    lines, seen = [], set()

    def visit(var):
        op = var.op
        if op is None or id(op) in seen:
            return
        seen.add(id(op))
        for inputs in op.inputs.values():
            for one in inputs if isinstance(inputs, (list, tuple)) else [inputs]:
                visit(one)
        for nested in op.blocks:
            lines.append(f"{op.op_type} {{")
            for output in nested.outputs:
                visit(output)
            lines.append("}")
        name = lambda v: types.builtin_to_string(v.dtype) if v.dtype is not None else "?"
        if op.op_type != "const":
            lines.append(f"{op.op_type} -> {', '.join(map(name, op.outputs))}")

    for output in block.outputs:
        visit(output)
    return lines


def package(source, opset, path):
    model = ct.convert(source, pass_pipeline=ct.PassPipeline.EMPTY, compute_precision=ct.precision.FLOAT32,
                       minimum_deployment_target=opset, convert_to="mlprogram", skip_model_load=True)
    model.save(str(path))


def read(path):
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    return load(spec, spec.specificationVersion, str(path / "Data" / "com.apple.CoreML" / "weights"))


def values(path):
    """What coremltools' own `MLModel.predict` gives for inputs of the declared shapes."""
    model = ct.models.MLModel(str(path))
    rng = np.random.default_rng(0)
    inputs = {f.name: rng.uniform(-1, 1, tuple(f.type.multiArrayType.shape)).astype(np.float32)
              for f in model.get_spec().description.input}
    return model.predict(inputs)


def distance(found, wanted):
    assert list(found) == list(wanted), (list(found), list(wanted))
    worst = 0.0
    for name, w in wanted.items():
        assert found[name].shape == w.shape, (name, found[name].shape, w.shape)
        finite = np.isfinite(w)
        assert (np.isfinite(found[name]) == finite).all(), name
        largest = max(1.0, np.abs(w[finite]).max(initial=0))
        worst = max(worst, np.abs(found[name].astype(np.float64) - w)[finite].max(initial=0) / largest)
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", type=Path, required=True)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--predict", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.predict:
        import candle_coreml.coremltools_backend  # noqa: F401
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = options.keep or Path(folder)
        folder.mkdir(exist_ok=True, parents=True)
        for name, (source, opset) in PROGRAMS.items():
            single, half = folder / f"{name}.mlpackage", folder / f"{name}-half.mlpackage"
            package(source, opset, single)
            done = subprocess.run([options.command.resolve(), "edit", single, "--out", half, "--optimize", "--precision", "fp16"],
                                  capture_output=True, text=True)
            if done.returncode != 0:
                wrong += 1
                print(f"{name}: {done.stderr}")
                continue
            check(half)
            if options.predict:
                optimized = folder / f"{name}-optimized.mlpackage"
                subprocess.run([options.command.resolve(), "edit", single, "--out", optimized, "--optimize"], check=True,
                               capture_output=True)
                wanted = values(single)
                for path, tolerance in [(optimized, 1e-4), (half, 1e-2)]:
                    off = distance(values(path), wanted)
                    wrong += not off <= tolerance
                    print(f"{path.name}: off by {off:.1e}{'' if off <= tolerance else ', which is too much'}")
            theirs = read(single)
            for one in PASSES:
                PASS_REGISTRY[f"common::{one}"](theirs)
            ours, theirs = listed(read(half).functions["main"]), listed(theirs.functions["main"])
            known = KNOWN.get(name)
            equal = ours == theirs
            wrong += not equal and known is None
            print(f"{name}: {len(ours)} operations, {'equal' if equal else known or 'other than coremltools'}")
            if not equal and known is None:
                a, b = collections.Counter(ours), collections.Counter(theirs)
                print(f"  only ours: {dict(a - b)}\n  only coremltools': {dict(b - a)}")
                print("  " + " | ".join(ours) + "\n  " + " | ".join(theirs))
    print(f"{len(PROGRAMS)} programs, {wrong} differ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
