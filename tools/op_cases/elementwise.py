"""Elementwise operations of one and two operands."""

import numpy as np
import torch

from .case import Family, Name, bools, floats, ints


def unary(f):
    plain = {"abs": torch.abs, "atan": torch.atan, "ceil": torch.ceil, "cos": torch.cos, "cosh": torch.cosh,
             "erf": torch.erf, "exp": torch.exp, "exp2": torch.exp2, "floor": torch.floor, "sign": torch.sign,
             "sin": torch.sin, "sinh": torch.sinh, "square": torch.square, "tan": torch.tan, "tanh": torch.tanh}
    for op, reference in plain.items():
        # The slope of tan grows without bound near its poles.
        limit = 1.25 if op == "tan" else 3.0
        f.add(op, {"x": floats(2, 3, 4, low=-limit, high=limit)}, reference)
        f.add(op, {"x": floats(5, low=-limit, high=limit)}, reference)
    for op, reference in {"abs": torch.abs, "sign": torch.sign, "square": torch.square}.items():
        f.add(op, {"x": ints(3, 4, low=-5, high=5)}, reference, label="int")
    for op, reference in {"acos": torch.acos, "asin": torch.asin, "atanh": torch.atanh}.items():
        f.add(op, {"x": floats(2, 5, low=-0.9, high=0.9)}, reference)
    f.add("round", {"x": np.array([-1.75, -0.25, 0.25, 0.75, 1.25, 2.75], np.float32)}, torch.round)
    positive = lambda: {"x": floats(3, 4, low=0.25, high=4)}
    f.add("sqrt", positive(), torch.sqrt)
    f.add("log", positive(), torch.log, epsilon=1e-45, half=False)
    f.add("log", positive(), lambda v: torch.log(v + 0.5), epsilon=0.5)
    f.add("inverse", positive(), lambda v: 1 / (v + 0.25), epsilon=0.25)
    f.add("rsqrt", positive(), lambda v: torch.rsqrt(v + 0.25), epsilon=0.25)
    f.add("clip", {"x": floats(3, 5)}, lambda v: torch.clamp(v, -0.5, 1.0), alpha=-0.5, beta=1.0)
    f.add("threshold", {"x": floats(3, 5)}, lambda v: torch.clamp(v, min=0.25), alpha=0.25)
    f.add("logical_not", {"x": bools(2, 4)}, torch.logical_not)
    f.add("sqrt", {"x": np.array([0, np.inf, -1, np.nan], np.float32)}, torch.sqrt, label="special")
    f.add("exp", {"x": np.array([-np.inf, np.inf, np.nan, 0], np.float32)}, torch.exp, label="special")
    x = np.array([-2.75, -0.5, 0.0, 1.25, 7.9], np.float32)
    f.add("cast", {"x": x}, lambda v: v.to(torch.int32), dtype="int32")
    f.add("cast", {"x": x}, lambda v: v != 0, dtype="bool")
    f.add("cast", {"x": ints(4, low=-9, high=9)}, lambda v: v.numpy().astype(np.float32), dtype="fp32")
    f.add("cast", {"x": bools(6)}, lambda v: v.to(torch.int32), dtype="int32")
    f.add("cast", {"x": ints(4, low=0, high=200)}, lambda v: v.numpy().astype(np.uint8), dtype="uint8", opset="ios17")
    f.add("cast", {"x": ints(4, low=-120, high=120)}, lambda v: v.numpy().astype(np.int8), dtype="int8", opset="ios17")
    f.add("cast", {"x": ints(4, low=0, high=60000)}, lambda v: v.numpy().astype(np.uint16), dtype="uint16", opset="ios17")


def binary(f):
    shapes = [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((1, 4), (3, 1)), ((5,), ()), ((2, 1, 3, 1, 2), (3, 1, 4, 1))]
    plain = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "maximum": torch.maximum, "minimum": torch.minimum}
    for op, reference in plain.items():
        for a, b in shapes:
            f.add(op, {"x": floats(*a), "y": floats(*b)}, reference)
        f.add(op, {"x": ints(3, 4, low=-9, high=9), "y": ints(4, low=-9, high=9)}, reference, label="int")
    away = lambda *s: np.where(RNG.integers(0, 2, s), 1, -1).astype(np.float32) * floats(*s, low=0.5, high=3)
    for a, b in shapes:
        f.add("real_div", {"x": floats(*a), "y": away(*b)}, torch.div)
    # Quotients that are fractional in both precisions, so that rounding cannot cross an integer.
    x, y = np.array([7.25, -7.25, 7.25, -7.25], np.float32), np.array([2, 2, -2, -2], np.float32)
    f.add("floor_div", {"x": x, "y": y}, torch.floor_divide)
    f.add("mod", {"x": x, "y": y}, torch.fmod)
    i, j = np.array([7, -7, 7, -7, 6], np.int32), np.array([2, 2, -2, -2, 3], np.int32)
    f.add("floor_div", {"x": i, "y": j}, lambda a, b: torch.div(a, b, rounding_mode="floor"), label="int")
    f.add("mod", {"x": i, "y": j}, torch.fmod, label="int")
    f.add("real_div", {"x": floats(4), "y": np.array([0, -1, 1, 2], np.float32)}, torch.div, label="zero")
    f.add("pow", {"x": floats(3, 4, low=0.25, high=3), "y": floats(3, 4)}, torch.pow)
    f.add("pow", {"x": floats(5), "y": np.full(5, 2, np.float32)}, torch.pow)
    compare = {"equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt, "greater_equal": torch.ge,
               "less": torch.lt, "less_equal": torch.le}
    for op, reference in compare.items():
        f.add(op, {"x": ints(3, 4, high=3), "y": ints(4, high=3)}, reference, label="int")
        f.add(op, {"x": ints(2, 6, high=3).astype(np.float32), "y": ints(2, 6, high=3).astype(np.float32)}, reference)
        f.add(op, {"x": np.array([np.nan, 1, np.inf], np.float32), "y": np.array([np.nan, np.nan, np.inf], np.float32)},
              reference, label="special")
    for op, reference in {"logical_and": torch.logical_and, "logical_or": torch.logical_or,
                          "logical_xor": torch.logical_xor}.items():
        f.add(op, {"x": bools(2, 3, 4), "y": bools(3, 1)}, reference)
    for op in "add", "mul":
        f.add(op, {"x": floats(2, 3)}, lambda v: v + 1.5 if op == "add" else v * 1.5, y=1.5, x=Name("x"))


RNG = np.random.default_rng(7)


def family():
    f = Family("elementwise")
    unary(f)
    binary(f)
    return f
