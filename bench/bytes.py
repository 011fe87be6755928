"""Recall of codes by their size: plain residual codes, rotations (PCA, OPQ), rotations per list (LOPQ), ScaNN.

    pip install scann                       # or scann-core; without it, there is no comparison with ScaNN
    python bench/bytes.py --out docs/data/bytes.json
    python bench/bytes.py --draw docs/bytes.svg     # the picture of an earlier run, docs/data/bytes.json

Every method has the same lists, and a search probes the same number of them; nothing is re-ranked. The table shows the
recall@10, R@1, the squared error of the codes as a multiple of that of plain codes, the time of a search for a batch of
queries as a multiple of that of plain codes (methods take turns, the best round), and the bytes per vector of the whole
index without the rotations, and with them. `docs/bytes.md` quotes the results.

With inner products, codes are those of the default `anisotropy`, but for the method "weight 1", which has plain codes
of least squared error. ScaNN has codes of 4 bits, as many as fit into the bytes, as many leaves as fpq has lists, no
re-ordering, and the best of three anisotropic thresholds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import fpq
from fpq import metrics

K = 10
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "PCA": {"rotation": "pca"},
    "OPQ": {"rotation": "opq"},
    "LOPQ": {"local_rotations": True},
    "LOPQ d/2": {"local_rotations": True},  # with rotations to half the dimensions
}
WEIGHT_1 = "weight 1"
THRESHOLDS = (0.1, 0.2, 0.3)
SETS: dict[str, tuple[str, int, tuple[int, ...]]] = {  # metric, lists, bytes
    "sift500k": ("l2", 1024, (4, 8, 16, 32, 64)),
    "glove50": ("ip", 1024, (5, 10, 25, 50)),
    "minilm": ("ip", 256, (8, 16, 32, 48, 64)),
}


def squared_error(index: fpq.IVFPQIndex, base: Any) -> float:
    total = 0.0
    for start in range(0, len(base), 1 << 16):
        rows = np.arange(start, min(start + (1 << 16), len(base)))
        total += float(((index.reconstruct(rows) - base[rows]) ** 2).sum(dtype=np.float64))
    return total


def measured(name: str, size: int, n_probe: int, rounds: int) -> list[dict[str, Any]]:
    metric, n_lists, _ = SETS[name]
    data = fpq.datasets.load(name)
    base, queries = np.asarray(data.base), np.asarray(data.query)
    if base.dtype == np.float16:
        base, queries = base.astype(np.float32), queries.astype(np.float32)
    truth = data.groundtruth[:, :K]
    half = {**METHODS["LOPQ d/2"], "rotation_dim": max(size, base.shape[1] // 2)}
    methods = {**METHODS, "LOPQ d/2": half, **({} if metric == "l2" else {WEIGHT_1: {"anisotropy": 1.0}})}
    indexes = {
        method: fpq.IVFPQIndex(n_lists, size, metric=metric, **options).fit(base).add(base)  # type: ignore[arg-type]
        for method, options in methods.items()
    }
    seconds = {method: float("inf") for method in methods}
    for _ in range(rounds + 1):  # the first warms up
        for method, index in indexes.items():
            start = time.perf_counter()
            index.search(queries, K, n_probe=n_probe)
            seconds[method] = min(seconds[method], time.perf_counter() - start)
    rows = []
    errors = {method: squared_error(index, base) for method, index in indexes.items()}
    for method, index in indexes.items():
        ids = index.search(queries, K, n_probe=n_probe).ids
        rotations = 0 if index._rotations is None else index._rotations.nbytes
        rows.append(
            {
                "set": name, "bytes": size, "method": method, "recall@10": metrics.recall_at_k(ids, truth, K),
                "R@1": metrics.one_recall_at_k(ids, truth, 1), "error": errors[method] / errors["plain"],
                "time": seconds[method] / seconds["plain"],
                "index bytes": (index.nbytes - rotations) / len(index), "rotation bytes": rotations / len(index),
            }
        )  # fmt: skip
    if metric == "ip" and base.shape[1] % (2 * size) == 0:
        rows += of_scann(name, size, n_probe, base, queries, truth)
    return rows


def of_scann(name: str, size: int, n_probe: int, base: Any, queries: Any, truth: Any) -> list[dict[str, Any]]:
    """The best recall of ScaNN with codes of `size` bytes; nothing if ScaNN is not installed."""
    try:
        import scann
    except ImportError:
        return []
    found = []
    for threshold in THRESHOLDS:
        builder = scann.scann_ops_pybind.builder(base, K, "dot_product")
        builder = builder.tree(SETS[name][1], n_probe, training_sample_size=len(base))
        searcher = builder.score_ah(base.shape[1] // (2 * size), anisotropic_quantization_threshold=threshold).build()
        ids = np.asarray(searcher.search_batched(queries)[0], np.int64)
        recall, first = metrics.recall_at_k(ids, truth, K), metrics.one_recall_at_k(ids, truth, 1)
        found.append({"recall@10": recall, "R@1": first, "threshold": threshold})
    return [{"set": name, "bytes": size, "method": "ScaNN", **max(found, key=lambda row: row["recall@10"])}]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Recall against bytes, a panel per set."""
    import matplotlib
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(SETS), figsize=(12, 3.8), sharey=True, layout="constrained")
    for panel, name in zip(panels, SETS, strict=True):
        for method, marker in zip([*METHODS, WEIGHT_1, "ScaNN"], "osD^<vx", strict=True):
            points = [row for row in rows if (row["set"], row["method"]) == (name, method)]
            if points:
                panel.plot([p["bytes"] for p in points], [p["recall@10"] for p in points], marker=marker, label=method)
        panel.set(title=name, xlabel="bytes per code", xscale="log", ylim=(0, 1))
        ticks = sorted({row["bytes"] for row in rows if row["set"] == name})
        panel.set_xticks(ticks, ticks)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("recall@10")
    panels[1].legend()
    with matplotlib.rc_context({"svg.hashsalt": "fpq"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--probes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--draw", type=Path, help="a .svg or .png file; nothing is measured")
    arguments = parser.parse_args()
    if arguments.draw:
        source = Path(__file__).parents[1] / "docs" / "data" / "bytes.json"
        draw(json.loads(source.read_text())["rows"], arguments.draw)
        return
    rows = []
    for name in arguments.sets:
        for size in SETS[name][2]:
            for row in measured(name, size, arguments.probes, arguments.rounds):
                rows.append(row)
                names = ("recall@10", "R@1", "error", "time", "index bytes", "rotation bytes", "threshold")
                figures = ", ".join(f"{key} {row[key]:.3f}" for key in names if key in row)
                print(f"{name} {size:3} bytes {row['method']:8} {figures}", flush=True)
    if arguments.out:
        about = {"cpu": fpq.cpu_info(), "probes": arguments.probes, "rows": rows}
        arguments.out.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
