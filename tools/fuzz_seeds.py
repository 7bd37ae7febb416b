"""Seeds of the fuzz target `engine`: one file per program of `conformance/operations`: `python -m tools.fuzz_seeds FOLDER`."""

import json
import sys
from pathlib import Path

from safetensors import safe_open


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(Path("conformance/operations").glob("*.safetensors")):
        with safe_open(file, "np") as cases:
            for name, entry in cases.metadata().items():
                text = json.loads(entry)["text"]
                if not name.endswith(".fp16") and len(text) < 4000:
                    (folder / f"{name}.mil").write_text(text)


if __name__ == "__main__":
    main()
