"""Resizing, cropping and sampling of images."""

import numpy as np
import torch
import torch.nn.functional as F

from .case import Family, floats


def points(out, n, mode):
    """Input positions of `out` samples over `n` pixels."""
    i = np.arange(out, dtype=np.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        return i * (n - 1) / (out - 1) if out > 1 else i * 0 + (0 if mode.startswith("STRICT") else (n - 1) / 2)
    if mode == "UNALIGN_CORNERS":
        return (i + 0.5) * n / out - 0.5
    raise ValueError(mode)


def bilinear(image, rows, columns):
    """Samples at real positions, clamped to the image; `image` is [..., H, W]."""
    def axis(at, n):
        at = np.clip(at, 0, n - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, n - 1), at - low
    (r0, r1, v), (c0, c1, u) = axis(rows, image.shape[-2]), axis(columns, image.shape[-1])
    v = v[:, None]
    top = image[..., r0, :][..., c0] * (1 - u) + image[..., r0, :][..., c1] * u
    low = image[..., r1, :][..., c0] * (1 - u) + image[..., r1, :][..., c1] * u
    return top * (1 - v) + low * v


def family():
    f = Family("image")
    image = lambda *s: {"x": floats(*(s or (1, 2, 4, 6)))}
    for scale in (2, 2), (3, 1):
        f.add("upsample_nearest_neighbor", image(), lambda v: v.repeat_interleave(scale[0], 2).repeat_interleave(scale[1], 3),
              scale_factor_height=scale[0], scale_factor_width=scale[1])
    for align in False, True:
        f.add("upsample_bilinear", image(), lambda v: F.interpolate(v, scale_factor=(2, 3), mode="bilinear", align_corners=align),
              scale_factor_height=2, scale_factor_width=3, align_corners=align)
    f.add("resize_nearest_neighbor", image(), lambda v: F.interpolate(v, (8, 3), mode="nearest"), target_size_height=8, target_size_width=3)
    for mode in "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "UNALIGN_CORNERS":
        for size in (7, 5), (2, 9):
            f.add("resize_bilinear", image(), lambda v: bilinear(v.double().numpy(), points(size[0], 4, mode), points(size[1], 6, mode)),
                  target_size_height=size[0], target_size_width=size[1], sampling_mode=mode)
    for mode in "STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS":
        f.add("resize", image(), lambda v: bilinear(v.double().numpy(), points(7, 4, mode), points(9, 6, mode)), shape=[7, 9],
              resized_dims=2, interpolation_mode="LINEAR", sampling_mode=mode, opset="ios17")
    f.add("resize", image(), lambda v: F.interpolate(v, (8, 12), mode="nearest"), shape=[8, 12], resized_dims=2,
          interpolation_mode="NEAREST_NEIGHBOR", sampling_mode="UNALIGN_CORNERS", opset="ios17")
    f.add("crop", image(), lambda v: v[:, :, 1:3, 2:5], crop_height=[1, 1], crop_width=[2, 1])
    # Boxes in pixels with aligned corners: the first and last samples are the corners.
    boxes = np.array([[0, 0.5, 2, 4.5], [1, 1, 3, 3]], np.float32)

    def crops(v, order=(0, 1, 2, 3)):
        out = []
        for box in boxes:
            top, left, bottom, right = (box[i] for i in order)
            out.append(bilinear(v.double().numpy()[0], np.linspace(top, bottom, 3), np.linspace(left, right, 5)))
        return np.stack(out)

    common = dict(target_height=3, target_width=5, sampling_mode="ALIGN_CORNERS", normalized_coordinates=False)
    rois = np.concatenate([np.zeros((2, 1), np.float32), boxes], 1).reshape(2, 1, 5, 1, 1)
    f.add("crop_resize", image(), lambda v: crops(v)[:, None], roi=rois, box_coordinate_mode="CORNERS_HEIGHT_FIRST", **common)
    f.add("crop_resize", image(), crops, boxes=boxes, box_indices=[0, 0], box_coordinate_mode="CORNERS_HEIGHT_FIRST", opset="ios17", **common)
    wide = boxes[:, [1, 0, 3, 2]].copy()
    f.add("crop_resize", image(), crops, boxes=wide, box_indices=[0, 0], box_coordinate_mode="CORNERS_WIDTH_FIRST", opset="ios17", **common)
    grid = floats(1, 3, 5, 2, low=-1.2, high=1.2)
    for align in False, True:
        for padding, theirs in ("constant", "zeros"), ("border", "border"), ("reflection", "reflection"):
            for mode in "bilinear", "nearest":
                f.add("resample", {"x": floats(1, 2, 4, 6), "coordinates": grid},
                      lambda v, g: F.grid_sample(v, g, mode, theirs, align), sampling_mode=mode, padding_mode=padding,
                      padding_value=0.0, coordinates_mode="normalized_minus_one_to_one", align_corners=align,
                      # In half precision, a nearest sample between two pixels may select either.
                      half=mode == "bilinear", tolerance=2e-2)
    matrix = np.array([[0.75, 0.25, 0.125, -0.25, 0.5, 0.0]], np.float32)
    f.add("affine", {"x": floats(1, 2, 4, 6)}, lambda v: F.grid_sample(v, F.affine_grid(torch.from_numpy(matrix).view(1, 2, 3), (1, 2, 5, 7), True),
          "bilinear", "zeros", True), transform_matrix=matrix, output_height=5, output_width=7, sampling_mode="bilinear",
          padding_mode="constant", padding_value=0.0, coordinates_mode="normalized_minus_one_to_one", align_corners=True, tolerance=2e-2)
    return f
