"""Write the parameters that coremltools defines for each operation and opset, in the form read by the engine's tests.

    python -m tools.op_parameters crates/coreml-write/src/builder/op_parameters.json

One line per definition of an operation: its opsets, and its parameters in order. A parameter has its allowed element
types, `optional` and `constant` if applicable, and `default` if the definition states one independent of other
parameters. Names and types only: the engine's docstrings explain the operations.
"""

import ast
import inspect
import json
import sys
import textwrap

from coremltools.converters.mil._deployment_compatibility import AvailableTarget
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.input_type import InternalInputType, PyFunctionInputType
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

OPSETS = ["iOS15", "iOS16", "iOS17", "iOS18"]

# Registered as a dialect, but written to files.
DIALECT = {"coreml_update_state": ["iOS18"]}

# Never in a file.
INTERNAL = {"_const_symbolic", "const"}


def element_types(definition, parameter):
    domain = parameter.type_domain if getattr(parameter, "type_domain", None) else ()
    if not domain and getattr(parameter, "type_domain_id", None):
        domain = definition.type_domains[parameter.type_domain_id]
    return [types.builtin_to_string(t) for t in domain]


def defaults(definition):
    """Literal keywords of the `DefaultInputs` returned by a definition and its base classes."""
    found = {}
    for cls in reversed(definition.__mro__):
        if "default_inputs" not in vars(cls):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(vars(cls)["default_inputs"])))
        own = {}
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DefaultInputs":
                for keyword in call.keywords:
                    try:
                        own[keyword.arg] = ast.literal_eval(keyword.value)
                    except ValueError:
                        found.pop(keyword.arg, None)
        found.update(own)
    return {name: value for name, value in found.items() if value is not None}


def parameters(definition):
    known = defaults(definition)
    described = {}
    for name, parameter in definition.input_spec.input_types.items():
        if isinstance(parameter, (InternalInputType, PyFunctionInputType)):
            continue
        entry = {}
        if of := element_types(definition, parameter):
            entry["types"] = of
        if parameter.optional:
            entry["optional"] = True
        if parameter.const:
            entry["constant"] = True
        if parameter.optional and name in known:
            entry["default"] = known[name]
        described[name] = entry
    return described


def definitions():
    rows = []
    for op, versions in sorted(SSAOpRegistry.core_ops.items()):
        if op in INTERNAL:
            continue
        for opset in OPSETS:
            definition = versions.get(AvailableTarget[opset])
            if definition is None:
                continue
            described = parameters(definition)
            if rows and rows[-1]["op"] == op and rows[-1]["parameters"] == described:
                rows[-1]["opsets"].append(opset)
            else:
                rows.append({"op": op, "opsets": [opset], "parameters": described})
    for op, opsets in DIALECT.items():
        rows.append({"op": op, "opsets": opsets, "parameters": parameters(SSAOpRegistry.dialect_ops[op])})
    return rows


def main(path):
    lines = ",\n".join(json.dumps(row) for row in definitions())
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
