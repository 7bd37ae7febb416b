"""Reductions."""

import numpy as np
import torch

from .case import Family, floats, ints


def family():
    f = Family("reduction")
    def logsum(v, axes, keep):
        return torch.log(torch.sum(v, axes, keepdim=keep))
    references = {
        "reduce_sum": torch.sum, "reduce_mean": torch.mean, "reduce_max": torch.amax, "reduce_min": torch.amin,
        "reduce_l1_norm": lambda v, a, keepdim: torch.sum(torch.abs(v), a, keepdim=keepdim),
        "reduce_l2_norm": lambda v, a, keepdim: torch.sqrt(torch.sum(v * v, a, keepdim=keepdim)),
        "reduce_sum_square": lambda v, a, keepdim: torch.sum(v * v, a, keepdim=keepdim),
        "reduce_log_sum_exp": lambda v, a, keepdim: torch.logsumexp(v, a, keepdim=keepdim),
        "reduce_log_sum": lambda v, a, keepdim: torch.log(torch.sum(v, a, keepdim=keepdim)),
    }
    settings = [((2, 3, 4), [1], False), ((2, 3, 4), [-1], True), ((2, 3, 4), [0, 2], False), ((2, 1, 3, 4), [1, 2, 3], True),
                ((3, 4, 1, 2, 2), [0, -1], False), ((6,), [0], True)]
    for op, reference in references.items():
        low = 0.25 if op == "reduce_log_sum" else -2
        for shape, axes, keep in settings:
            f.add(op, {"x": floats(*shape, low=low)}, lambda v: reference(v, axes, keepdim=keep), axes=axes, keep_dims=keep)
        # No axes: all of them.
        f.add(op, {"x": floats(3, 4, low=low)}, lambda v: reference(v, (0, 1), keepdim=True), keep_dims=True, label="all")
    for op, reference in {"reduce_sum": torch.sum, "reduce_max": torch.amax, "reduce_min": torch.amin}.items():
        f.add(op, {"x": ints(3, 5, low=-9)}, lambda v: reference(v, (1,)), axes=[1], keep_dims=False, label="int")
    f.add("reduce_prod", {"x": floats(2, 3, 4, low=-1.5)}, lambda v: torch.prod(v, 1), axes=[1], keep_dims=False)
    f.add("reduce_prod", {"x": floats(2, 3, low=-1.5)}, lambda v: torch.prod(v).view(1, 1), axes=[0, 1], keep_dims=True)
    f.add("reduce_log_sum_exp", {"x": np.array([[1e4, 1e4], [-1e4, -1e4]], np.float32)}, lambda v: torch.logsumexp(v, -1),
          axes=[-1], keep_dims=False, label="large", half=False)
    for op, reference in {"reduce_argmax": torch.argmax, "reduce_argmin": torch.argmin}.items():
        x = np.stack([np.random.default_rng(s).permutation(12) for s in range(2)]).reshape(2, 3, 4).astype(np.float32)
        for axis in 0, 1, -1:
            for keep in False, True:
                f.add(op, {"x": x}, lambda v: reference(v, axis, keepdim=keep), axis=axis, keep_dims=keep)
        f.add(op, {"x": x}, lambda v: reference(v, 1).numpy().astype(np.uint16), axis=1, keep_dims=False,
              output_dtype="uint16", opset="ios17")
        f.add(op, {"x": x.astype(np.int32)}, lambda v: reference(v, 2), axis=2, keep_dims=False, label="int")
        # Ties: the first one.
        f.add(op, {"x": np.array([[3, 3, 1, 1]], np.float32)},
              lambda v: np.array([0 if op == "reduce_argmax" else 2], np.int32), axis=-1, keep_dims=False, label="ties")
    return f
