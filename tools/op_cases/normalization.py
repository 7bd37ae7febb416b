"""Normalization."""

import numpy as np
import torch
import torch.nn.functional as F

from .case import Family, floats


def family():
    f = Family("normalization")
    t = torch.from_numpy
    for shape in (2, 3, 4), (2, 3, 4, 5), (1, 3, 2, 2, 2):
        mean, variance, gamma, beta = floats(3), floats(3, low=0.5), floats(3), floats(3)
        x = lambda: {"x": floats(*shape)}
        f.add("batch_norm", x(), lambda v: F.batch_norm(v, t(mean), t(variance), t(gamma), t(beta), eps=1e-3),
              mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=1e-3)
        f.add("batch_norm", x(), lambda v: F.batch_norm(v, t(mean), t(variance), eps=1e-2), mean=mean, variance=variance,
              epsilon=1e-2)
        if len(shape) < 5:
            f.add("instance_norm", x(), lambda v: F.instance_norm(v, weight=t(gamma), bias=t(beta), eps=1e-3), gamma=gamma,
                  beta=beta, epsilon=1e-3)
            f.add("instance_norm", x(), lambda v: F.instance_norm(v, eps=1e-2), epsilon=1e-2)
    for axes, shape in ([-1], (4,)), ([1, 2], (3, 4)), ([2], (4,)):
        gamma, beta = floats(*shape), floats(*shape)
        f.add("layer_norm", {"x": floats(2, 3, 4)}, lambda v: F.layer_norm(v, shape, t(gamma), t(beta), 1e-3), axes=axes,
              gamma=gamma, beta=beta, epsilon=1e-3)
        f.add("layer_norm", {"x": floats(2, 3, 4)}, lambda v: F.layer_norm(v, shape, eps=1e-2), axes=axes, epsilon=1e-2)
    # Over a dimension in the middle.
    f.add("layer_norm", {"x": floats(2, 4, 3)}, lambda v: F.layer_norm(v.transpose(1, 2), (4,), eps=1e-2).transpose(1, 2),
          axes=[1], epsilon=1e-2, label="middle")

    def l2(v):
        return v / torch.sqrt(torch.sum(v * v, (-3, -2, -1), keepdim=True) + 1e-2)

    f.add("l2_norm", {"x": floats(2, 3, 4)}, l2, epsilon=1e-2)
    f.add("l2_norm", {"x": floats(2, 2, 3, 4)}, l2, epsilon=1e-2)
    for size in 3, 4:
        f.add("local_response_norm", {"x": floats(2, 6, 3, 3)}, lambda v: F.local_response_norm(v, size, 0.5, 0.75, 1.25),
              size=size, alpha=0.5, beta=0.75, k=1.25)
    return f
