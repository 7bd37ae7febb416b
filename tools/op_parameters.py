"""Writes the parameters that coremltools defines for each operation and opset, in the form that the engine's tests read.

    python -m tools.op_parameters conformance/op_parameters.json

One line for each definition of an operation: the opsets it stands for, and its parameters in the order of the definition.
A parameter has the element types that it may have, `optional` and `constant` where it is so, and `default` where the
definition states one that does not depend on other parameters. Names and types only: what an operation means stands in
the engine's docstrings.
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

# No operation of a file.
INTERNAL = {"_const_symbolic", "const"}


def element_types(definition, parameter):
    domain = parameter.type_domain if getattr(parameter, "type_domain", None) else ()
    if not domain and getattr(parameter, "type_domain_id", None):
        domain = definition.type_domains[parameter.type_domain_id]
    return [types.builtin_to_string(t) for t in domain]


def defaults(definition):
    """Literals among the keywords of the `DefaultInputs` that a definition and those it extends return."""
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
