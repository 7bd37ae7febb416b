"""Writes reference cases of recurrent layers, branches, loops, volumes, computed shapes and stored weights:
`python -m tools.network_flow_cases conformance/neural_networks`.

Networks are made by coremltools' builder, results by NumPy and PyTorch from the definition of the format, in the form of
`network_cases`.
"""

import sys

import numpy as np
import torch.nn.functional as F
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder

from tools.network_cases import CASES, add, draw, t, write

ACTIVATIONS = {
    "LINEAR": lambda x: x,
    "TANH": np.tanh,
    "SIGMOID": lambda x: 1 / (1 + np.exp(-x)),
    "RELU": lambda x: np.maximum(x, 0),
    "SIGMOID_HARD": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


def bounded(f, x):
    return ACTIVATIONS[f](np.clip(x, -50, 50))


def rnn(x, w, r, b, f, h, reverse):
    every = []
    for v in x[::-1] if reverse else x:
        h = bounded(f, w @ v + r @ h + b)
        every.append(h)
    return np.stack(every)


def gru(x, w, r, b, f, g, h, reverse):
    every = []
    for v in x[::-1] if reverse else x:
        z = bounded(g, w[0] @ v + r[0] @ h + b[0])
        s = bounded(g, w[1] @ v + r[1] @ h + b[1])
        o = bounded(f, w[2] @ v + r[2] @ (h * s) + b[2])
        h = (1 - z) * o + z * h
        every.append(h)
    return np.stack(every)


def lstm(x, w, r, b, functions, h, c, reverse=False, peep=None, forget=0.0, coupled=False, clip=50.0):
    """Gates in the order input, forget, output, block input."""
    f, g, o = functions
    p = np.zeros((3, len(h))) if peep is None else peep
    every = []
    for v in x[::-1] if reverse else x:
        i = bounded(f, w[0] @ v + r[0] @ h + p[0] * c + b[0])
        k = 1 - i if coupled else bounded(f, w[1] @ v + r[1] @ h + p[1] * c + b[1] + forget)
        z = bounded(g, w[3] @ v + r[3] @ h + b[3])
        c = np.clip(k * c + i * z, -clip, clip)
        h = bounded(f, w[2] @ v + r[2] @ h + p[2] * c + b[2]) * ACTIVATIONS[o](c)
        every.append(h)
    return np.stack(every), h, c


def blob(x):
    return np.asarray(x, np.float32).reshape(-1, 1, np.shape(x)[-1], 1, 1)


def recurrent():
    size, hidden = 4, 3
    x = draw(5, size)
    zero = np.zeros(hidden)
    for f in ("TANH", "RELU", "LINEAR", "SIGMOID"):
        w, r, b = draw(hidden, size), draw(hidden, hidden), draw(hidden)
        if f == "RELU":
            # Pre-activations beyond the bound of 50.
            w, b = 40 * w, b + 30
        h = draw(hidden)
        reverse, every = f in ("RELU", "SIGMOID"), f != "LINEAR"
        y = rnn(x, w, r * 0.3, b, f, h, reverse)
        add(f"simple_recurrent_{f.lower()}", {"x": blob(x), "h": blob(h)}, lambda n: n.add_simple_rnn(
            "layer", r * 0.3, w, b, hidden, size, f, ["x", "h"], ["out", "last"], every, reverse),
            {"out": blob(y if every else y[-1]), "last": blob(y[-1])})
    for name, f, g, reverse, every in ("gru", "TANH", "SIGMOID", False, True), ("gru_reverse", "RELU", "SIGMOID_HARD", True, False):
        w, r, b = draw(3, hidden, size), draw(3, hidden, hidden), draw(3, hidden)
        y = gru(x, w, r, b, f, g, zero, reverse)
        add(name, {"x": blob(x)}, lambda n: n.add_gru(
            "layer", list(r), list(w), list(b), hidden, size, ["x"], ["out", "last"], f, g, every, reverse),
            {"out": blob(y if every else y[-1]), "last": blob(y[-1])})
    for name, options in {
        "lstm": {},
        "lstm_peephole": {"peep": draw(3, hidden)},
        "lstm_coupled": {"coupled": True, "reverse": True},
        "lstm_forget_clip": {"forget": 1.0, "clip": 0.3},
        "lstm_last": {"every": False, "reverse": True, "peep": draw(3, hidden)},
    }.items():
        w, r, b, h, c = draw(4, hidden, size), draw(4, hidden, hidden), draw(4, hidden), draw(hidden), draw(hidden)
        every = options.pop("every", True)
        functions = ("SIGMOID", "TANH", "RELU") if name == "lstm_coupled" else ("SIGMOID", "TANH", "TANH")
        y, last, cell = lstm(x, w, r, b, functions, h, c, **options)
        add(name, {"x": blob(x), "h": blob(h), "c": blob(c)}, lambda n: n.add_unilstm(
            "layer", list(r), list(w), list(b), hidden, size, ["x", "h", "c"], ["out", "last", "cell"], *functions,
            peep=None if "peep" not in options else list(options["peep"]), output_all=every,
            forget_bias=options.get("forget", 0) == 1, coupled_input_forget_gate=options.get("coupled", False),
            cell_clip_threshold=options.get("clip", 50.0), reverse_input=options.get("reverse", False)),
            {"out": blob(y if every else last), "last": blob(last), "cell": blob(cell)})
    for name, every in ("lstm_both", True), ("lstm_both_last", False):
        sides = [(draw(4, hidden, size), draw(4, hidden, hidden), draw(4, hidden)) for _ in range(2)]
        functions = ("SIGMOID", "TANH", "TANH")
        ys = [lstm(x, *side, functions, zero, zero, reverse=i == 1) for i, side in enumerate(sides)]
        y = np.concatenate([ys[0][0], ys[1][0][::-1]] if every else [ys[0][1], ys[1][1]], -1)
        (w, r, b), (wb, rb, bb) = sides
        add(name, {"x": blob(x)}, lambda n: n.add_bidirlstm(
            "layer", list(r), list(w), list(b), list(rb), list(wb), list(bb), hidden, size, ["x"],
            ["out", "hf", "cf", "hb", "cb"], *functions, output_all=every, cell_clip_threshold=50.0),
            {"out": blob(y), "hf": blob(ys[0][1]), "cf": blob(ys[0][2]), "hb": blob(ys[1][1]), "cb": blob(ys[1][2])})


def nested(layers):
    """A network of layers that shares the blobs of its parent."""
    builder = NeuralNetworkBuilder(
        [("unused", datatypes.Array(1))], [("none", None)], disable_rank5_shape_mapping=True)
    layers(builder)
    return builder.nn_spec


def branch(n, name, when, yes, no=None):
    layer = n._add_generic_layer(name, [when], []).branch
    layer.ifBranch.MergeFrom(nested(yes))
    if no:
        layer.elseBranch.MergeFrom(nested(no))


def loop(n, name, body, count=None, most=0, condition=None, test=None):
    layer = n._add_generic_layer(name, [count] if count else [], []).loop
    layer.bodyNetwork.MergeFrom(nested(body))
    layer.maxLoopIterations = most
    if condition:
        layer.conditionVar = condition
        layer.conditionNetwork.MergeFrom(nested(test))


def control_flow():
    x = draw(2, 3)

    def times(n, by, source="x", target="out"):
        n.add_load_constant_nd("by", "by", np.array([by], np.float32), [1])
        n.add_multiply_broadcastable("times", [source, "by"], target)

    for when in (1.0, 0.0):
        def layers(n):
            branch(n, "branch", "when", lambda m: times(m, 2.0), lambda m: times(m, -3.0))
        add(f"branch_{int(when)}", {"x": x, "when": np.array([when], np.float32)}, layers,
            x * (2 if when else -3), exact=True)

    # A branch without an else writes over a blob.
    def half(n):
        n.add_copy("first", "x", "out")
        branch(n, "branch", "when", lambda m: times(m, 5.0, "out", "out"))
    for when in (0.0, -2.0):
        add(f"branch_alone_{int(-when)}", {"x": x, "when": np.array([when], np.float32)}, half, x * (5 if when else 1),
            exact=True)

    def counted(n):
        n.add_copy("first", "x", "out")
        loop(n, "loop", lambda m: times(m, 2.0, "out", "out"), most=4)
    add("loop_counted", {"x": x}, counted, x * 16, exact=True)

    def computed(n):
        n.add_copy("first", "x", "out")
        loop(n, "loop", lambda m: times(m, 2.0, "out", "out"), "count")
    for count in (0.0, 3.0):
        add(f"loop_computed_{int(count)}", {"x": x, "count": np.array([count], np.float32)}, computed, x * 2**count, exact=True)

    # Turns until the sum is large; the condition is a network.
    def until(n):
        n.add_load_constant_nd("zero", "sum", np.zeros(1, np.float32), [1])

        def body(m):
            m.add_elementwise("more", ["sum", "step"], "new", "ADD")
            m.add_copy("again", "new", "sum")
        loop(n, "loop", body, condition="small", test=lambda m: m.add_less_than("test", ["sum"], "small", alpha=10.0))
        n.add_copy("last", "sum", "out")
    add("loop_while", {"step": np.array([3.0], np.float32)}, until, np.array([12.0]), exact=True)

    # A break and a continue, each in a branch, with layers behind them; a blob that the loop alone writes.
    def exits(n):
        n.add_load_constant_nd("zero", "turn", np.zeros(1, np.float32), [1])
        n.add_load_constant_nd("start", "total", np.zeros(1, np.float32), [1])

        def body(m):
            m.add_load_constant_nd("one", "one", np.ones(1, np.float32), [1])
            m.add_add_broadcastable("count", ["turn", "one"], "turn")
            m.add_greater_than("late", ["turn"], "late", alpha=5.0)
            branch(m, "stop", "late", lambda k: k.add_loop_break("break"))
            m.add_equal("third", ["turn"], "third", alpha=3.0)
            branch(m, "skip", "third", lambda k: k.add_loop_continue("continue"))
            m.add_add_broadcastable("sum", ["total", "turn"], "total")
        loop(n, "loop", body, most=100)
        n.add_copy("a", "turn", "turns")
        n.add_copy("b", "total", "sum")
        n.add_copy("c", "x", "out")
    # 1 + 2 + 4 + 5, and six turns.
    add("loop_exits", {"x": x}, exits, {"out": x, "sum": np.array([12.0]), "turns": np.array([6.0])}, exact=True)

    # A loop in a loop, over a blob that grows.
    def growing(n):
        n.add_copy("first", "x", "out")

        def outer(m):
            loop(m, "inner", lambda k: times(k, 2.0, "out", "out"), most=2)
            m.add_concat_nd("grow", ["out", "x"], "out", 0)
        loop(n, "outer", outer, most=2)
    y = x
    for _ in range(2):
        y = np.concatenate([y * 4, x])
    add("loop_growing", {"x": x}, growing, y, exact=True)


def computed_shapes():
    x = draw(3, 4, 5)

    def list_of(n, name, values):
        values = np.array(values, np.float32)
        n.add_load_constant_nd(name, name, values, values.shape)

    def case(name, layers, y, **more):
        add(name, {"x": x} | {k: np.array(v, np.float32) for k, v in more.items()}, layers, y, exact=True)

    case("range_dynamic", lambda n: (n.add_copy("copy", "x", "same"), n.add_range_dynamic(
        "layer", ["end", "start", "step"], "out")), np.arange(2, 9, 2.5), end=[9], start=[2], step=[2.5])
    case("fill_dynamic", lambda n: (n.add_copy("copy", "x", "same"), n.add_fill_dynamic("layer", "shape", "out", 2.5)),
         np.full((2, 3), 2.5), shape=[2, 3])
    case("reshape_dynamic", lambda n: n.add_reshape_dynamic("layer", ["x", "shape"], "out"), x.reshape(6, 10), shape=[6, -1])
    case("broadcast_dynamic", lambda n: n.add_broadcast_to_dynamic("layer", ["x", "shape"], "out"),
         np.broadcast_to(x, (2, 3, 4, 5)), shape=[2, 3, 4, 5])
    case("tile_dynamic", lambda n: n.add_tile("layer", ["x", "reps"], "out"), np.tile(x, (2, 1, 3)), reps=[2, 1, 3])
    case("slice_dynamic", lambda n: n.add_slice_dynamic(
        "layer", ["x", "begin", "end"], "out", strides=[1, 2, -1], begin_masks=[False] * 3, end_masks=[False, True, False],
        squeeze_masks=[True, False, False]), x[1, 1::2, 4:1:-1], begin=[1, 1, 4], end=[0, 0, 1])

    def known(n):
        list_of(n, "begin", [0, -3, 0])
        list_of(n, "end", [2, 4, 0])
        n.add_slice_dynamic("layer", ["x", "begin", "end"], "out", strides=[1, 1, 1], begin_masks=[False] * 3,
                            end_masks=[False, False, True], squeeze_masks=[False] * 3)
    case("slice_dynamic_known", known, x[:2, 1:4])
    case("slice_by_size", lambda n: n.add_slice_by_size("layer", ["x", "begin"], "out", 1, 2), x[:, 2:4], begin=[2])
    case("top_k_dynamic", lambda n: n.add_topk("layer", ["x", "k"], ["out", "at"], 0, 2, True),
         {"out": np.sort(x, 2)[..., :2], "at": np.argsort(x, 2, "stable")[..., :2]}, k=[2])
    i = np.array([2, 0, 3])
    add("one_hot_dynamic", {"i": i.astype(np.float32), "size": np.array([5], np.float32)}, lambda n: n.add_one_hot(
        "layer", ["i", "size"], "out", None, -1), np.eye(5)[i], exact=True)
    case("pad_dynamic", lambda n: n.add_constant_pad("layer", ["x", "by"], "out", 0.5),
         np.pad(x, ((0, 1), (2, 0), (0, 3)), constant_values=0.5), by=[0, 1, 2, 0, 0, 3])
    s = draw(2, 4, 3)
    y = s.copy()
    y[0, :3], y[1, :2] = s[0, 2::-1], s[1, 1::-1]
    add("reverse_sequence", {"x": s, "lengths": np.array([3, 2], np.float32)}, lambda n: n.add_reverse_sequence(
        "layer", ["x", "lengths"], "out", 0, 1), y, exact=True)
    sparse = np.where(np.abs(x) > 1, x, 0).astype(np.float32)
    add("where_non_zero", {"x": sparse}, lambda n: n.add_where_nonzero("layer", "x", "out"), np.argwhere(sparse), exact=True)


def volumes():
    x = draw(2, 4, 5, 6, 7)
    for name, groups, options, pads in [
        ("valid", 1, {}, (0, 0, 0)),
        ("custom", 2, {f"padding_{s}": 1 for s in ("front", "back", "top", "bottom", "left", "right")}, (1, 1, 1)),
    ]:
        w, b = draw(6, 4 // groups, 2, 3, 3), draw(6)
        y = F.conv3d(t(x), t(w), t(b), (2, 1, 2), pads, groups=groups)
        add(f"convolution3d_{name}", {"x": x}, lambda n: n.add_convolution3d(
            "layer", 4, 6, 2, 3, 3, w, b, True, groups, 2, 1, 2, padding_mode=name, input_name="x", output_name="out",
            **options), y, exact=True)
    y = F.conv3d(F.pad(t(x), (1, 1, 1, 1, 0, 1)), t(w), t(b), (2, 1, 2), groups=2)
    add("convolution3d_same", {"x": x}, lambda n: n.add_convolution3d(
        "layer", 4, 6, 2, 3, 3, w, b, True, 2, 2, 1, 2, padding_mode="same", input_name="x", output_name="out"), y, exact=True)
    w, b = draw(4, 3, 2, 3, 2), draw(3)
    y = F.conv_transpose3d(t(x), t(w), t(b), (1, 2, 2))
    add("deconvolution3d", {"x": x}, lambda n: n.add_convolution3d(
        "layer", 4, 3, 2, 3, 2, w.transpose(1, 0, 2, 3, 4), b, True, 1, 1, 2, 2, is_deconv=True, input_name="x", output_name="out"), y, exact=True)
    for kind, f in ("MAX", F.max_pool3d), ("AVERAGE", F.avg_pool3d):
        add(f"pooling3d_{kind.lower()}", {"x": x}, lambda n: n.add_pooling3d(
            "layer", "x", "out", kind, 2, 3, 2, 2, 1, 2), f(t(x), (2, 3, 2), (2, 1, 2)), exact=True)
    y = F.avg_pool3d(t(x), 3, 2, 1, count_include_pad=False)
    add("pooling3d_excluded", {"x": x}, lambda n: n.add_pooling3d(
        "layer", "x", "out", "AVERAGE", 3, 3, 3, 2, 2, 2, "custom", 1, 1, 1, 1, 1, 1, True), y, exact=True)
    add("global_pooling3d", {"x": x}, lambda n: n.add_global_pooling3d("layer", "x", "out", "AVERAGE"),
        t(x).mean((2, 3, 4), True), exact=True)


def boxes():
    box = np.array([[[0, 0, 2, 2], [0.1, 0, 2, 2], [5, 5, 2, 2], [5, 5, 1, 1]]], np.float32)
    score = np.array([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.05]]], np.float32)

    def layers(n):
        n.add_nms("layer", ["box", "score"], ["boxes", "scores", "at", "count"], 0.5, 0.2, 3)
    kept = [0, 2]
    y = {"boxes": np.zeros((1, 3, 4)), "scores": np.zeros((1, 3, 2)), "at": [[0, 2, -1]], "count": [2]}
    y["boxes"][0, :2], y["scores"][0, :2] = box[0, kept], score[0, kept]
    add("boxes", {"box": box, "score": score}, layers, y, exact=True)
    # None passes: the best stays.
    y = {"boxes": np.zeros((1, 3, 4)), "scores": np.zeros((1, 3, 2)), "at": [[0, -1, -1]], "count": [1]}
    y["boxes"][0, 0], y["scores"][0, 0] = box[0, 0], score[0, 0]
    add("boxes_none", {"box": box, "score": score, "overlap": np.array([0.5], np.float32), "least": np.array([2], np.float32),
                       "most": np.array([3], np.float32)}, lambda n: n.add_nms(
        "layer", ["box", "score", "overlap", "least", "most"], ["boxes", "scores", "at", "count"]), y, exact=True)


def stored_weights():
    """Weights large enough to stay in the file, of every form."""
    x = draw(96)
    for bits in range(1, 9):
        for mode in ("_linear_quantization", "_kmeans_lookup_table"):
            q = np.random.default_rng(bits).integers(0, 2**bits, (64, 96))
            name = f"stored_{'linear' if mode == '_linear_quantization' else 'table'}_{bits}"
            raw = np.unpackbits(q.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits:].reshape(-1)
            raw = np.packbits(raw).tobytes()
            scale, bias = np.abs(draw(64)) + 0.1, draw(64)
            table = draw(2**bits)

            def layers(n):
                n.add_inner_product("layer", np.zeros((64, 96), np.float32), None, 96, 64, False, "x", "out")
                w = n.nn_spec.layers[0].innerProduct.weights
                del w.floatValue[:]
                w.rawValue = raw
                w.quantization.numberOfBits = bits
                if mode == "_linear_quantization":
                    w.quantization.linearQuantization.scale.extend(scale)
                    w.quantization.linearQuantization.bias.extend(bias)
                else:
                    w.quantization.lookupTableQuantization.floatValue.extend(table)
            w = q * scale[:, None] + bias[:, None] if mode == "_linear_quantization" else table[q]
            add(name, {"x": x}, layers, w @ x)
    w = draw(64, 96)
    add("stored_float", {"x": x}, lambda n: n.add_inner_product("layer", w, None, 96, 64, False, "x", "out"), w @ x)
    h = w.astype(np.float16)

    def half(n):
        n.add_inner_product("layer", w, None, 96, 64, False, "x", "out")
        weights = n.nn_spec.layers[0].innerProduct.weights
        del weights.floatValue[:]
        weights.float16Value = h.tobytes()
    add("stored_half", {"x": x}, half, h.astype(np.float32) @ x)
    table = draw(8, 600)
    add("stored_embedding", {"x": np.array([[7], [599]], np.float32)}, lambda n: n.add_embedding_nd(
        "layer", "x", "out", 600, 8, table), table.T[[7, 599]], exact=True)
    k = draw(8, 32, 5, 5)
    image = draw(32, 9, 9)
    add("stored_convolution", {"x": image}, lambda n: n.add_convolution(
        "layer", 32, 8, 5, 5, 1, 1, "valid", 1, k.transpose(2, 3, 1, 0), None, False, False, None, "x", "out"),
        F.conv2d(t(image)[None], t(k))[0])
    c = draw(40, 20, 10)
    add("stored_constant", {"x": draw(1, 20, 10)}, lambda n: (
        n.add_load_constant_nd("c", "c", c, c.shape), n.add_add_broadcastable("layer", ["x", "c"], "out")), None, exact=True,
        compute=lambda x: x + c)
    # A normalization behind a convolution, which nothing else reads or the sum reads, too.
    w, b = draw(6, 4, 3, 3), draw(6)
    g, e, m, v = draw(6), draw(6), draw(6), np.abs(draw(6)) + 0.5
    image = draw(4, 5, 6)
    y = F.conv2d(t(image)[None], t(w), t(b))
    z = F.batch_norm(y, t(m), t(v), t(g), t(e), False, 0.0, 1e-5)

    def normalized(n, also):
        n.add_convolution("first", 4, 6, 3, 3, 1, 1, "valid", 1, w.transpose(2, 3, 1, 0), b, True, False, None, "x", "y")
        n.add_batchnorm("layer", 6, g, e, m, v, "y", "z" if also else "out")
        if also:
            n.add_elementwise("sum", ["y", "z"], "out", "ADD")
    add("convolution_batchnorm", {"x": image}, lambda n: normalized(n, False), z[0])
    add("convolution_batchnorm_read", {"x": image}, lambda n: normalized(n, True), (y + z)[0])
    # int8 weights with one scale; the input is rounded to 255 steps.
    q = np.random.default_rng(1).integers(-127, 128, (64, 96)).astype(np.int8)
    step = np.abs(x).max() / 127

    def dynamic(n):
        n.add_inner_product("layer", q.tobytes(), None, 96, 64, False, "x", "out", int_8_dynamic_quantize=True,
                            is_quantized_weight=True, quantization_type="linear", nbits=8, quant_scale=np.array([0.03], np.float32))
    add("int8_dynamic", {"x": x}, dynamic, (q.astype(np.float64) * 0.03) @ (np.round(x / step) * step))


def main():
    CASES.clear()
    for family in (recurrent, control_flow, computed_shapes, volumes, boxes, stored_weights):
        family()
    write(sys.argv[1], "flow.safetensors")


if __name__ == "__main__":
    main()
