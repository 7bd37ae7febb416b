"""Products: matmul, linear, einsum, attention."""

import numpy as np
import torch
import torch.nn.functional as F

from .case import Family, Many, Name, bools, floats, ints


def family():
    f = Family("linear")
    t = torch.from_numpy
    for a, b in [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((1, 4), (4, 1)), ((2, 3, 70), (2, 70, 33))]:
        f.add("matmul", {"x": floats(*a, low=-1, high=1), "y": floats(*b, low=-1, high=1)}, torch.matmul,
              transpose_x=False, transpose_y=False)
        f.add("matmul", {"x": floats(*a[:-2], a[-1], a[-2], low=-1, high=1), "y": floats(*b[:-2], b[-1], b[-2], low=-1, high=1)},
              lambda x, y: torch.matmul(x.mT, y.mT), transpose_x=True, transpose_y=True)
    f.add("matmul", {"x": floats(4), "y": floats(4, 5)}, torch.matmul, label="vector")
    f.add("matmul", {"x": floats(3, 4), "y": floats(4)}, torch.matmul, label="vector")
    f.add("matmul", {"x": ints(3, 4, low=-5), "y": ints(4, 2, low=-5)}, torch.matmul, label="int")
    f.add("matmul", {"x": floats(2, 0, 3), "y": floats(3, 4)}, torch.matmul, label="empty")
    f.add("matmul", {"x": floats(2, 0), "y": floats(0, 4)}, torch.matmul, label="inner")
    for shape in (4,), (3, 4), (2, 3, 4), (2, 1, 3, 4):
        weight, bias = floats(5, 4, low=-1, high=1), floats(5)
        f.add("linear", {"x": floats(*shape)}, lambda v: F.linear(v, t(weight), t(bias)), weight=weight, bias=bias)
        f.add("linear", {"x": floats(*shape)}, lambda v: F.linear(v, t(weight)), weight=weight)
    equations = {
        "abcd,adce->abce": ((2, 3, 4, 5), (2, 5, 4, 3)), "abc,cbd->abd": ((2, 3, 4), (4, 3, 5)), "ij,jk->ik": ((3, 4), (4, 2)),
        "bnij,bnjk->bnik": ((2, 3, 4, 2), (2, 3, 2, 5)), "i,j->ij": ((3,), (4,)), "bij,bij->b": ((2, 3, 4), (2, 3, 4)),
        "nchw,nwhu->nchu": ((1, 2, 3, 4), (1, 4, 3, 2)), "ab,b->a": ((3, 4), (4,)),
    }
    for equation, (a, b) in equations.items():
        f.add("einsum", {"a": floats(*a), "b": floats(*b)}, lambda x, y: torch.einsum(equation, x, y),
              values=Many([Name("a"), Name("b")]), equation=equation)
    attention = F.scaled_dot_product_attention
    q, k, v = floats(2, 3, 4, 8), floats(2, 3, 6, 8), floats(2, 3, 6, 5)
    inputs = {"query": q, "key": k, "value": v}
    f.add("scaled_dot_product_attention", inputs, attention, opset="ios18")
    mask = floats(4, 6)
    f.add("scaled_dot_product_attention", inputs, lambda q, k, v: attention(q, k, v, t(mask)), opset="ios18", attn_mask=mask)
    mask_b = bools(2, 1, 4, 6)
    mask_b[..., 0] = True
    f.add("scaled_dot_product_attention", {**inputs, "attn_mask": mask_b}, attention, opset="ios18", label="bool")
    f.add("scaled_dot_product_attention", {"query": floats(2, 5, 4), "key": floats(2, 7, 4), "value": floats(2, 7, 4)}, attention,
          opset="ios18", label="rank3")
    return f
