"""Write reference cases of operations: `python -m tools.op_cases conformance/operations`."""

import json
import sys
from pathlib import Path

from safetensors.numpy import save_file

from . import (activation, control_flow, convolution, elementwise, image, linear, normalization, recurrent, reduction,
               scatter_gather, tensors, transformation, weights)

FAMILIES = [activation, control_flow, convolution, elementwise, image, linear, normalization, recurrent, reduction,
            scatter_gather, tensors, transformation, weights]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for module in FAMILIES:
        family = module.family()
        names = [c.name for c in family.cases]
        assert len(names) == len(set(names)), [n for n in names if names.count(n) > 1]
        tensors = {}
        programs = {}
        for case in family.cases:
            programs[case.name] = json.dumps({"text": case.text, "tolerance": case.tolerance})
            for side, values in ("in", case.inputs), ("out", case.outputs):
                for name, value in values.items():
                    tensors[f"{case.name}/{side}/{name}"] = value.copy(order="C")
        save_file(tensors, folder / f"{family.name}.safetensors", programs)
        total += len(names)
        print(f"{family.name}: {len(names)} cases")
    print(f"{total} cases")


if __name__ == "__main__":
    main()
