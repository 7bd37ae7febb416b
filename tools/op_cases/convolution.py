"""Convolutions and pooling, in one, two and three dimensions."""

import numpy as np
import torch
import torch.nn.functional as F

from .case import Family, floats

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def padded(v, pad, value=0.0):
    """`pad` is [before, after] per dimension, outermost first; PyTorch wants the innermost first."""
    pairs = [pad[i : i + 2] for i in range(0, len(pad), 2)][::-1]
    return F.pad(v, [p for pair in pairs for p in pair], value=value)


def same(extents, kernel, strides, dilations, lower=False):
    pad = []
    for n, k, s, d in zip(extents, kernel, strides, dilations):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        pad += [total - total // 2, total // 2] if lower else [total // 2, total - total // 2]
    return pad


def convolutions(f):
    settings = [
        # extents, kernel, in, out, groups, strides, dilations, pad
        ((9,), (3,), 2, 4, 1, (1,), (1,), "valid"),
        ((9,), (3,), 4, 4, 2, (2,), (1,), [1, 2]),
        ((7, 6), (3, 2), 3, 5, 1, (1, 1), (1, 1), "valid"),
        ((7, 6), (1, 1), 3, 5, 1, (1, 1), (1, 1), "valid"),
        ((7, 6), (1, 1), 4, 6, 2, (2, 2), (1, 1), "valid"),
        ((7, 6), (3, 3), 4, 8, 4, (2, 1), (1, 2), [1, 0, 2, 3]),
        ((8, 8), (3, 3), 6, 6, 6, (1, 1), (1, 1), [1, 1, 1, 1]),
        ((8, 7), (5, 4), 2, 3, 1, (2, 3), (1, 1), "same"),
        ((8, 7), (4, 4), 2, 3, 1, (1, 2), (1, 1), "same_lower"),
        ((9, 9), (3, 3), 2, 4, 1, (2, 2), (2, 2), "same"),
        ((4, 5, 6), (2, 3, 2), 2, 3, 1, (1, 2, 1), (1, 1, 1), [0, 1, 1, 1, 0, 0]),
        ((4, 5, 6), (2, 2, 2), 2, 4, 2, (1, 1, 1), (2, 1, 1), "valid"),
    ]
    for extents, kernel, cin, cout, groups, strides, dilations, pad in settings:
        for bias in None, floats(cout):
            weight = floats(cout, cin // groups, *kernel, low=-1, high=1)
            amounts = pad if isinstance(pad, list) else [0] * (2 * len(kernel))
            if isinstance(pad, str) and pad.startswith("same"):
                amounts = same(extents, kernel, strides, dilations, pad == "same_lower")

            def reference(v, half=False):
                w, b = torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias)
                return CONV[len(kernel)](padded(v, amounts), w, b, strides, 0, dilations, groups)

            extra = {} if bias is None else {"bias": bias}
            f.add("conv", {"x": floats(2, cin, *extents, low=-1, high=1)}, reference, weight=weight, strides=list(strides),
                  pad_type="custom" if isinstance(pad, list) else pad, pad=amounts if isinstance(pad, list) else [0] * (2 * len(kernel)),
                  dilations=list(dilations), groups=groups, opset="ios16" if pad == "same_lower" else "ios15", **extra)
    # Many channels and positions, for kernels used only then; a separate generator, so that other cases do not change.
    own = np.random.default_rng(9)
    weight, x = own.choice([-0.5, -0.25, 0.25, 0.5], (32, 32, 3, 3)), own.uniform(-1, 1, (1, 32, 11, 13)).astype(np.float16)
    weight, x = weight.astype(np.float32), x.astype(np.float32)
    f.add("conv", {"x": x}, lambda v: F.conv2d(v, torch.from_numpy(weight), padding=1), weight=weight, strides=[1, 1],
          pad_type="same", pad=[0] * 4, dilations=[1, 1], groups=1, label="many")
    # The weight as an input.
    f.add("conv", {"x": floats(1, 2, 5, 5, low=-1), "weight": floats(3, 2, 3, 3, low=-1)}, lambda v, w: F.conv2d(v, w),
          opset="ios17", pad_type="valid", strides=[1, 1], dilations=[1, 1], groups=1, pad=[0, 0, 0, 0], label="computed")


def transposed(f):
    settings = [
        ((5,), (3,), 2, 4, 1, (2,), (1,), [0, 0]),
        ((5,), (4,), 4, 4, 2, (2,), (1,), [1, 1]),
        ((4, 5), (3, 3), 3, 2, 1, (2, 2), (1, 1), [1, 1, 1, 1]),
        ((4, 5), (3, 2), 2, 4, 2, (1, 3), (2, 1), [0, 0, 0, 0]),
        ((4, 4), (4, 4), 3, 3, 3, (2, 2), (1, 1), [1, 1, 1, 1]),
        ((3, 3, 2), (2, 2, 2), 2, 3, 1, (2, 1, 2), (1, 1, 1), [0] * 6),
    ]
    for extents, kernel, cin, cout, groups, strides, dilations, pad in settings:
        weight, bias = floats(cin, cout // groups, *kernel, low=-1, high=1), floats(cout)

        def reference(v):
            return TRANSPOSE[len(kernel)](v, torch.from_numpy(weight), torch.from_numpy(bias), strides, pad[::2], 0, groups, dilations)

        f.add("conv_transpose", {"x": floats(1, cin, *extents, low=-1, high=1)}, reference, weight=weight, bias=bias,
              strides=list(strides), dilations=list(dilations), groups=groups,
              pad_type="custom" if any(pad) else "valid", pad=pad)


def pools(f):
    settings = [
        ((9,), (3,), (2,), "valid", None), ((9,), (2,), (1,), "custom", [1, 1]),
        ((7, 6), (3, 2), (2, 2), "valid", None), ((7, 6), (3, 3), (2, 1), "custom", [1, 1, 1, 1]),
        ((7, 6), (3, 3), (2, 2), "same", None), ((8, 7), (2, 2), (2, 2), "same_lower", None),
        ((4, 5, 6), (2, 2, 3), (2, 1, 2), "valid", None), ((4, 4, 4), (3, 3, 3), (2, 2, 2), "custom", [1] * 6),
    ]
    for extents, kernel, strides, kind, pad in settings:
        n = len(kernel)
        amounts = pad or [0] * 2 * n
        if kind.startswith("same"):
            amounts = same(extents, kernel, strides, [1] * n, kind == "same_lower")
        common = dict(kernel_sizes=list(kernel), strides=list(strides), pad_type=kind, pad=pad or [0] * 2 * n,
                      opset="ios16" if kind == "same_lower" else "ios15")
        x = lambda: {"x": floats(2, 3, *extents)}
        f.add("max_pool", x(), lambda v: MAX[n](padded(v, amounts, -np.inf), kernel, strides), **common)

        def average(v, exclude):
            count = torch.ones_like(v) if exclude else F.pad(torch.ones_like(v), [0] * 2 * n)
            total = AVG[n](padded(v, amounts), kernel, strides)
            return total / AVG[n](padded(count, amounts), kernel, strides) if exclude else total

        for exclude in False, True:
            f.add("avg_pool", x(), lambda v: average(v, exclude), exclude_padding_from_average=exclude, **common)
        if n < 3:
            f.add("l2_pool", x(), lambda v: torch.sqrt(AVG[n](padded(v * v, amounts), kernel, strides) * np.prod(kernel)), **common)
    f.add("max_pool", {"x": floats(1, 2, 6, 7)}, lambda v: F.max_pool2d(v, 3, 2, 0, ceil_mode=True), kernel_sizes=[3, 3],
          strides=[2, 2], pad_type="valid", pad=[0] * 4, ceil_mode=True, label="ceil")


def family():
    f = Family("convolution")
    convolutions(f)
    transposed(f)
    pools(f)
    return f
