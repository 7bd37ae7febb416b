"""Writes reference cases of layers as coremltools' converter of programs writes them:
`python -m tools.network_suite_cases conformance/neural_networks`.

Each has what a test of coremltools' suites (`coremltools.converters.mil.mil.ops.tests`, converted to networks) holds the
framework to and the format's text leaves open. Results by NumPy and PyTorch, in the form of `network_cases`.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from coremltools.models.neural_network import flexible_shape_utils as flexible
from coremltools.proto import Model_pb2

from tools.network_cases import CASES, add, draw, t, write
from tools.network_flow_cases import lstm, rnn


def ranges(name, bounds):
    """Gives inputs of a case ranges of extents."""
    model, inputs, outputs = CASES[name]
    spec = Model_pb2.Model()
    spec.ParseFromString(model)
    for feature, (lower, upper) in bounds.items():
        flexible.set_multiarray_ndshape_range(spec, feature, lower, upper)
    CASES[name] = (spec.SerializeToString(), inputs, outputs)


def products():
    x, w = draw(2, 3, 4), draw(4, 5)
    # The converter transposes input and weights itself, and sets the flags beside them.
    for flags in (True, False), (False, True), (True, True):
        add(f"matmul_with_weights_{flags[0]:d}{flags[1]:d}", {"x": x}, lambda n: n.add_batched_mat_mul(
            "layer", ["x"], "out", *flags, weight_matrix_rows=4, weight_matrix_columns=5, W=w), x @ w, exact=True)


def recurrent():
    x, w, r, b, h = draw(5, 2, 3), draw(4, 3), draw(4, 4), draw(4), draw(2, 4)
    y = np.stack([rnn(x[:, i], w, r, b, "TANH", h[i], False) for i in range(2)], 1)
    for name, state in ("batch_first", h[:, :, None, None, None]), ("batch_second", h[None, :, :, None, None]):
        add(f"rnn_state_{name}", {"x": x[..., None, None], "h": state}, lambda n: n.add_simple_rnn(
            "layer", r, w, b, 4, 3, "TANH", ["x", "h"], ["out", "last"], True, False),
            {"out": y[..., None, None], "last": y[-1:, ..., None, None]}, exact=True)
    w, r, b = draw(4, 4, 3), draw(4, 4, 4), draw(4, 4)
    zeros = np.zeros(4, np.float32)
    # A scaled tanh without numbers is a tanh.
    y = np.stack([lstm(x[:, i], w, r, b, ("SIGMOID", "TANH", "TANH"), zeros, zeros)[0] for i in range(2)], 1)
    state = np.zeros((1, 2, 4, 1, 1), np.float32)
    add("lstm_scaled_tanh", {"x": x[..., None, None], "h": state, "c": state}, lambda n: n.add_unilstm(
        "layer", list(r), list(w), list(b), 4, 3, ["x", "h", "c"], ["out", "y", "z"], "SIGMOID", "TANH", "SCALED_TANH",
        output_all=True), {"out": y[..., None, None]}, exact=True)


def elements():
    x = draw(1, 4, 3, 2)
    add("lrn_even", {"x": x}, lambda n: n.add_lrn("layer", "x", "out", 0.5, 0.75, 2, 2.0),
        F.local_response_norm(t(x), 2, 0.5, 0.75, 2.0), exact=True)
    x = draw(3, 4)
    add("padding_matrix", {"x": x}, lambda n: n.add_padding("layer", 2, 1, 1, 0, 0.0, "x", "out", "reflection"),
        np.pad(x, ((1, 0), (2, 1)), "reflect"), exact=True)
    add("log_epsilon", {"x": abs(x)}, lambda n: n.add_unary("layer", "x", "out", "log", epsilon=0.5),
        np.log(abs(x) + np.float32(0.5)), exact=True)


def deconvolutions():
    x, b = draw(1, 4, 5, 6), draw(6)
    w = draw(4, 3, 3, 2)
    # A size beyond the borders, as PyTorch's `output_padding`; dilated windows.
    for name, stride, pad, more, dilation in [
        ("larger", (2, 3), (1, 0), (1, 2), (1, 1)), ("dilated", (2, 1), (1, 2), (0, 0), (2, 3)),
        ("beyond", (2, 3), (0, 1), (1, 2), (1, 1)),
    ]:
        y = F.conv_transpose2d(t(x), t(w), t(b), stride, pad, more, 2, dilation)
        add(f"deconvolution_{name}", {"x": x}, lambda n: n.add_convolution(
            "layer", 4, 6, 3, 2, *stride, "valid", 2, w.transpose(2, 3, 0, 1), b, True, True, y.shape[2:], "x", "out",
            list(dilation), pad[0], pad[0], pad[1], pad[1]), y, exact=True)
    x, w = draw(1, 2, 3, 4, 5), draw(2, 3, 2, 2, 3)
    y = F.conv_transpose3d(t(x), t(w), t(b[:3]), (2, 1, 2), (1, 0, 1), 0, 1, (2, 3, 1))
    add("deconvolution_3d_dilated", {"x": x}, lambda n: n.add_convolution3d(
        "layer", 2, 3, 2, 2, 3, w.transpose(1, 0, 2, 3, 4), b[:3], True, 1, 2, 1, 2, is_deconv=True,
        dilation_depth=2, dilation_height=3, output_shape=y.shape[2:], padding_mode="custom", padding_front=1,
        padding_back=1, padding_left=1, padding_right=1, input_name="x", output_name="out"), y, exact=True)


def computed():
    x = draw(3, 4, 5)
    begin, end = np.array([1, 0, 2], np.float32), np.array([3, 4, 5], np.float32)
    # The builder writes five masks and strides, whatever the rank.
    add("slice_dynamic_five_masks", {"x": x, "b": begin, "e": end}, lambda n: n.add_slice_dynamic(
        "layer", ["x", "b", "e"], "out"), x[1:3, 0:4, 2:5], exact=True)
    shape = np.array([2, 3, 2], np.float32)
    add("fill_of_any_rank", {"s": shape}, lambda n: n.add_fill_dynamic("layer", "s", "out", 1.5),
        np.full((2, 3, 2), 1.5), exact=True)
    ranges("fill_of_any_rank", {"s": ([1], [5])})
    x = draw(2, 6)
    add("reshape_of_any_rank", {"x": x, "s": shape}, lambda n: n.add_reshape_dynamic("layer", ["x", "s"], "out"),
        x.reshape(2, 3, 2), exact=True)
    ranges("reshape_of_any_rank", {"s": ([1], [5])})
    x = draw(1, 3, 1, 2)
    add("squeeze_of_any_extents", {"x": x}, lambda n: n.add_squeeze("layer", "x", "out", squeeze_all=True),
        x.reshape(3, 2), exact=True)
    ranges("squeeze_of_any_extents", {"x": ([1, 3, 1, 2], [2, 3, 4, 2])})
    x = np.arange(32, dtype=np.float32).reshape(1, 2, 1, 4, 4)
    box = np.array([1, 1, 2, 2], np.float32).reshape(1, 1, 4, 1, 1)
    y = x[:, :, :, 1:3, 1:3]
    add("crop_resize_of_any_batch", {"x": x, "b": box}, lambda n: n.add_crop_resize(
        "layer", ["x", "b"], "out", 2, 2, "ALIGN_ENDPOINTS_MODE", False, "CORNERS_HEIGHT_FIRST"), y, exact=True)
    ranges("crop_resize_of_any_batch", {"x": ([1, 1, 1, 4, 4], [1, 3, 2, 4, 4])})


def main():
    torch.manual_seed(7)
    for family in (products, recurrent, elements, deconvolutions, computed):
        family()
    write(sys.argv[1], "suite.safetensors")


if __name__ == "__main__":
    main()
