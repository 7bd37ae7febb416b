"""Compare the tables of `coreml-compress` with those of coremltools and scikit-learn: squared error and time.

    cargo build --release -p coreml-compress --example kmeans
    python -m tools.kmeans_peers target/release/examples/kmeans [--coremltools] [--largest N]

Every matrix of the set: Gaussian, heavy-tailed, with repeated values, tiny, 64 × 80; fp16 and f32; per tensor and per
group of 8 rows. Prints one line a case, and fails if an error is larger than a peer's. Entries of tables are rounded to
fp16 on both sides, as they are stored; numbers take their nearest entry. Fails, too, if coremltools takes less than five
times our time on matrices of 4,096 numbers or more. `--coremltools` leaves scikit-learn out, `--largest` larger matrices.
"""

import argparse
import subprocess
import sys
import tempfile
import time

import numpy as np
from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight
from sklearn.cluster import KMeans


def matrices():
    rng = np.random.default_rng(7)
    yield "gaussian 256x512", rng.standard_normal((256, 512))
    yield "gaussian 1024x1024", rng.standard_normal((1024, 1024)) * 0.02
    yield "student-t 256x512", rng.standard_t(2, (256, 512)).clip(-1000, 1000)
    yield "repeated 128x256", np.round(rng.standard_normal((128, 256)) * 8) / 8
    yield "tiny 4x3", rng.standard_normal((4, 3))
    yield "gaussian 64x80", rng.standard_normal((64, 80))


def error(values, table):
    table = np.unique(table.astype(np.float16).astype(np.float64).ravel())
    values = values.astype(np.float64).ravel()
    at = np.searchsorted((table[1:] + table[:-1]) / 2, values)
    return float(((values - table[at]) ** 2).sum())


def timed(run, groups):
    start = time.perf_counter()
    tables = [run(g) for g in groups]
    return sum(error(g, t) for g, t in zip(groups, tables)), time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--coremltools", action="store_true")
    parser.add_argument("--largest", type=int, default=1 << 30)
    options = parser.parse_args()
    program, worse, slow, least = options.program, 0, 0, float("inf")
    for name, matrix in matrices():
        if matrix.size > options.largest:
            continue
        for kind in (np.float16, np.float32):
            weights = matrix.astype(kind)
            for bits in (1, 2, 3, 4, 6, 8):
                for rows in (weights.shape[0], min(8, weights.shape[0])):
                    groups = [weights[i:i + rows].reshape(-1, 1) for i in range(0, weights.shape[0], rows)]
                    with tempfile.NamedTemporaryFile() as file:
                        weights.astype("<f4").tofile(file.name)
                        size = str(rows * weights.shape[1])
                        out = subprocess.run([program, file.name, str(bits), size], check=True, capture_output=True)
                    ours, seconds = map(float, out.stdout.split())
                    ct = lambda g: _get_kmeans_lookup_table_and_weight(bits, g)[0]
                    clusters = lambda g: min(1 << bits, len(np.unique(g)))
                    sk = lambda g: KMeans(clusters(g), n_init=1, random_state=0).fit(g.astype(np.float32)).cluster_centers_
                    peers = {"coremltools": timed(ct, groups)}
                    if not options.coremltools:
                        peers["scikit-learn"] = timed(sk, groups)
                    line = f"{name} {kind.__name__} {bits} bits / {rows} rows: {ours:.6g} in {seconds * 1e3:.2f} ms"
                    for peer, (theirs, took) in peers.items():
                        # Rounding the entries may favour either side by a little.
                        worse += ours > theirs * (1 + 1e-3) + 1e-9
                        if peer == "coremltools" and matrix.size >= 4096:
                            slow += took < 5 * seconds
                            least = min(least, took / seconds)
                        line += f"; {peer} {theirs:.6g} in {took * 1e3:.2f} ms ({took / seconds:.1f}x)"
                    print(line, flush=True)
    print(f"coremltools takes at least {least:.1f} times our time")
    sys.exit(f"{worse} errors larger than a peer's, {slow} times less than five times slower" if worse or slow else 0)


if __name__ == "__main__":
    main()
