"""PIL images in and out, against NumPy (conformance/images)."""

import numpy as np
import pytest
from conftest import read_safetensors

import candle_coreml as ct

Image = pytest.importorskip("PIL.Image")


def pil(planes, layout):
    """An image of planes in layout order."""
    planes = planes[0]
    if layout == "GRAYSCALE_FLOAT16":
        return Image.fromarray(planes[0].astype(np.float32))
    if layout == "GRAYSCALE":
        return Image.fromarray(planes[0].astype(np.uint8))
    rgb = planes[::-1] if layout == "BGR" else planes
    return Image.fromarray(np.ascontiguousarray(rgb.transpose(1, 2, 0)).astype(np.uint8))


@pytest.mark.parametrize("name", ["rgb-bgr", "bgr-rgb", "gray-gray", "gray16-gray16"])
def test_images_agree_with_numpy(root, name):
    reference = read_safetensors(root / "conformance/images/reference.safetensors")
    model = ct.MLModel(root / "conformance/images" / (name + ".mlpackage"))
    (taken,), (returned,) = model.description.inputs, model.description.outputs
    assert (taken.kind, taken.shape) == ("image", (4, 6))
    found = model.predict({"x": pil(reference[name + "/x"], taken.dtype)})["y"]
    want = pil(reference[name + "/y"], returned.dtype)
    if want.mode == "RGB":
        # As Core ML's own interface: colours with an opaque alpha.
        assert found.mode == "RGBA"
        assert (np.array(found)[..., 3] == 255).all()
        found = found.convert("RGB")
    assert (found.mode, found.size) == (want.mode, want.size)
    # 16-bit floats: of the largest value, which the sum rounds with.
    tolerance = 2**-9 * np.abs(np.array(want)).max() if found.mode == "F" else 0
    np.testing.assert_allclose(np.array(found), np.array(want), rtol=0, atol=tolerance)


def test_other_modes_sizes_and_arrays_are_refused_by_name(root):
    model = ct.MLModel(root / "conformance/images/rgb-bgr.mlpackage")
    for wrong, word in [
        (Image.new("L", (6, 4)), "mode L"),
        (Image.new("RGBA", (6, 4)), "mode RGBA"),
        (np.zeros((4, 6, 3), np.uint8), "numpy.ndarray"),
        (Image.new("RGB", (4, 6)), "[1, 3, 6, 4]"),
    ]:
        with pytest.raises(ct.InputError) as raised:
            model.predict({"x": wrong})
        assert raised.value.feature == "x" and word in str(raised.value)
        assert isinstance(raised.value, (TypeError, ValueError))
