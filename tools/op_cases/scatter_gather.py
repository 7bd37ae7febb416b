"""Gather and scatter."""

import numpy as np
import torch

from .case import Family, floats, ints


def family():
    f = Family("scatter_gather")
    for axis in 0, 1, -1:
        n = (3, 4, 5)[axis]
        for shape in (2,), (2, 3), ():
            index = ints(*shape, high=n)
            f.add("gather", {"x": floats(3, 4, 5), "indices": index},
                  lambda v, i: torch.from_numpy(np.take(v.numpy(), i.numpy(), axis)), axis=axis)
    f.add("gather", {"x": floats(4, 3), "indices": np.array([-1, 0, -4], np.int32)}, lambda v, i: v[i.long()], axis=0, label="negative")
    f.add("gather", {"x": ints(4, 3), "indices": ints(2, high=4)}, lambda v, i: v[i.long()], axis=0, label="int")
    f.add("gather", {"x": floats(2, 3, 4), "indices": ints(2, 5, high=3)},
          lambda v, i: torch.stack([v[b][i[b].long()] for b in range(2)]), axis=1, batch_dims=1, opset="ios16")
    f.add("gather", {"x": floats(2, 3, 4), "indices": ints(2, 2, high=4)},
          lambda v, i: torch.stack([v[b][:, i[b].long()] for b in range(2)]), axis=2, batch_dims=1, opset="ios17")
    for axis in 0, 1, 2:
        index = ints(2, 3, 4, high=(2, 3, 4)[axis])
        f.add("gather_along_axis", {"x": floats(2, 3, 4), "indices": index}, lambda v, i: torch.gather(v, axis, i.long()), axis=axis)
    f.add("gather_nd", {"x": floats(3, 4, 5), "indices": np.array([[0, 1], [2, 3]], np.int32)},
          lambda v, i: v[i[:, 0].long(), i[:, 1].long()])
    f.add("gather_nd", {"x": floats(3, 4), "indices": np.array([[[0], [2]], [[1], [1]]], np.int32)}, lambda v, i: v[i[..., 0].long()])
    f.add("gather_nd", {"x": floats(2, 3, 4), "indices": np.array([[[0], [2]], [[1], [0]]], np.int32)},
          lambda v, i: torch.stack([v[b][i[b, :, 0].long()] for b in range(2)]), batch_dims=1, opset="ios16")
    at = {"add": np.add.at, "sub": np.subtract.at, "mul": np.multiply.at, "max": np.maximum.at, "min": np.minimum.at,
          "div": np.divide.at}

    def write(data, where, updates, mode):
        out = data.numpy().copy()
        if mode == "update":
            out[where] = updates.numpy()
        else:
            at[mode](out, where, updates.numpy())
        return out

    for mode in ["update", *at]:
        safe = dict(low=0.5, high=2)
        # Repeated positions, except in modes where the last one wins.
        index = np.array([2, 0] if mode == "update" else [2, 0, 2], np.int32)
        for axis in 0, 1:
            data = (4, 3) if axis == 0 else (2, 4, 3)
            shape = list(data)
            shape[axis] = len(index)
            f.add("scatter", {"data": floats(*data), "indices": index, "updates": floats(*shape, **safe)},
                  lambda d, i, u: write(d, (slice(None),) * axis + (i.numpy(),), u, mode), axis=axis, mode=mode)
        where = np.array([[0, 1], [2, 0]] if mode == "update" else [[0, 1], [2, 0], [0, 1]], np.int32)
        f.add("scatter_nd", {"data": floats(3, 2, 2), "indices": where, "updates": floats(len(where), 2, **safe)},
              lambda d, i, u: write(d, (i.numpy()[:, 0], i.numpy()[:, 1]), u, mode), mode=mode)
        order = np.array([[2, 0, 1], [1, 2, 0]], np.int32)

        def along(d, i, u, axis=1):
            grid = list(np.indices(i.shape))
            grid[axis] = i.numpy()
            return write(d, tuple(grid), u, mode)

        f.add("scatter_along_axis", {"data": floats(2, 4), "indices": order, "updates": floats(2, 3, **safe)}, along, axis=1, mode=mode)
    data, updates = floats(3, 2), floats(3, 2)

    def inside(d, i, u):
        out = d.numpy().copy()
        out[1] += u.numpy()[0]
        return out

    f.add("scatter", {"data": data, "indices": np.array([1, 9, -1], np.int32), "updates": updates}, inside, axis=0, mode="add",
          validate_indices=False, opset="ios17", label="outside")
    return f
