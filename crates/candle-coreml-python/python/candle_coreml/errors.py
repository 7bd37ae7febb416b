"""Exceptions, with the fields of the library's errors."""

from typing import Any, Optional, Tuple


class CoreMLError(RuntimeError):
    """A model can't be loaded or run.

    Attributes
    ----------
    kind : str
        Stable name of the kind of error, such as `input`, `unsupported`, `model`, `io`, `prompt-too-long`.
    file : str or None
        File or folder that the error is about.
    feature : str or None
        Input, output or state.
    operation : str or None
        Operation of the program, with its type and function.
    expected, found : str or None
        What the model declares or has, and what there was instead.
    row : int or None
        Row of a batch, from 0.
    """

    kind = ""  # type: str
    file = None  # type: Optional[str]
    feature = None  # type: Optional[str]
    operation = None  # type: Optional[str]
    expected = None  # type: Optional[str]
    found = None  # type: Optional[str]
    row = None  # type: Optional[int]

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> Tuple[Any, ...]:
        return (type(self), self.args, self.__dict__)


class InputError(CoreMLError, ValueError, TypeError):
    """A value is not what the model takes."""


class NotFoundError(CoreMLError, KeyError):
    """The model has no input, output, state or function of this name."""


class UnsupportedError(CoreMLError, NotImplementedError):
    """The model needs what the engine does not have."""


class PromptError(CoreMLError, ValueError):
    """A prompt is empty, or does not fit the model."""


_CLASSES = {
    "input": InputError,
    "argument": InputError,
    "not-found": NotFoundError,
    "unsupported": UnsupportedError,
    "empty-prompt": PromptError,
    "prompt-too-long": PromptError,
    "unknown-token": PromptError,
    "no-chat-template": PromptError,
    "template": PromptError,
}


def of_kind(message: str, kind: str, **fields: object) -> CoreMLError:
    """The exception of a kind of error; called by the compiled part."""
    error = _CLASSES.get(kind, CoreMLError)(message)
    error.kind = kind
    for name, value in fields.items():
        setattr(error, name, value)
    return error
