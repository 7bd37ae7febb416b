"""Core ML models and language models on any platform, with the names of coremltools.

    import candle_coreml as ct

    model = ct.MLModel("model.mlpackage")
    outputs = model.predict({"x": array})

`MLModel` takes and returns what coremltools' `MLModel` does. `LanguageModel` generates text. Errors are `CoreMLError`
and its subclasses, with fields. `import candle_coreml.coremltools_backend` lets coremltools itself predict.
"""

import enum

from . import _native
from ._native import (
    FeatureDescription,
    LanguageModel,
    MLModel,
    MLState,
    ModelDescription,
    Summary,
    TextStream,
    __version__,
)
from .errors import CoreMLError, InputError, NotFoundError, PromptError, UnsupportedError


class ComputeUnit(enum.Enum):
    """Processors that Apple's Core ML may use; elsewhere the CPU computes. Names are those of coremltools."""

    ALL = 1
    CPU_AND_GPU = 2
    CPU_ONLY = 3
    CPU_AND_NE = 4


__all__ = [
    "ComputeUnit",
    "CoreMLError",
    "FeatureDescription",
    "InputError",
    "LanguageModel",
    "MLModel",
    "MLState",
    "ModelDescription",
    "NotFoundError",
    "PromptError",
    "Summary",
    "TextStream",
    "UnsupportedError",
    "__version__",
]
