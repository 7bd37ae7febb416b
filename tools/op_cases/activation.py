"""Activations."""

import numpy as np
import torch
import torch.nn.functional as F

from .case import Family, floats


def family():
    f = Family("activation")
    x = lambda *shape: {"x": floats(*(shape or (2, 3, 4)), low=-4, high=4)}
    f.add("relu", x(), F.relu)
    f.add("relu", {"x": np.array([-np.inf, -1, -0.0, 0, 2, np.inf], np.float32)}, F.relu, label="special")
    f.add("relu6", {"x": floats(3, 5, low=-3, high=9)}, F.relu6)
    f.add("leaky_relu", x(), lambda v: F.leaky_relu(v, 0.125), alpha=0.125)
    f.add("elu", x(), lambda v: F.elu(v, 0.75), alpha=0.75)
    f.add("clamped_relu", x(), lambda v: torch.minimum(F.leaky_relu(v, 0.5), torch.tensor(1.5)), alpha=0.5, beta=1.5)
    f.add("gelu", x(), F.gelu)
    f.add("gelu", x(), F.gelu, mode="EXACT")
    f.add("gelu", x(), lambda v: F.gelu(v, approximate="tanh"), mode="TANH_APPROXIMATION")
    f.add("gelu", x(), lambda v: v * torch.sigmoid(1.702 * v), mode="SIGMOID_APPROXIMATION")
    f.add("linear_activation", x(), lambda v: 0.5 * v - 1.25, alpha=0.5, beta=-1.25)
    alpha = np.array([0.25, 0.5, -1.0], np.float32)
    for shape in (2, 3, 4), (1, 3, 2, 2), (1, 3, 2, 2, 2):
        f.add("prelu", x(*shape), lambda v: F.prelu(v, torch.from_numpy(alpha)), alpha=alpha)
    f.add("scaled_tanh", x(), lambda v: 1.5 * torch.tanh(0.5 * v), alpha=1.5, beta=0.5)
    f.add("sigmoid", x(), torch.sigmoid)
    f.add("sigmoid", {"x": np.array([-np.inf, -100, 0, 100, np.inf], np.float32)}, torch.sigmoid, label="special")
    f.add("sigmoid_hard", x(), lambda v: torch.clamp(0.25 * v + 0.5, 0, 1), alpha=0.25, beta=0.5)
    f.add("silu", x(), F.silu)
    for axis in -1, 0, 1:
        f.add("softmax", x(), lambda v: torch.softmax(v, axis), axis=axis)
    f.add("softmax", {"x": np.array([[1e4, 1e4 - 1, 0], [-np.inf, 0, 0]], np.float32)}, lambda v: torch.softmax(v, -1),
          label="special", half=False)
    f.add("softplus", x(), F.softplus)
    beta = np.array([0.5, 2.0, 1.0], np.float32)
    f.add("softplus_parametric", x(), lambda v: torch.from_numpy(alpha).view(1, 3, 1)
          * torch.log1p(torch.exp(torch.from_numpy(beta).view(1, 3, 1) * v)), alpha=alpha, beta=beta)
    f.add("softsign", x(), F.softsign)
    f.add("thresholded_relu", x(), lambda v: torch.where(v >= 0.5, v, torch.zeros(())), alpha=0.5)
    return f
