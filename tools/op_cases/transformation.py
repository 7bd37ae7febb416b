"""Views and rearrangements."""

import numpy as np
import torch
import torch.nn.functional as F

from .case import Family, Many, Name, floats


def blocks(v, size):
    n, c, h, w = v.shape
    return v.view(n, c, h // size, size, w // size, size)


def family():
    f = Family("transformation")
    x = lambda *s: {"x": floats(*(s or (2, 3, 4)))}
    f.add("reshape", x(), lambda v: v.reshape(4, 6), shape=[4, 6])
    f.add("reshape", x(), lambda v: v.reshape(2, 12), shape=[2, -1])
    f.add("reshape", x(), lambda v: v.reshape(2, 2, 6), shape=[0, 2, -1])
    f.add("reshape", x(2, 50), lambda v: v.reshape(1, 1, 2, 50), shape=[1, 0, -1, 0], opset="ios17")
    f.add("reshape", x(1, 1), lambda v: v.reshape(1), shape=[1])
    f.add("reshape_like", {"x": floats(2, 6), "r": floats(3, 4)}, lambda v, r: v.reshape(3, 4), x=Name("x"), begins=Many([0]),
          ends=Many([2]), end_masks=Many([False]), ref_tensors=Many([Name("r")]), opset="ios16")
    for perm in (1, 0, 2), (2, 1, 0), (0, -1, 1):
        f.add("transpose", x(), lambda v: v.permute(*perm), perm=list(perm))
    f.add("transpose", x(2, 3, 4, 5), lambda v: v.permute(0, 2, 3, 1), perm=[0, 2, 3, 1])
    f.add("expand_dims", x(), lambda v: v[:, None, :, :, None], axes=[1, -1])
    f.add("expand_dims", x(), lambda v: v[None], axes=[0])
    f.add("squeeze", x(1, 3, 1), lambda v: v.reshape(3), axes=[0, 2])
    f.add("squeeze", x(1, 3, 1), lambda v: v.reshape(3))
    f.add("squeeze", x(1, 3, 1), lambda v: v.reshape(1, 3), axes=[-1])
    for axes in [0], [1, -1]:
        f.add("reverse", x(), lambda v: torch.flip(v, axes), axes=axes)
    f.add("reverse", x(), lambda v: torch.flip(v, (0, 1, 2)), label="all")

    def sequences(v):
        out = v.clone()
        for b, n in enumerate([3, 1]):
            out[b, :, :n] = torch.flip(v[b, :, :n], (1,))
        return out

    f.add("reverse_sequence", x(2, 3, 4), sequences, lengths=[3, 1], seq_axis=2, batch_axis=0)
    f.add("slice_by_index", x(4, 5, 6), lambda v: v[1:3, 0:5:2, 2:6], begin=[1, 0, 2], end=[3, 5, 6], stride=[1, 2, 1])
    f.add("slice_by_index", x(4, 5, 6), lambda v: v[:, 1:-1, -3:], begin=[7, 1, -3], end=[0, -1, 9], begin_mask=[True, False, False],
          end_mask=[True, False, True])
    f.add("slice_by_index", x(4, 5, 6), lambda v: v[2, :, 1], begin=[2, 0, 1], end=[0, 0, 0], end_mask=[False, True, False],
          begin_mask=[False, True, False], squeeze_mask=[True, False, True])
    f.add("slice_by_index", x(6), lambda v: torch.flip(v, (0,))[0:4:2], begin=[5], end=[1], stride=[-2])
    f.add("slice_by_index", {"x": floats(4, 6), "begin": np.array([1, 2], np.int32), "end": np.array([3, 5], np.int32)},
          lambda v, b, e: v[1:3, 2:5], label="computed")
    f.add("slice_by_size", x(4, 5), lambda v: v[1:3, 2:], begin=[1, 2], size=[2, -1])
    f.add("slice_by_size", {"x": floats(4, 5), "begin": np.array([2, 0], np.int32)}, lambda v, b: v[2:4, 0:3], size=[2, 3])

    def update(v, u):
        out = v.clone()
        out[1:3, 2:5] = u
        return out

    f.add("slice_update", {"x": floats(4, 6), "update": floats(2, 3)}, update, begin=[1, 2], end=[3, 5], opset="ios18")

    def strided(v, u):
        out = v.clone()
        out[::2, 1:] = u
        return out

    f.add("slice_update", {"x": floats(4, 6), "update": floats(2, 5)}, strided, begin=[0, 1], end=[4, 6], stride=[2, 1],
          begin_mask=[True, False], end_mask=[False, True], opset="ios18")
    f.add("depth_to_space", x(1, 8, 2, 3), lambda v: v.view(1, 2, 2, 2, 2, 3).permute(0, 3, 4, 1, 5, 2).reshape(1, 2, 4, 6), block_size=2)
    f.add("space_to_depth", x(1, 2, 4, 6), lambda v: blocks(v, 2).permute(0, 3, 5, 1, 2, 4).reshape(1, 8, 2, 3), block_size=2)
    f.add("pixel_shuffle", x(2, 8, 2, 3), lambda v: F.pixel_shuffle(v, 2), upscale_factor=2)
    f.add("pixel_unshuffle", x(2, 2, 4, 6), lambda v: F.pixel_unshuffle(v, 2), downscale_factor=np.array(2, np.uint32), opset="ios16")
    f.add("space_to_batch", x(1, 2, 4, 6), lambda v: F.pad(v, (2, 0, 0, 0)).view(1, 2, 2, 2, 4, 2).permute(3, 5, 0, 1, 2, 4).reshape(4, 2, 2, 4),
          block_shape=[2, 2], paddings=np.array([[0, 0], [2, 0]], np.int32))
    f.add("batch_to_space", x(4, 2, 2, 3), lambda v: v.view(2, 2, 1, 2, 2, 3).permute(2, 3, 4, 0, 5, 1).reshape(1, 2, 4, 6)[..., 1:],
          block_shape=[2, 2], crops=np.array([[0, 0], [1, 0]], np.int32))
    f.add("sliding_windows", x(2, 7), lambda v: v.unfold(1, 3, 2), axis=1, size=3, stride=2)
    f.add("sliding_windows", x(2, 5, 3), lambda v: v.unfold(1, 2, 1).transpose(2, 3), axis=1, size=2)
    f.add("flatten2d", x(2, 3, 4), lambda v: v.reshape(2, 12), axis=1)
    f.add("flatten2d", x(2, 3, 4), lambda v: v.reshape(6, 4), axis=-1)
    return f
