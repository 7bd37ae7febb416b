"""Concatenation, splitting, sorting, padding, generation of tensors."""

import numpy as np
import torch
import torch.nn.functional as F

from .case import Family, Many, Name, bools, floats, ints


def family():
    f = Family("tensors")
    x = lambda *s: {"x": floats(*(s or (2, 3, 4)))}
    both = Many([Name("a"), Name("b")])
    for axis in 0, 1, -1:
        shape = [2, 3, 4]
        shape[axis] += 1
        f.add("concat", {"a": floats(2, 3, 4), "b": floats(*shape)}, lambda a, b: torch.cat([a, b], axis), values=both, axis=axis)
    f.add("concat", {"a": ints(2, 3), "b": ints(2, 3)}, lambda a, b: torch.stack([a, b], 1).reshape(4, 3).view(2, 2, 3).transpose(1, 2)
          .reshape(2, 6).view(2, 3, 2).transpose(1, 2).reshape(4, 3), values=both, axis=0, interleave=True, label="interleave")
    f.add("stack", {"a": floats(2, 3), "b": floats(2, 3)}, lambda a, b: torch.stack([a, b], 1), values=both, axis=1)
    f.add("stack", {"a": floats(2, 3), "b": floats(2, 3)}, lambda a, b: torch.stack([a, b], -1), values=both, axis=-1)
    f.add("split", x(4, 6), lambda v: list(torch.split(v, 2, 1)), num_splits=3, axis=1)
    f.add("split", x(4, 6), lambda v: list(torch.split(v, [1, 3], 0)), split_sizes=[1, 3], axis=0)
    f.add("tile", x(2, 3), lambda v: v.repeat(2, 3), reps=[2, 3])
    f.add("tile", x(2, 1, 3), lambda v: v.repeat(1, 4, 2), reps=[1, 4, 2])
    for exclusive in False, True:
        for reverse in False, True:
            def scan(v):
                v = torch.flip(v, (1,)) if reverse else v
                s = torch.cumsum(v, 1)
                s = s - v if exclusive else s
                return torch.flip(s, (1,)) if reverse else s
            f.add("cumsum", {"x": ints(2, 5, low=-4).astype(np.float32)}, scan, axis=1, exclusive=exclusive, reverse=reverse)
    order = np.stack([np.random.default_rng(s).permutation(6) for s in range(4)]).reshape(2, 2, 6).astype(np.float32)
    for ascending in False, True:
        f.add("argsort", {"x": order}, lambda v: torch.argsort(v, -1, descending=not ascending), axis=-1, ascending=ascending)
        f.add("topk", {"x": order}, lambda v: list(torch.topk(v, 3, -1, largest=not ascending)), k=3, axis=-1, ascending=ascending)
    f.add("topk", {"x": order.transpose(2, 1, 0).copy()}, lambda v: list(torch.topk(v, 2, 0)), k=2, axis=0, opset="ios16")
    constant = dict(mode="constant")
    f.add("pad", x(2, 3), lambda v: F.pad(v, (1, 2, 0, 1), value=1.5), pad=[0, 1, 1, 2], constant_val=1.5, **constant)
    f.add("pad", x(2, 3, 4), lambda v: F.pad(v, (2, 1)), pad=[2, 1], constant_val=0.0, **constant)
    f.add("pad", x(1, 2, 4, 5), lambda v: F.pad(v, (2, 1, 1, 0), mode="reflect"), pad=[1, 0, 2, 1], mode="reflect")
    f.add("pad", x(1, 2, 4, 5), lambda v: F.pad(v, (2, 1, 1, 0), mode="replicate"), pad=[1, 0, 2, 1], mode="replicate")
    f.add("one_hot", {"indices": np.array([[0, 2], [1, 3]], np.int32)}, lambda i: F.one_hot(i.long(), 4).to(torch.int32), one_hot_vector_size=4)
    f.add("one_hot", {"indices": np.array([0, 2], np.int32)}, lambda i: F.one_hot(i.long(), 3).T * 5 - 1, one_hot_vector_size=3, axis=0,
          on_value=4, off_value=-1)
    f.add("band_part", x(4, 5), lambda v: v * torch.from_numpy(np.fromfunction(lambda i, j: (i - j <= 1) & (j - i <= 2), (4, 5))), lower=1, upper=2)
    f.add("band_part", x(2, 4, 4), lambda v: torch.tril(v), lower=-1, upper=0)
    f.add("non_zero", {"x": np.array([[0, 1.5, 0], [-2, 0, 3]], np.float32)}, torch.nonzero)
    f.add("shape", x(2, 3, 4), lambda v: np.array(v.shape, np.int32))
    f.add("identity", x(), lambda v: v)
    f.add("select", {"cond": bools(2, 3), "a": floats(2, 3), "b": floats(2, 3)}, torch.where)
    f.add("select", {"cond": bools(3), "a": floats(2, 3), "b": floats(2, 3)}, torch.where, label="broadcast")
    made = lambda name, body, value, opset="ios15": f.program(name, body, {}, {"y0": value}, opset)
    made("fill.0.fp32", 'tensor<fp32, [2, 3]> y0 = fill(shape = tensor<int32, [2]>([2, 3]), value = fp32(1.5));', np.full((2, 3), 1.5, np.float32))
    made("fill.1.int32", 'tensor<int32, [2]> y0 = fill(shape = tensor<int32, [1]>([2]), value = int32(-3));', np.full(2, -3, np.int32))
    made("fill_like.0.fp32", 'tensor<fp32, [3]> y0 = fill_like(ref_tensor = tensor<int32, [3]>([1, 2, 3]), value = fp32(0.5));',
         np.full(3, 0.5, np.float32), "ios16")
    made("range_1d.0.int32", 'tensor<int32, [?]> y0 = range_1d(start = int32(2), end = int32(11), step = int32(3));', np.arange(2, 11, 3, dtype=np.int32))
    made("range_1d.1.fp32", 'tensor<fp32, [?]> y0 = range_1d(start = fp32(1), end = fp32(-1), step = fp32(-0.5));', np.arange(1, -1, -0.5, dtype=np.float32))
    suppression(f)
    return f


def suppression(f):
    """Greedy non-maximum suppression per class, boxes as corners."""
    boxes = np.array([[[0, 0, 2, 2], [0.25, 0, 2.25, 2], [3, 3, 5, 5], [3, 3.125, 5, 5], [6, 6, 7, 7]]], np.float32)
    scores = np.array([[[0.9], [0.8], [0.7], [0.75], [0.1]]], np.float32)

    def overlap(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(w, 0) * max(h, 0)
        area = lambda r: (r[2] - r[0]) * (r[3] - r[1])
        return inter / (area(a) + area(b) - inter)

    kept = []
    for i in np.argsort(-scores[0, :, 0]):
        if scores[0, i, 0] > 0.2 and all(overlap(boxes[0, i], boxes[0, j]) <= 0.5 for j in kept):
            kept.append(int(i))
    rows = kept + [-1] * (4 - len(kept))
    coordinates = np.stack([boxes[0, i] if i >= 0 else np.zeros(4, np.float32) for i in rows])[None]
    chosen = np.stack([scores[0, i] if i >= 0 else np.zeros(1, np.float32) for i in rows])[None]
    f.add("non_maximum_suppression", {"boxes": boxes, "scores": scores},
          lambda b, s: [coordinates, chosen, np.array([rows], np.int32), np.array([len(kept)], np.int32)],
          iou_threshold=0.5, score_threshold=0.2, max_boxes=4, per_class_suppression=False, half=False)
