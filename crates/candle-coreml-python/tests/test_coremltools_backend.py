"""coremltools predicts through this package."""

import shutil
import sys

import numpy as np
import pytest
from conftest import read_safetensors

coremltools = pytest.importorskip("coremltools")

import candle_coreml as ct  # noqa: E402
import candle_coreml.coremltools_backend as backend  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="coremltools has Apple's engine there")


def test_models_predict(root, intent, intent_reference):
    model = coremltools.models.MLModel(str(root / "models/tiny-intent/intent.mlpackage"))
    data = {k: intent_reference["one." + k] for k in ("input_ids", "attention_mask")}
    found = model.predict(dict(data))
    np.testing.assert_array_equal(found["logits"], intent.predict(data)["logits"])
    batch = model.predict([dict(data), dict(data)])
    np.testing.assert_array_equal(batch[1]["logits"], found["logits"])
    assert model.last_predict_duration_in_nano_seconds > 0 and model.load_duration_in_nano_seconds > 0


def test_states_are_made_and_read(root):
    model = coremltools.models.MLModel(str(root / "conformance/single_file/per-layer.mlpackage"))
    state = model.make_state()
    name = ct.MLModel(root / "conformance/single_file/per-layer.mlpackage").description.states[0].name
    value = state.read_state(name)
    state.write_state(name, value + 1)
    assert (state.read_state(name) == 1).all()


def test_models_of_a_specification_predict(root):
    spec = coremltools.utils.load_spec(str(root / "conformance/classic/random_forest.mlmodel"))
    found = coremltools.models.MLModel(spec).predict({"input": np.zeros(4)})
    assert set(found) == {"classLabel", "classProbability"}


def test_images_and_modes(root, tmp_path):
    image = pytest.importorskip("PIL.Image")
    # coremltools wants the empty folder of weights too, which git does not keep.
    package = tmp_path / "gray-gray.mlpackage"
    shutil.copytree(root / "conformance/images/gray-gray.mlpackage", package)
    (package / "Data/com.apple.CoreML/weights").mkdir(exist_ok=True)
    reference = read_safetensors(root / "conformance/images/reference.safetensors")
    model = coremltools.models.MLModel(str(package))
    found = model.predict({"x": image.fromarray(reference["gray-gray/x"][0, 0].astype(np.uint8))})
    np.testing.assert_array_equal(np.array(found["y"]), reference["gray-gray/y"][0, 0])


def test_what_only_apple_has_is_refused(root):
    model = coremltools.models.MLModel(str(root / "models/tiny-intent/intent.mlpackage"))
    with pytest.raises(RuntimeError):
        model.get_compiled_model_path()
    with pytest.raises(RuntimeError):
        coremltools.models.MLModel.get_available_compute_devices()
    with pytest.raises(KeyError):
        model.predict({"other": np.zeros(1)})


def test_a_model_that_can_not_run_says_why(tmp_path, root):
    spec = coremltools.utils.load_spec(str(root / "conformance/classic/random_forest.mlmodel"))
    spec.ClearField("treeEnsembleClassifier")
    spec.soundAnalysisPreprocessing.vggish.SetInParent()
    with pytest.warns(RuntimeWarning, match="soundAnalysisPreprocessing"):
        coremltools.models.MLModel(spec)


@pytest.mark.parametrize("path", ["models/tiny-intent/intent.mlpackage", "conformance/classic/random_forest.mlmodel"])
def test_the_specification_is_the_message_of_coremltools(root, path):
    spec = ct.MLModel(root / path).get_spec()
    assert spec == coremltools.utils.load_spec(str(root / path))
    assert [i.name for i in spec.description.input] == [i.name for i in ct.MLModel(root / path).description.inputs]
    # A copy, as coremltools' own.
    spec.description.metadata.author = "someone else"
    assert ct.MLModel(root / path).get_spec().description.metadata.author != "someone else"


def test_installing_twice_changes_nothing():
    assert backend.install() and coremltools.models.model._MLModelProxy is backend.Proxy
