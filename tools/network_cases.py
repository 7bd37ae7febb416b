"""Writes reference cases of layers of neural networks: `python -m tools.network_cases conformance/neural_networks`.

Networks are made by coremltools' builder, results by PyTorch and NumPy from the definition of the format. One file has all
of them: `CASE/model` holds the bytes of a `.mlmodel`, `CASE/in/NAME` and `CASE/out/NAME` arrays.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder, quantization_utils
from safetensors.numpy import save_file

RNG = np.random.default_rng(7)
CASES = {}


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def add(name, inputs, layers, outputs, exact=False, quantize=None, compute=None):
    """A network of `layers(builder)`: inputs by name, results `out` (or several, by name)."""
    outputs = compute(**inputs) if compute else outputs
    outputs = outputs if isinstance(outputs, dict) else {"out": outputs}
    outputs = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in outputs.items()}
    builder = NeuralNetworkBuilder(
        [(k, datatypes.Array(*v.shape)) for k, v in inputs.items()],
        [(k, None) for k in outputs],
        disable_rank5_shape_mapping=exact,
    )
    layers(builder)
    spec = builder.spec
    if quantize:
        bits, mode = quantize
        spec = quantization_utils._quantize_spec_weights(spec, bits, mode)
    assert name not in CASES
    CASES[name] = (spec.SerializeToString(), inputs, outputs)


def t(x):
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


def convolutions():
    x = draw(4, 7, 9)
    for name, groups, dilation, stride, border, pads in [
        ("valid", 1, 1, 1, "valid", (0, 0, 0, 0)),
        ("padded", 1, 1, 2, "valid", (1, 2, 0, 1)),
        ("groups", 2, 1, 1, "valid", (1, 1, 1, 1)),
        ("dilated", 1, 2, 1, "valid", (2, 2, 2, 2)),
        ("same", 1, 1, 2, "same", None),
        ("same_heavy_first", 1, 1, 2, "same", None),
    ]:
        w, b = draw(6, 4 // groups, 3, 3), draw(6)
        mode = "TOP_LEFT_HEAVY" if name.endswith("first") else "BOTTOM_RIGHT_HEAVY"
        if border == "same":
            total = [max(0, (-(-n // stride) - 1) * stride + 3 - n) for n in x.shape[1:]]
            less, more = [v // 2 for v in total], [v - v // 2 for v in total]
            if mode == "TOP_LEFT_HEAVY":
                less, more = more, less
            y = F.pad(t(x)[None], (less[1], more[1], less[0], more[0]))
            amounts = {}
        else:
            top, bottom, left, right = pads
            y = F.pad(t(x)[None], (left, right, top, bottom))
            amounts = {"padding_top": top, "padding_bottom": bottom, "padding_left": left, "padding_right": right}
        y = F.conv2d(y, t(w), t(b), stride, 0, dilation, groups)[0]
        add(f"convolution_{name}", {"x": x}, lambda n: n.add_convolution(
            "layer", 4 // groups, 6, 3, 3, stride, stride, border, groups, w.transpose(2, 3, 1, 0), b, True, False, None,
            "x", "out", [dilation, dilation], same_padding_asymmetry_mode=mode, **amounts), y)
    w, b = draw(4, 3, 3, 2), draw(3)
    for name, groups, crop in ("valid", 1, 0), ("cropped", 1, 1), ("groups", 2, 0):
        k = w[:, : 3 if groups == 1 else 2]
        c = b if groups == 1 else draw(4)
        y = F.conv_transpose2d(t(x)[None], t(k), t(c), 2, (crop, 0), groups=groups)[0]
        add(f"deconvolution_{name}", {"x": x}, lambda n: n.add_convolution(
            "layer", 4, k.shape[1] * groups, 3, 2, 2, 2, "valid", groups, k.transpose(2, 3, 0, 1), c, True, True, None,
            "x", "out", padding_top=crop, padding_bottom=crop), y)
    y = F.conv_transpose2d(t(x)[None], t(w), None, 2)[0][:, :14, :18]
    add("deconvolution_same", {"x": x}, lambda n: n.add_convolution(
        "layer", 4, 3, 3, 2, 2, 2, "same", 1, w.transpose(2, 3, 0, 1), None, False, True, None, "x", "out"), y)


def pooling():
    x = draw(3, 7, 8)
    for kind, f in ("MAX", F.max_pool2d), ("AVERAGE", F.avg_pool2d):
        add(f"pooling_{kind.lower()}", {"x": x}, lambda n: n.add_pooling(
            "layer", 3, 2, 2, 2, kind, "VALID", "x", "out"), f(t(x)[None], (3, 2), 2)[0])
        y = t(x).amax((1, 2), True) if kind == "MAX" else t(x).mean((1, 2), True)
        add(f"pooling_{kind.lower()}_global", {"x": x}, lambda n: n.add_pooling(
            "layer", 1, 1, 1, 1, kind, "VALID", "x", "out", is_global=True), y)
    y = F.pad(t(x)[None], (1, 1, 1, 1), value=-np.inf)
    y = F.max_pool2d(y, 3, 2, ceil_mode=True)[0]
    add("pooling_last_pixel", {"x": x}, lambda n: n.add_pooling(
        "layer", 3, 3, 2, 2, "MAX", "INCLUDE_LAST_PIXEL", "x", "out", padding_top=1, padding_left=1, padding_bottom=1,
        padding_right=1), y)
    y = F.avg_pool2d(t(x)[None], 3, 2, 1, count_include_pad=False)[0]
    add("pooling_without_padding", {"x": x}, lambda n: n.add_pooling(
        "layer", 3, 3, 2, 2, "AVERAGE", "VALID", "x", "out", exclude_pad_area=True, padding_top=1, padding_left=1,
        padding_bottom=1, padding_right=1), y)
    y = (F.avg_pool2d(t(x)[None] ** 2, 2, 2)[0] * 4).sqrt()
    add("pooling_l2", {"x": x}, lambda n: n.add_pooling("layer", 2, 2, 2, 2, "L2", "VALID", "x", "out"), y)


def activations():
    x = draw(3, 4, 5)
    a, b = draw(3), np.abs(draw(3)) + 0.5
    channel = lambda v: t(v)[:, None, None]
    for name, params, y in [
        ("RELU", None, F.relu(t(x))),
        ("LEAKYRELU", [0.3], F.leaky_relu(t(x), 0.3)),
        ("SIGMOID", None, t(x).sigmoid()),
        ("TANH", None, t(x).tanh()),
        ("SCALED_TANH", [1.5, 0.6], 1.5 * (0.6 * t(x)).tanh()),
        ("SIGMOID_HARD", [0.3, 0.4], (0.3 * t(x) + 0.4).clamp(0, 1)),
        ("LINEAR", [0.3, 0.4], 0.3 * t(x) + 0.4),
        ("ELU", 0.7, F.elu(t(x), 0.7)),
        ("THRESHOLDEDRELU", 0.4, t(x) * (t(x) >= 0.4)),
        ("SOFTSIGN", None, F.softsign(t(x))),
        ("SOFTPLUS", None, F.softplus(t(x))),
        ("PRELU", a, torch.where(t(x) < 0, channel(a) * t(x), t(x))),
        ("PARAMETRICSOFTPLUS", [a, b], channel(a) * torch.log1p((channel(b) * t(x)).exp())),
    ]:
        add(f"activation_{name.lower()}", {"x": x}, lambda n: n.add_activation("layer", name, "x", "out", params), y)
    add("softmax", {"x": x}, lambda n: n.add_softmax("layer", "x", "out"), t(x).softmax(0))
    for name, y in ("EXACT", F.gelu(t(x))), ("TANH_APPROXIMATION", F.gelu(t(x), approximate="tanh")):
        add(f"gelu_{name.lower()}", {"x": x}, lambda n: n.add_gelu("layer", "x", "out", name), y, exact=True)


def linear():
    x, w, b = draw(12), draw(5, 12), draw(5)
    y = w @ x + b
    inner = lambda n: n.add_inner_product("layer", w, b, 12, 5, True, "x", "out")
    add("inner_product", {"x": x}, inner, y)
    m = draw(3, 2, 2)
    add("inner_product_image", {"x": m}, inner, w @ m.reshape(12) + b)
    e = draw(2, 3, 12)
    add("inner_product_exact", {"x": e}, inner, e @ w.T + b, exact=True)
    add("inner_product_half", {"x": x}, inner, w.astype(np.float16).astype(np.float32) @ x + b.astype(np.float16), quantize=(16, "_linear_quantization"))
    table = draw(4, 6)
    add("embedding", {"x": np.array([3], np.float32)}, lambda n: n.add_embedding(
        "layer", table, b[:4], 6, 4, True, "x", "out"), table[:, 3] + b[:4])
    ids = np.array([[1], [5], [0]], np.float32)
    add("embedding_nd", {"x": ids}, lambda n: n.add_embedding_nd("layer", "x", "out", 6, 4, table),
        table.T[[1, 5, 0]], exact=True)
    p, q = draw(2, 3, 4), draw(2, 5, 4)
    add("batched_matmul", {"x": p, "y": q}, lambda n: n.add_batched_mat_mul(
        "layer", ["x", "y"], "out", transpose_b=True), p @ q.transpose(0, 2, 1), exact=True)
    k = draw(4, 5)
    add("batched_matmul_weights", {"x": p}, lambda n: n.add_batched_mat_mul(
        "layer", ["x"], "out", weight_matrix_rows=4, weight_matrix_columns=5, W=k, bias=b), p @ k + b, exact=True)


def quantized():
    x, w = draw(4, 5, 5), draw(6, 4, 3, 3)
    layer = lambda v: lambda n: n.add_convolution(
        "layer", 4, 6, 3, 3, 1, 1, "valid", 1, v.transpose(2, 3, 1, 0), None, False, False, None, "x", "out")
    for bits in 8, 4, 3:
        rows = w.reshape(6, -1)
        low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
        scale = (high - low) / (2**bits - 1)
        q = np.round((rows - low) / scale)
        used = (q * scale + low).reshape(w.shape)
        y = F.conv2d(t(x)[None], t(used))[0]
        add(f"quantized_linear_{bits}", {"x": x}, layer(w), y, quantize=(bits, "_linear_quantization"))
    levels = np.array([-1.0, -0.25, 0.5, 1.25], np.float32)
    used = levels[RNG.integers(0, 4, w.shape)]
    add("quantized_table_2", {"x": x}, layer(used), F.conv2d(t(x)[None], t(used))[0], quantize=(2, "_lookup_table_quantization_linear"))


def normalizations():
    x = draw(4, 5, 6)
    g, b, m, v = draw(4), draw(4), draw(4), np.abs(draw(4)) + 0.1
    channel = lambda a: t(a)[:, None, None]
    add("batchnorm", {"x": x}, lambda n: n.add_batchnorm("layer", 4, g, b, m, v, "x", "out", epsilon=1e-3),
        F.batch_norm(t(x)[None], t(m), t(v), t(g), t(b), eps=1e-3)[0])
    add("batchnorm_instance", {"x": x}, lambda n: n.add_batchnorm(
        "layer", 4, g, b, None, None, "x", "out", compute_mean_var=True, instance_normalization=True, epsilon=1e-3),
        F.instance_norm(t(x)[None], weight=t(g), bias=t(b), eps=1e-3)[0])
    add("lrn", {"x": x}, lambda n: n.add_lrn("layer", "x", "out", 0.3, 0.75, 3, 1.5),
        F.local_response_norm(t(x)[None], 3, 0.3, 0.75, 1.5)[0])
    add("l2normalize", {"x": x}, lambda n: n.add_l2_normalize("layer", "x", "out", 1e-4),
        x / np.sqrt((x**2).sum() + 1e-4))
    for across in False, True:
        axes = (0, 1, 2) if across else (1, 2)
        d = x - x.mean(axes, keepdims=True)
        add(f"mvn_{across}".lower(), {"x": x}, lambda n: n.add_mvn("layer", "x", "out", across, True, 1e-4),
            d / np.sqrt((d**2).mean(axes, keepdims=True) + 1e-4))
    lg, lb = draw(5, 6), draw(5, 6)
    add("layer_normalization", {"x": x}, lambda n: n.add_layer_normalization("layer", "x", "out", [5, 6], lg, lb, 1e-3),
        F.layer_norm(t(x), (5, 6), t(lg), t(lb), 1e-3), exact=True)


def arithmetic():
    x, y, c = draw(3, 4, 5), draw(3, 4, 5), draw(3, 1, 1)
    for mode, r in [("ADD", x + y), ("MULTIPLY", x * y), ("AVE", (x + y) / 2), ("MAX", np.maximum(x, y)),
                    ("MIN", np.minimum(x, y)), ("CONCAT", np.concatenate([x, y]))]:
        add(f"elementwise_{mode.lower()}", {"x": x, "y": y}, lambda n: n.add_elementwise(
            "layer", ["x", "y"], "out", mode), r)
    add("elementwise_add_channels", {"x": x, "y": c}, lambda n: n.add_elementwise(
        "layer", ["x", "y"], "out", "ADD"), x + c)
    add("elementwise_add_alpha", {"x": x}, lambda n: n.add_elementwise("layer", ["x"], "out", "ADD", 1.5), x + 1.5)
    p = np.abs(x) + 0.3
    for mode, r in [("sqrt", np.sqrt(p)), ("rsqrt", 1 / np.sqrt(p + 1e-4)), ("inverse", 1 / (p + 1e-4)),
                    ("power", p**1.3), ("exp", np.exp(p)), ("log", np.log(p + 1e-4)), ("abs", p), ("threshold", np.maximum(p, 1.3))]:
        add(f"unary_{mode}", {"x": p}, lambda n: n.add_unary("layer", "x", "out", mode, alpha=1.3, epsilon=1e-4), r)
    add("unary_scaled", {"x": x}, lambda n: n.add_unary("layer", "x", "out", "exp", scale=0.5, shift=-0.2),
        np.exp(0.5 * x - 0.2))
    add("scale_channels", {"x": x}, lambda n: n.add_scale("layer", c.ravel(), y.ravel(), True, "x", "out", [3], [3, 4, 5]),
        x * c + y)
    add("bias_plane", {"x": x}, lambda n: n.add_bias("layer", y[:1].ravel(), "x", "out", [1, 4, 5]), x + y[:1])
    v, w = draw(6), draw(6)
    for cosine in False, True:
        r = v @ w / (np.linalg.norm(v) * np.linalg.norm(w) if cosine else 1)
        mode = "COS" if cosine else "DOT"
        add(f"dot_{mode.lower()}", {"x": v, "y": w}, lambda n: n.add_elementwise(
            "layer", ["x", "y"], "out", mode), np.array([r]))
    for mode, f in [("sum", np.sum), ("avg", np.mean), ("max", np.max), ("min", np.min)]:
        add(f"reduce_{mode}", {"x": x}, lambda n: n.add_reduce("layer", "x", "out", "CHW", mode), f(x).reshape(1))
    add("reduce_argmax", {"x": x}, lambda n: n.add_reduce("layer", "x", "out", "C", "argmax"), x.argmax(0)[None])
    add("reduce_logsum", {"x": p}, lambda n: n.add_reduce("layer", "x", "out", "HW", "logsum", 1e-3),
        np.log(p + 1e-3).sum((1, 2), keepdims=True))
    add("floor_div", {"x": x, "y": y}, lambda n: n.add_floor_div_broadcastable("layer", ["x", "y"], "out"),
        np.floor(x / y), exact=True)
    add("mod", {"x": x, "y": y}, lambda n: n.add_mod_broadcastable("layer", ["x", "y"], "out"), np.mod(x, y), exact=True)
    add("less", {"x": x, "y": y}, lambda n: n.add_less_than("layer", ["x", "y"], "out"), x < y, exact=True)
    add("asinh", {"x": x}, lambda n: n.add_asinh("layer", "x", "out"), np.arcsinh(x), exact=True)
    add("acosh", {"x": p + 1}, lambda n: n.add_acosh("layer", "x", "out"), np.arccosh(p + 1), exact=True)
    add("where", {"c": (x > 0).astype(np.float32), "x": x, "y": y}, lambda n: n.add_where_broadcastable(
        "layer", ["c", "x", "y"], "out"), np.where(x > 0, x, y), exact=True)


def shapes():
    x = draw(4, 6, 8)
    add("flatten", {"x": x}, lambda n: n.add_flatten("layer", 0, "x", "out"), x.ravel())
    add("flatten_channel_last", {"x": x}, lambda n: n.add_flatten("layer", 1, "x", "out"), x.transpose(1, 2, 0).ravel())
    add("reshape", {"x": x}, lambda n: n.add_reshape("layer", "x", "out", (8, 3, 8), 0), x.reshape(8, 3, 8))
    y = x.transpose(1, 2, 0).reshape(3, 8, 8).transpose(2, 0, 1)
    add("reshape_channel_last", {"x": x}, lambda n: n.add_reshape("layer", "x", "out", (8, 3, 8), 1), y)
    add("permute", {"x": x}, lambda n: n.add_permute("layer", (0, 2, 3, 1), "x", "out"), x.transpose(1, 2, 0))
    add("split", {"x": x}, lambda n: n.add_split("layer", "x", ["a", "b"]), {"a": x[:2], "b": x[2:]})
    add("slice", {"x": x}, lambda n: n.add_slice("layer", "x", "out", "height", 1, -1, 2), x[:, 1:-1:2])
    add("crop", {"x": x}, lambda n: n.add_crop("layer", 1, 2, 0, 3, 0, ["x"], "out"), x[:, 0:3, 1:6])
    for kind, mode in ("constant", "constant"), ("reflection", "reflect"), ("replication", "edge"):
        more = {"constant_values": 2.0} if kind == "constant" else {}
        add(f"padding_{kind}", {"x": x}, lambda n: n.add_padding(
            "layer", 1, 2, 3, 0, 2.0, "x", "out", kind), np.pad(x, ((0, 0), (3, 0), (1, 2)), mode, **more))
    add("upsample_nearest", {"x": x}, lambda n: n.add_upsample("layer", 2, 3, "x", "out", "NN"),
        x.repeat(2, 1).repeat(3, 2))
    for mode, corners in ("ALIGN_CORNERS_TRUE", True), ("ALIGN_CORNERS_FALSE", False):
        add(f"upsample_{mode.lower()}", {"x": x}, lambda n: n.add_upsample(
            "layer", 2, 3, "x", "out", "BILINEAR", mode), F.interpolate(
                t(x)[None], scale_factor=(2, 3), mode="bilinear", align_corners=corners)[0])
    add("resize_bilinear", {"x": x}, lambda n: n.add_resize_bilinear(
        "layer", "x", "out", 9, 5, "STRICT_ALIGN_ENDPOINTS_MODE"), F.interpolate(
            t(x)[None], (9, 5), mode="bilinear", align_corners=True)[0])
    s = x.reshape(4, 3, 2, 4, 2).transpose(2, 4, 0, 1, 3).reshape(16, 3, 4)
    add("space_to_depth", {"x": x}, lambda n: n.add_reorganize_data("layer", "x", "out", "SPACE_TO_DEPTH", 2), s)
    add("depth_to_space", {"x": s}, lambda n: n.add_reorganize_data("layer", "x", "out", "DEPTH_TO_SPACE", 2), x)
    add("pixel_shuffle", {"x": s}, lambda n: n.add_reorganize_data("layer", "x", "out", "PIXEL_SHUFFLE", 2),
        F.pixel_shuffle(t(s)[None], 2)[0])
    add("load_constant", {"x": x}, lambda n: (
        n.add_load_constant("c", "c", x[:, :1, :1].ravel(), [4, 1, 1]),
        n.add_elementwise("layer", ["x", "c"], "out", "MULTIPLY")), x * x[:, :1, :1])
    add("sequence_repeat", {"x": x}, lambda n: n.add_sequence_repeat("layer", 3, "x", "out"), np.stack([x[None]] * 3))


def exact():
    x = draw(3, 4, 5)
    case = lambda name, f, result, **more: add(name, {"x": x, **more}, f, result, exact=True)
    case("transpose", lambda n: n.add_transpose("layer", [2, 0, 1], "x", "out"), x.transpose(2, 0, 1))
    case("slice_static", lambda n: n.add_slice_static(
        "layer", "x", "out", [1, -2, 4], [3, 0, 0], [1, -1, -2], [False, False, False], [False, True, True],
        [False, False, False]), x[1:3, -2::-1, 4::-2])
    case("squeeze_mask", lambda n: n.add_slice_static(
        "layer", "x", "out", [1, 0, -1], [2, 0, 0], [1, 1, 1], [False, True, False], [False, True, False],
        [True, False, True]), x[1, :, -1])
    case("concat_nd", lambda n: n.add_concat_nd("layer", ["x", "y"], "out", 1), np.concatenate([x, x * 2], 1), y=x * 2)
    case("concat_interleave", lambda n: n.add_concat_nd("layer", ["x", "y"], "out", 0, True),
         np.stack([x, x * 2], 1).reshape(6, 4, 5), y=x * 2)
    case("stack", lambda n: n.add_stack("layer", ["x", "y"], "out", -1), np.stack([x, x * 2], -1), y=x * 2)
    case("split_nd", lambda n: n.add_split_nd("layer", "x", ["a", "b"], 2, split_sizes=[2, 3]),
         {"a": x[..., :2], "b": x[..., 2:]})
    case("expand_dims", lambda n: n.add_expand_dims("layer", "x", "out", [0, -1]), x[None, ..., None])
    case("tile", lambda n: n.add_tile("layer", "x", "out", [2, 1, 3]), np.tile(x, (2, 1, 3)))
    case("reverse", lambda n: n.add_reverse("layer", "x", "out", [True, False, True]), x[::-1, :, ::-1])
    case("sliding_windows", lambda n: n.add_sliding_windows("layer", "x", "out", 1, 2, 2),
         np.stack([x[:, 0:2], x[:, 2:4]], 1))
    case("band", lambda n: n.add_matrix_band_part("layer", "x", "out", 1, 0),
         x * (np.tri(4, 5) - np.tri(4, 5, -2)))
    case("cum_sum", lambda n: n.add_cumsum("layer", ["x"], "out", 1, reverse=True, exclusive=False), x[:, ::-1].cumsum(1)[:, ::-1])
    case("arg_max", lambda n: n.add_argmax("layer", "x", "out", 1, False), x.argmax(1))
    k = np.argsort(-x, 2, "stable")[..., :2]
    case("top_k", lambda n: n.add_topk("layer", ["x"], ["a", "b"], 2, 2), {"a": np.take_along_axis(x, k, 2), "b": k})
    i = np.array([2, 0, -1], np.float32)
    case("gather", lambda n: n.add_gather("layer", ["x", "i"], "out", 1), x.take([2, 0, -1], 1), i=i)
    y = x.copy()
    y[[2, 0]] += np.ones((2, 4, 5), np.float32)
    add("scatter", {"x": x, "i": i[:2], "u": np.ones((2, 4, 5), np.float32)}, lambda n: n.add_scatter(
        "layer", ["x", "i", "u"], "out", 0, "ADD"), y, exact=True)
    case("reduce_sum_axes", lambda n: n.add_reduce_sum("layer", "x", "out", [0, -1], False), x.sum((0, 2)))
    case("reduce_all", lambda n: n.add_reduce_max("layer", "x", "out", reduce_all=True, keepdims=False), x.max().reshape(1))
    case("constant_pad", lambda n: n.add_constant_pad("layer", ["x"], "out", 1.5, False, [0, 1, 2, 0, 0, 0]),
         np.pad(x, ((0, 1), (2, 0), (0, 0)), constant_values=1.5))
    case("reshape_static", lambda n: n.add_reshape_static("layer", "x", "out", [5, -1]), x.reshape(5, -1))
    case("one_hot", lambda n: n.add_one_hot("layer", ["i"], "out", 4, -1, 2.0, -1.0),
         np.where(np.arange(4) == np.array([[2], [0], [3]]), 2.0, -1.0), i=np.array([2, 0, 3], np.float32))


def write(folder, name):
    """Writes all cases to a file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for case, (model, inputs, outputs) in CASES.items():
        arrays[f"{case}/model"] = np.frombuffer(model, np.uint8)
        for side, values in ("in", inputs), ("out", outputs):
            arrays |= {f"{case}/{side}/{k}": np.ascontiguousarray(v) for k, v in values.items()}
    save_file(arrays, folder / name)
    print(len(CASES), "cases")


def main():
    for family in (convolutions, pooling, activations, linear, quantized, normalizations, arithmetic, shapes, exact):
        family()
    write(sys.argv[1], "layers.safetensors")


if __name__ == "__main__":
    main()
