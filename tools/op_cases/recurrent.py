"""Recurrent layers.

Order of weight blocks: LSTM input, forget, output gate, cell; GRU reset gate, new state, update gate. A reversed layer
returns its sequence in the order of computation (as in coremltools' tests of the operations).
"""

import numpy as np
import torch

from .case import Family, Name, floats

STEPS, BATCH, INPUT, HIDDEN = 4, 2, 3, 5


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


# With the constants of coremltools' tests of `lstm`: `scaled_tanh` is plain tanh.
ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda v: np.maximum(v, 0),
    "sigmoid": sigmoid,
    "scaled_tanh": np.tanh,
    "hard_sigmoid": lambda v: np.clip(0.2 * v + 0.5, 0, 1),
    "linear": lambda v: v,
}


def lstm_steps(x, h, c, w_ih, w_hh, b, order, peephole=None, clip=None, act=("sigmoid", "tanh", "tanh")):
    recurrent, cell, out = (ACTIVATIONS[a] for a in act)
    n, all_h = h.shape[-1], {}
    for step in order:
        z = x[step] @ w_ih.T + h @ w_hh.T + b
        i, f, o, g = (z[:, k * n : (k + 1) * n] for k in range(4))
        if peephole is not None:
            i, f = i + c * peephole[:n], f + c * peephole[n : 2 * n]
        i, f, g = recurrent(i), recurrent(f), cell(g)
        c = f * c + i * g
        if clip is not None:
            c = np.clip(c, -clip, clip)
        if peephole is not None:
            o = o + c * peephole[2 * n :]
        h = recurrent(o) * out(c)
        all_h[step] = h
    return np.stack([all_h[s] for s in order]), h, c


def wide(*arrays):
    return [np.asarray(a, dtype=np.float64) for a in arrays]


def lstms(f):
    for reverse in False, True:
        for sequence in False, True:
            w_ih, w_hh, b = floats(4 * HIDDEN, INPUT, low=-1, high=1), floats(4 * HIDDEN, HIDDEN, low=-1, high=1), floats(4 * HIDDEN, low=-1, high=1)

            def reference(x, h, c):
                order = range(STEPS)[::-1] if reverse else range(STEPS)
                y, h, c = lstm_steps(*wide(x, h, c, w_ih, w_hh, b), order)
                return [y if sequence else h[None], h, c]

            inputs = {"x": floats(STEPS, BATCH, INPUT, low=-1, high=1), "initial_h": floats(BATCH, HIDDEN, low=-1, high=1), "initial_c": floats(BATCH, HIDDEN, low=-1, high=1)}
            f.add("lstm", inputs, reference, weight_ih=w_ih, weight_hh=w_hh, bias=b, direction="reverse" if reverse else "forward",
                  output_sequence=sequence)
    w_ih, w_hh, b, p = floats(4 * HIDDEN, INPUT, low=-1, high=1), floats(4 * HIDDEN, HIDDEN, low=-1, high=1), floats(4 * HIDDEN, low=-1, high=1), floats(3 * HIDDEN, low=-1, high=1)
    inputs = {"x": floats(STEPS, BATCH, INPUT, low=-1, high=1), "initial_h": floats(BATCH, HIDDEN, low=-1, high=1), "initial_c": floats(BATCH, HIDDEN, low=-1, high=1)}

    def special(x, h, c):
        y, h, c = lstm_steps(*wide(x, h, c, w_ih, w_hh, b), range(STEPS), p.astype(np.float64), 0.5)
        return [y, h, c]

    f.add("lstm", inputs, special, weight_ih=w_ih, weight_hh=w_hh, bias=b, peephole=p, clip=0.5, output_sequence=True,
          direction="forward", label="peephole")
    two = [floats(4 * HIDDEN, INPUT, low=-1, high=1), floats(4 * HIDDEN, HIDDEN, low=-1, high=1), floats(4 * HIDDEN, low=-1, high=1)]

    def both(x, h, c):
        x, h, c = wide(x, h, c)
        n = HIDDEN
        ya, ha, ca = lstm_steps(x, h[:, :n], c[:, :n], *wide(w_ih, w_hh, b), range(STEPS))
        yb, hb, cb = lstm_steps(x, h[:, n:], c[:, n:], *wide(*two), range(STEPS)[::-1])
        return [np.concatenate(pair, -1) for pair in ((ya, yb[::-1]), (ha, hb), (ca, cb))]

    inputs = {"x": floats(STEPS, BATCH, INPUT, low=-1, high=1), "initial_h": floats(BATCH, 2 * HIDDEN, low=-1, high=1), "initial_c": floats(BATCH, 2 * HIDDEN, low=-1, high=1)}
    f.add("lstm", inputs, both, weight_ih=w_ih, weight_hh=w_hh, bias=b, weight_ih_back=two[0], weight_hh_back=two[1],
          bias_back=two[2], direction="bidirectional", output_sequence=True)


def grus(f):
    for reverse in False, True:
        w_ih, w_hh, b = floats(3 * HIDDEN, INPUT, low=-1, high=1), floats(3 * HIDDEN, HIDDEN, low=-1, high=1), floats(3 * HIDDEN, low=-1, high=1)

        def reference(x, h):
            x, h, wi, wh, bias = wide(x, h, w_ih, w_hh, b)
            steps = []
            for step in range(STEPS)[::-1] if reverse else range(STEPS):
                (ar, ao, az), (wr, wo, wz) = np.split(x[step] @ wi.T + bias, 3, 1), np.split(wh, 3)
                r, z = sigmoid(ar + h @ wr.T), sigmoid(az + h @ wz.T)
                h = (1 - z) * np.tanh(ao + (r * h) @ wo.T) + z * h
                steps.append(h)
            return [np.stack(steps), h]

        inputs = {"x": floats(STEPS, BATCH, INPUT, low=-1, high=1), "initial_h": floats(BATCH, HIDDEN, low=-1, high=1)}
        f.add("gru", inputs, reference, weight_ih=w_ih, weight_hh=w_hh, bias=b, direction="reverse" if reverse else "forward",
              output_sequence=True)
    for after in False, True:
        w_ih, w_hh, b, b_in = (floats(3 * HIDDEN, n, low=-1, high=1) for n in (INPUT, HIDDEN, 1, 1))
        b, b_in = b[:, 0].copy(), b_in[:, 0].copy()

        def newer(x, h):
            """Reset gate before or after the product with the hidden state; one bias per product."""
            x, h, wi, wh, bh, bi = wide(x, h, w_ih, w_hh, b, b_in)
            for step in range(STEPS):
                (ar, ao, az), (wr, wo, wz), (br, bo, bz) = np.split(x[step] @ wi.T + bi, 3, 1), np.split(wh, 3), np.split(bh, 3)
                r, z = sigmoid(ar + h @ wr.T + br), sigmoid(az + h @ wz.T + bz)
                h = (1 - z) * np.tanh(ao + (r * (h @ wo.T + bo) if after else (r * h) @ wo.T + bo)) + z * h
            return [h[None], h]

        inputs = {"x": floats(STEPS, BATCH, INPUT, low=-1, high=1), "initial_h": floats(BATCH, HIDDEN, low=-1, high=1)}
        f.add("gru", inputs, newer, weight_ih=w_ih, weight_hh=w_hh, bias=b, input_bias=b_in, reset_after=after,
              output_sequence=False, opset="ios18")


def rnns(f):
    for activation in ACTIVATIONS:
        w_ih, w_hh, b = floats(HIDDEN, INPUT, low=-1, high=1), floats(HIDDEN, HIDDEN, low=-1, high=1), floats(HIDDEN, low=-1, high=1)

        def reference(x, h):
            x, h, wi, wh, bias = wide(x, h, w_ih, w_hh, b)
            steps = []
            for step in range(STEPS):
                h = ACTIVATIONS[activation](x[step] @ wi.T + h @ wh.T + bias)
                steps.append(h)
            return [np.stack(steps), h]

        inputs = {"x": floats(STEPS, BATCH, INPUT, low=-1, high=1), "initial_h": floats(BATCH, HIDDEN, low=-1, high=1)}
        f.add("rnn", inputs, reference, weight_ih=w_ih, weight_hh=w_hh, bias=b, direction="forward", output_sequence=True,
              activation=activation)


def family():
    f = Family("recurrent")
    lstms(f)
    grus(f)
    rnns(f)
    return f
