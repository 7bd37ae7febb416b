"""A case: a program of MIL text, inputs, and the outputs that PyTorch or NumPy computes for them."""

from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass
class Name:
    """A parameter bound to a value of the program rather than a literal."""

    name: str


@dataclass
class Many:
    """A variadic parameter."""

    parts: list


@dataclass
class Case:
    name: str
    text: str
    inputs: dict
    outputs: dict
    # Relative and absolute tolerance; None: the element type's default.
    tolerance: float | None = None


@dataclass
class Family:
    """Cases of one chapter of the op set; each float case is duplicated in half precision."""

    name: str
    cases: list = field(default_factory=list)

    def add(self, op, inputs, reference, opset="ios15", label="", half=True, tolerance=None, dtypes=None, **parameters):
        """Add one operation. `inputs` are bound by name; `reference` receives them as tensors, in order."""
        floats = any(v.dtype == np.float32 for v in inputs.values()) or any(
            isinstance(v, np.ndarray) and v.dtype == np.float32 for v in parameters.values()
        )
        for kind in ["fp32", "fp16"] if half and floats else ["fp32"]:
            rounded = {n: round_to(v, kind) for n, v in inputs.items()}
            wide = [torch.from_numpy(np.array(v, np.float32 if v.dtype == np.float16 else None)) for v in rounded.values()]
            with torch.no_grad():
                result = reference(*wide)
            results = [to_numpy(r, kind) for r in (result if isinstance(result, (list, tuple)) else [result])]
            if dtypes:
                results = [r.astype(d) for r, d in zip(results, dtypes)]
            outputs = {f"y{i}": r for i, r in enumerate(results)}
            bound = {n: Name(n) for n in inputs if not any(refers(p, n) for p in parameters.values())}
            arguments = ", ".join(f"{n} = {render(v, kind)}" for n, v in {**bound, **parameters}.items())
            types = ", ".join(f"{type_of(v)} {n}" for n, v in outputs.items())
            body = f'{types} = {op}({arguments})[name = string("{op}")];'
            number = sum(c.name.startswith(f"{op}.") for c in self.cases)
            self.program(f"{op}.{number}{'.' + label if label else ''}.{kind}", body, rounded, outputs, opset, tolerance)

    def program(self, name, body, inputs, outputs, opset="ios15", tolerance=None, states=""):
        """Add a whole program; `body` defines the outputs."""
        parameters = ", ".join(filter(None, [states] + [f"{type_of(v)} {n}" for n, v in inputs.items()]))
        text = f"program(1.3)\n{{\n    func main<{opset}>({parameters}) {{\n        {body}\n    }} -> ({', '.join(outputs)});\n}}\n"
        self.cases.append(Case(name, text, inputs, outputs, tolerance))


def refers(parameter, name):
    parts = parameter.parts if isinstance(parameter, Many) else [parameter]
    return any(isinstance(p, Name) and p.name == name for p in parts)


def round_to(value, kind):
    return np.asarray(value, np.float16) if kind == "fp16" and value.dtype == np.float32 else np.asarray(value)


def to_numpy(result, kind):
    array = result.numpy() if isinstance(result, torch.Tensor) else np.asarray(result)
    if array.dtype in (np.float64, np.float32):
        return array.astype(np.float16 if kind == "fp16" else np.float32)
    return array.astype(np.int32) if array.dtype == np.int64 else array


TYPES = {"float32": "fp32", "float16": "fp16", "int32": "int32", "bool": "bool", "uint8": "uint8", "int8": "int8",
         "uint16": "uint16", "int16": "int16", "uint32": "uint32"}


def type_of(array):
    return f"tensor<{TYPES[str(array.dtype)]}, [{', '.join(map(str, array.shape))}]>"


def scalar(value):
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    return repr(float(value))


def nested(array):
    return "[" + ", ".join(map(nested, array)) + "]" if array.ndim else scalar(array[()])


def render(value, kind):
    """Render a parameter as MIL text; floats get the element type of the case."""
    if isinstance(value, Name):
        return value.name
    if isinstance(value, Many):
        return "(" + ", ".join(render(p, kind) for p in value.parts) + ")"
    if isinstance(value, str):
        return f'string("{value}")'
    if isinstance(value, bool):
        return f"bool({scalar(value)})"
    if isinstance(value, int):
        return f"int32({value})"
    if isinstance(value, float):
        return f"{kind}({scalar(value)})"
    if isinstance(value, (list, tuple)):
        array = np.array(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        elif array.dtype.kind == "i":
            array = array.astype(np.int32)
        elif not array.size:
            array = array.astype(np.int32)
        return render(array, kind)
    return f"{type_of(round_to(value, kind))}({nested(round_to(value, kind))})"


RANDOM = np.random.default_rng(20260101)


def floats(*shape, low=-2.0, high=2.0):
    """Uniform random floats that are exact in half precision."""
    return RANDOM.uniform(low, high, shape).astype(np.float16).astype(np.float32)


def ints(*shape, low=0, high=10):
    return RANDOM.integers(low, high, shape).astype(np.int32)


def bools(*shape):
    return RANDOM.integers(0, 2, shape).astype(bool)
