"""Write small neural networks with their interface: an image classifier, one over sequences, one of boxes in a batch.

    python -m tools.network_models conformance/neural_networks

The expected results are computed by NumPy from the definition of the layers.
"""

import json
import sys
from pathlib import Path

import numpy as np
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from coremltools.models.utils import save_spec


def classifier(folder, rng):
    height, width = 3, 4
    builder = NeuralNetworkBuilder(
        [("picture", datatypes.Array(3, height, width))], [("probabilities", datatypes.Dictionary(str))], mode="classifier"
    )
    weights = rng.standard_normal((2, 3 * height * width)).astype(np.float32)
    bias = np.array([0.25, -0.5], np.float32)
    builder.add_flatten("flat", mode=0, input_name="picture", output_name="flat")
    builder.add_inner_product(
        "product", weights, bias, 3 * height * width, 2, has_bias=True, input_name="flat", output_name="scores"
    )
    builder.add_softmax("softmax", "scores", "probabilities")
    builder.set_class_labels(["cat", "dog"], predicted_feature_name="label", prediction_blob="probabilities")
    builder.set_pre_processing_parameters(
        image_input_names=["picture"], is_bgr=False, red_bias=-1.0, green_bias=-0.9, blue_bias=-0.8, image_scale=2 / 255
    )
    save_spec(builder.spec, str(folder / "classifier.mlmodel"))
    pixels = rng.integers(0, 256, (3, height, width))
    values = pixels * np.float64(np.float32(2 / 255)) + np.array([-1.0, -0.9, -0.8])[:, None, None]
    scores = weights.astype(np.float64) @ values.reshape(-1) + bias
    exponentials = np.exp(scores - scores.max())
    probabilities = exponentials / exponentials.sum()
    return {
        "pixels": pixels.reshape(-1).tolist(),
        "shape": [1, 3, height, width],
        "label": ["cat", "dog"][int(probabilities.argmax())],
        "probabilities": probabilities.tolist(),
    }


def sequences(folder, rng):
    builder = NeuralNetworkBuilder([("x", datatypes.Array(3))], [("y", datatypes.Array(2))])
    weights = rng.standard_normal((2, 3)).astype(np.float32)
    builder.add_inner_product("product", weights, None, 3, 2, has_bias=False, input_name="x", output_name="y")
    save_spec(builder.spec, str(folder / "sequences.mlmodel"))
    x = rng.standard_normal((5, 3)).astype(np.float32)
    return {"x": x.reshape(-1).tolist(), "y": (x.astype(np.float64) @ weights.T).reshape(-1).tolist()}


def boxes(folder, rng):
    """Boxes, a sequence, of images, a batch: each box has the index of its image."""
    height, width, size = 5, 4, (3, 2)
    builder = NeuralNetworkBuilder(
        [("images", datatypes.Array(2, height, width)), ("box", datatypes.Array(4, 1, 1)), ("index", datatypes.Array(1, 1, 1))],
        [("crops", None)],
    )
    builder.add_elementwise("concat", ["index", "box"], "boxes", "CONCAT")
    builder.add_crop_resize(
        "crops", ["images", "boxes"], "crops", target_height=size[0], target_width=size[1], mode="ALIGN_ENDPOINTS_MODE",
        normalized_roi=True, box_indices_mode="CORNERS_HEIGHT_FIRST", spatial_scale=1.0,
    )
    save_spec(builder.spec, str(folder / "boxes.mlmodel"))
    images = rng.standard_normal((3, 2, height, width)).astype(np.float32)
    corners = np.sort(rng.random((4, 2, 2)), axis=1).reshape(4, 4).astype(np.float32)
    indices = np.array([2, 0, 1, 0])

    def crop(image, box):
        rows = np.linspace(box[0], box[2], size[0]) * (height - 1)
        columns = np.linspace(box[1], box[3], size[1]) * (width - 1)
        (y, x), out = np.meshgrid(rows, columns, indexing="ij"), 0.0
        for dy in 0, 1:
            for dx in 0, 1:
                at = np.minimum(np.floor(y).astype(int) + dy, height - 1), np.minimum(np.floor(x).astype(int) + dx, width - 1)
                weight = abs(1 - dy - (y - np.floor(y))) * abs(1 - dx - (x - np.floor(x)))
                out = out + weight * image[:, at[0], at[1]]
        return out

    crops = np.stack([crop(images[i].astype(np.float64), box) for i, box in zip(indices, corners.astype(np.float64))])
    return {
        "images": images.reshape(-1).tolist(), "box": corners.reshape(-1).tolist(), "index": indices.tolist(),
        "crops": crops.reshape(-1).tolist(),
    }


def main():
    folder = Path(sys.argv[1])
    rng = np.random.default_rng(7)
    cases = {"classifier": classifier(folder, rng), "sequences": sequences(folder, rng), "boxes": boxes(folder, rng)}
    (folder / "models.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
