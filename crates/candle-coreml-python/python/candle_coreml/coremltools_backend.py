"""coremltools predicts through candle-coreml where Apple's framework is not.

    import candle_coreml.coremltools_backend
    import coremltools as ct

    ct.models.MLModel("model.mlpackage").predict({"x": array})

coremltools asks `_MLModelProxy`, a class of its compiled part for Macs, for everything that predicts. On other systems
that class is missing; importing this module puts another in its place: `predict`, lists of inputs, `make_state` and
`CompiledMLModel` work. On a Mac nothing is changed, unless `install(force=True)` is called.
"""

import sys
import time
from typing import Any, Dict, List, Optional

from . import _native

__all__ = ["Proxy", "install"]


class Proxy:
    """What coremltools calls `_MLModelProxy`: a model of this package, with the names that coremltools calls."""

    def __init__(
        self,
        filename: str,
        compute_units: str,
        function_name: str = "",
        optimization_hints: Optional[Dict[str, str]] = None,
        asset: Any = None,
    ) -> None:
        if asset is not None:
            raise RuntimeError("models in memory need Apple's framework; give the path of the model")
        started = time.perf_counter_ns()
        # Hints are about Apple's processors; results do not depend on them.
        self._model = _native.MLModel(filename, function_name or None, compute_units)
        self._loaded = time.perf_counter_ns() - started
        self._predicted = None  # type: Optional[int]

    @staticmethod
    def maximum_supported_specification_version() -> int:
        """The newest specification that coremltools writes."""
        return 10

    def predict(self, data: Dict[str, Any], state: Optional[_native.MLState] = None) -> Dict[str, Any]:
        """One prediction."""
        started = time.perf_counter_ns()
        outputs = self._model.predict(data, state)
        self._predicted = time.perf_counter_ns() - started
        return outputs

    def batchPredict(self, data: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
        """Many predictions."""
        started = time.perf_counter_ns()
        outputs = self._model.predict(data)
        self._predicted = time.perf_counter_ns() - started
        return outputs

    def newState(self) -> _native.MLState:
        """Zeroed states."""
        return self._model.make_state()

    def get_load_duration_in_nano_seconds(self) -> Optional[int]:
        """Time of the load."""
        return self._loaded

    def get_last_predict_duration_in_nano_seconds(self) -> Optional[int]:
        """Time of the last prediction."""
        return self._predicted

    def get_compiled_model_path(self) -> str:
        """Refused: only Apple's framework compiles models."""
        raise RuntimeError("there is no compiled model: Apple's framework is not here")

    @staticmethod
    def get_available_compute_devices() -> List[Any]:
        """Refused: Core ML lists Apple's devices."""
        raise RuntimeError("compute devices are Apple's; the model runs on the CPU")


def install(force: bool = False) -> bool:
    """Gives coremltools the engine of this package; returns False where it has Apple's, unless forced."""
    import coremltools.models.model as model
    from coremltools.models import _compiled_model

    if model._MLModelProxy is not None and not force:
        return model._MLModelProxy is Proxy
    model._MLModelProxy = Proxy
    _compiled_model._MLModelProxy = Proxy
    # States ask for macOS 15 by name; the engine has them everywhere. Other modules go on seeing the real system.
    for module in (model, _compiled_model):
        if sys.platform != "darwin" and hasattr(module, "_macos_version"):
            module._is_macos = lambda: True
            module._macos_version = lambda: (26, 0)
    return True


install()
