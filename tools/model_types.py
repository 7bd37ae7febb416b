"""Write the messages of all model types defined by coremltools, in the form read by the tests of `coreml-format`.

    python -m tools.model_types conformance/model_types.json [fuzz/corpus/specification]

One line per message: its fields with number and kind; `of` names the message or enumeration of a field, `key` and
`value` the kinds of a map, `oneof` groups mutually exclusive fields. `Model` has only the fields of its types. Names,
numbers and kinds only: the docstrings of `model_types` explain the fields.

ML Programs and training parameters are omitted: the former have their own reader, the latter stay bytes.

With a second folder, also write a model of each type with every field of every message set once, as seeds of the fuzz
target `specification`. These models are not meaningful.
"""

import json
import sys
from pathlib import Path

from coremltools.proto import Model_pb2
from google.protobuf.descriptor import FieldDescriptor

PACKAGE = "CoreML.Specification."
LEFT_OUT = {"MILSpec.Program", "NetworkUpdateParameters"}

KINDS = {getattr(FieldDescriptor, key): key[5:].lower() for key in dir(FieldDescriptor) if key.startswith("TYPE_")}


def name(definition):
    return definition.full_name.removeprefix(PACKAGE).removeprefix("CoreMLModels.")


def described(field):
    entry = {"name": field.name, "number": field.number, "kind": KINDS[field.type]}
    of = field.message_type or field.enum_type
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        entry |= {"kind": "map", "key": KINDS[key.type], "value": KINDS[value.type]}
        of = value.message_type or value.enum_type
    elif field.is_repeated:
        entry["repeated"] = True
    if of:
        entry["of"] = name(of)
    if field.containing_oneof:
        entry["oneof"] = field.containing_oneof.name
    return entry


def fields(message):
    if name(message) == "Model":
        return message.oneofs_by_name["Type"].fields
    return message.fields


def walk(message, messages, enums):
    if name(message) in messages or name(message) in LEFT_OUT:
        return
    if not message.GetOptions().map_entry:
        messages[name(message)] = sorted((described(f) for f in fields(message)), key=lambda f: f["number"])
    for field in fields(message):
        if field.message_type:
            walk(field.message_type, messages, enums)
        if field.enum_type:
            enums[name(field.enum_type)] = {value.name: value.number for value in field.enum_type.values}


SAMPLES = {"bool": True, "string": "x", "bytes": b"x", "float": 1.5, "double": 1.5}


def fill(message, fields, depth=0):
    """Set fields of a message, recursively with all fields of nested messages."""
    for field in fields:
        kind = KINDS[field.type]
        target = getattr(message, field.name)
        if kind != "message":
            value = SAMPLES.get(kind, 1)
            if field.is_repeated:
                target.extend([value, value])
            else:
                setattr(message, field.name, value)
        elif name(field.message_type) in LEFT_OUT | {"Model"}:
            continue
        elif field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            entry = SAMPLES.get(KINDS[key.type], 1)
            if value.message_type:
                fill(target[entry], value.message_type.fields, depth)
            else:
                target[entry] = SAMPLES.get(KINDS[value.type], 1)
        elif name(field.message_type) == "NeuralNetworkLayer":
            # Networks nested in layers are short and contain no further networks.
            kinds = field.message_type.oneofs_by_name["layer"].fields[: [None, 2, 0][depth]]
            common = [f for f in field.message_type.fields if not f.containing_oneof]
            for layer in kinds:
                fill(target.add(), [*common, layer], depth + 1)
        elif field.is_repeated:
            fill(target.add(), field.message_type.fields, depth)
        else:
            target.SetInParent()
            fill(target, field.message_type.fields, depth)


def write_seeds(folder):
    for field in fields(Model_pb2.Model.DESCRIPTOR):
        if name(field.message_type) not in LEFT_OUT:
            model = Model_pb2.Model(specificationVersion=9)
            fill(model, [field])
            if field.name.startswith("pipeline"):
                pipeline = model.pipeline if field.name == "pipeline" else getattr(model, field.name).pipeline
                fill(pipeline.models.add(), [model.DESCRIPTOR.fields_by_name["scaler"]])
            (Path(folder) / f"{field.name}.mlmodel").write_bytes(model.SerializeToString(deterministic=True))


def main(path, seeds=None):
    messages, enums = {}, {}
    walk(Model_pb2.Model.DESCRIPTOR, messages, enums)

    def lines(table):
        return ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(table.items()))

    with open(path, "w", encoding="utf-8") as file:
        file.write(f'{{"messages": {{\n{lines(messages)}\n}}, "enums": {{\n{lines(enums)}\n}}}}\n')
    if seeds:
        write_seeds(seeds)


if __name__ == "__main__":
    main(*sys.argv[1:])
