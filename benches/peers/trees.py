"""Many rows through forests beside scikit-learn and XGBoost, on the same machine in the same run.

    pip install -r benches/peers/requirements.txt
    cargo build --release
    python benches/peers/trees.py --threads 2

1,000 trees of depth 7, 50 features, 10,000 rows; f64 in candle-coreml and scikit-learn's thresholds, f32 in XGBoost. The models are
converted by coremltools. `rows`: all rows in memory, after a warm-up (`candle-coreml bench --rows`; `predict` of the peers).
`file`: from a CSV file to a CSV file, load included (`candle-coreml predict`; pandas and the peer in a fresh process).
Runs alternate, so that a busy machine disturbs all; the best of the rounds counts. Outputs are compared too.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import coremltools as ct
import numpy as np
import pandas
import xgboost
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

ROOT = Path(__file__).resolve().parents[2]
TREES, DEPTH, FEATURES, ROWS = 1000, 7, 50, 10_000
NAMES = [f"x{i}" for i in range(FEATURES)]
FROM_FILE = """
import pickle, sys, pandas
model = pickle.load(open(sys.argv[1], "rb"))
x = pandas.read_csv(sys.argv[2]).to_numpy()
pandas.DataFrame({"y": model.predict(x)}).to_csv(sys.argv[3], index=False)
"""


def models(threads, rng):
    """Name, peer, converted model."""
    x = rng.uniform(-1, 1, (4000, FEATURES))
    y = x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2]) + rng.normal(size=len(x)) / 10
    kinds = {"max_depth": DEPTH, "n_estimators": TREES, "n_jobs": threads}
    forest = RandomForestRegressor(**kinds, random_state=0, max_features=8).fit(x, y)
    yield "scikit-learn, random forest", forest, ct.converters.sklearn.convert(forest, NAMES, "y")
    classes = RandomForestClassifier(**kinds, random_state=0).fit(x, np.digitize(y, [-0.5, 0.5]))
    yield "scikit-learn, three classes", classes, ct.converters.sklearn.convert(classes, NAMES, "y")
    boosted = xgboost.XGBRegressor(**kinds, learning_rate=0.02, tree_method="hist").fit(x, y)
    yield "XGBoost", boosted, ct.converters.xgboost.convert(boosted, NAMES, "y")


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a folder in which the made models stay, and are found again")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    command = str(ROOT / "target/release/candle-coreml")
    if "CARGO_TARGET_DIR" in os.environ:
        command = os.environ["CARGO_TARGET_DIR"] + "/release/candle-coreml"
    limit = {name: str(arguments.threads) for name in ("CANDLE_COREML_THREADS", "OMP_NUM_THREADS")}
    environment = {**os.environ, **limit}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "models.json").exists():
            names = []
            for i, (name, peer, model) in enumerate(models(arguments.threads, rng)):
                model.save(str(folder / f"{i}.mlmodel"))
                pickle.dump(peer, open(folder / f"{i}.pickle", "wb"))
                names.append(name)
            x = rng.uniform(-1, 1, (ROWS, FEATURES))
            pandas.DataFrame(x, columns=NAMES).to_csv(folder / "x.csv", index=False)
            (folder / "models.json").write_text(json.dumps(names))
        x = pandas.read_csv(folder / "x.csv", float_precision="round_trip").to_numpy()
        print("| peer | rows: ours | peer | speed | file: ours | peer | speed | difference |")
        print("|---" * 8 + "|")
        for i, name in enumerate(json.loads((folder / "models.json").read_text())):
            peer = pickle.load(open(folder / f"{i}.pickle", "rb"))
            model, out = str(folder / f"{i}.mlmodel"), folder / "out.csv"
            predict = [command, "predict", model, "--inputs", str(folder / "x.csv"), "--outputs", str(out)]
            theirs = [sys.executable, "-c", FROM_FILE, str(folder / f"{i}.pickle"), str(folder / "x.csv"), str(folder / "theirs.csv")]
            bench = [command, "bench", "--model", model, "--rows", str(ROWS), "--tokens", "2", "--runs", "1", "--json"]
            best = {}
            for _ in range(arguments.rounds):
                report = subprocess.run(bench, capture_output=True, text=True, check=True, env=environment).stdout
                for key, value in {
                    "ours": json.loads(report)["latency_seconds"]["least"],
                    "peer": min(seconds(lambda: peer.predict(x)) for _ in range(2)),
                    "our file": seconds(lambda: subprocess.run(predict, check=True, env=environment)),
                    "peer file": seconds(lambda: subprocess.run(theirs, check=True, env=environment)),
                }.items():
                    best[key] = min(value, best.get(key, value))
            found, wanted = pandas.read_csv(out)["y"].to_numpy(), peer.predict(x)
            difference = np.abs(found - wanted).max() / max(1, np.abs(wanted).max())
            cells = []
            for ours, theirs in ("ours", "peer"), ("our file", "peer file"):
                cells += [f"{best[ours]:.2f} s", f"{best[theirs]:.2f} s", f"{best[theirs] / best[ours]:.2f}"]
            print(f"| {name} | " + " | ".join(cells) + f" | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
