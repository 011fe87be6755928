"""Queries per second against recall@10 and bytes per vector: fpq beside its peers, on three data sets.

    python bench/pareto.py [sift500k minilm glove50] [--only fpq,SymphonyQG] [--python scann-core=PYTHON]
    python bench/pareto.py --draw docs/pareto.svg [--json docs/data/pareto.json]      # table and picture of a file

Each index lives in a process of its own, under the interpreter of its library (`pareto_methods.py` lists them); an
interpreter without `--python` is the present one. The searches of one effort alternate over the methods, after one
search for warm-up. A rate is the best of the rounds, as other processes may disturb some of them. A batch holds all
queries, on `--threads` threads; "one query per call" is a loop in Python, on one thread. Vectors of `minilm` and
`glove50` are scaled to unit length, and their true neighbours are searched exactly. Bytes per vector are those of the
saved index; a star marks an index that cannot be saved, where they are the growth of its process. A run replaces only
its own data sets in the JSON file.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from curves import Rows, frontier, rate_at
from pareto_methods import METHODS, PROBES, SETS, K

TARGETS = (0.9, 0.95, 0.99)
LEAST_DRAWN = 0.8
REFERENCES = "SymphonyQG", "scann-core int8"


def prepare(name: str, folder: Path, threads: int) -> np.ndarray:
    """Write base vectors and queries to the folder; return the ids of the true neighbours."""
    import fpq

    loaded = fpq.datasets.load(name)
    base, queries = np.asarray(loaded.base), np.asarray(loaded.query).astype(np.float32)
    if SETS[name].metric == "l2":
        truth = np.asarray(loaded.groundtruth)[:, :K]
    else:
        base = base.astype(np.float32)
        base /= np.linalg.norm(base, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        truth = fpq.FlatIndex("ip", n_threads=threads).add(base).search(queries, K).ids
    np.save(folder / "base.npy", base)
    np.save(folder / "query.npy", queries)
    return truth


def start(method: str, name: str, folder: Path, threads: int, python: str) -> Connection:
    """A process that builds the index of a method; its first message is (seconds, bytes) or an error."""
    pipe, theirs = Pipe()
    with theirs:
        script = Path(__file__).with_name("pareto_methods.py")
        command = [python, str(script), str(theirs.fileno()), method, name, str(folder), str(threads)]
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    return pipe


def measure(pipes: dict[str, Connection], level: int, truth: np.ndarray, rounds: int, singles: int) -> Rows:
    """One row per setting of an effort; the methods alternate."""
    settings = [
        (method, METHODS[method].efforts[level], rerank)
        for method in pipes
        for rerank in METHODS[method].reranks
        if level < len(METHODS[method].efforts)
    ]
    taken: dict[Any, list[tuple[float, float]]] = {setting: [] for setting in settings}
    found: dict[Any, np.ndarray] = {}
    for _ in range(rounds + 1):
        for setting in settings:
            pipe, seconds = pipes[setting[0]], []
            for count, single in ((singles, True), (len(truth), False)):
                pipe.send((count, *setting[1:], single))
                spent, found[setting] = pipe.recv()
                seconds.append(spent / count)
            taken[setting].append((seconds[1], seconds[0]))
    rows = []
    for method, effort, rerank in settings:
        setting = method, effort, rerank
        batch, single = (1 / min(times) for times in zip(*taken[setting][1:], strict=True))
        recall = float(np.mean([np.isin(t, ids).mean() for t, ids in zip(truth, found[setting], strict=True)]))
        row = {"method": method, "effort": effort, "rerank": rerank, "recall@10": recall}
        rows.append(row | {"qps": batch, "single": single})
    return rows


def run(name: str, options: argparse.Namespace, pythons: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Build every index of a data set and search with all settings; yield the result after each effort."""
    pipes: dict[str, Connection] = {}
    built: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        truth = prepare(name, Path(folder), options.threads)
        rows_of_base = len(np.load(Path(folder) / "base.npy", mmap_mode="r"))
        for method in METHODS:
            if not any(fnmatch.fnmatchcase(method, pattern) for pattern in options.only.split(",")):
                continue
            python = pythons.get(METHODS[method].library, sys.executable)
            pipe = start(method, name, Path(folder), options.threads, python)
            try:
                answer = pipe.recv()
            except EOFError:
                answer = "the process ended"
            if isinstance(answer, str):
                print(f"{name}, {method} left out: {answer}", flush=True)
                continue
            pipes[method] = pipe
            built[method] = {"seconds": answer[0], "bytes": answer[1] / rows_of_base, "measured": answer[2]}
            print(f"{name}, {method}: built in {answer[0]:.1f} s", flush=True)
        result: dict[str, Any] = {
            "threads": options.threads, "rounds": options.rounds, "singles": options.singles, "built": built, "rows": []
        }  # fmt: skip
        for level in options.levels:
            result["rows"] += measure(pipes, level, truth, options.rounds, options.singles)
            yield result
        for pipe in pipes.values():
            pipe.send(None)


def report(name: str, result: dict[str, Any]) -> None:
    """Print the rates at each recall, in batches and for single queries, and the ratios to two peers."""
    for rate, title in (("qps", "batches"), ("single", "one query per call")):
        rates = {
            method: [rate_at([row for row in result["rows"] if row["method"] == method], target, rate=rate)
                     for target in TARGETS]
            for method in result["built"]
        }  # fmt: skip
        print(f"\n{name}, {title}\n{'queries per second at recall@10':34}{'bytes':>7} "
              + "".join(f"{target:>10}" for target in TARGETS)
              + "".join(f"   / {reference}" for reference in REFERENCES))  # fmt: skip
        for method, own in rates.items():
            built = result["built"][method]
            kind = "*" if built["measured"] == "process" else " "
            line = f"{method:34}{built['bytes']:7.0f}{kind}" + "".join(f"{value:10.0f}" for value in own)
            for reference in REFERENCES:
                if reference in rates:
                    shares = (a / b for a, b in zip(own, rates[reference], strict=True))
                    line += "   " + " ".join(f"{share:4.2f}" for share in shares)
            print(line)


def plot(results: dict[str, Any], path: Path) -> None:
    """Per data set: rate against recall@10, and rate at a recall@10 of 0.95 against bytes per vector."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    libraries = list(dict.fromkeys(method.library for method in METHODS.values()))
    figure = Figure(figsize=(12, 5.2 * len(results)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(results), 2, squeeze=False)
    for (name, result), (left, right) in zip(results.items(), panels, strict=True):
        drawn = dict.fromkeys(libraries, 0)
        for method in (method for method in METHODS if method in result["built"]):
            library = METHODS[method].library
            mine = [row for row in result["rows"] if row["method"] == method]
            best = [row for row in frontier(mine) if row["recall@10"] >= LEAST_DRAWN]
            look = {
                "color": matplotlib.colormaps["tab10"](libraries.index(library)),
                "marker": "osD^vP"[drawn[library]],
            }
            drawn[library] += 1
            left.plot(
                [row["recall@10"] for row in best], [row["qps"] for row in best], "-" if library == "fpq" else "--",
                linewidth=2.2 if library == "fpq" else 1.2, markersize=4, label=method, **look,
            )  # fmt: skip
            size, rate = result["built"][method]["bytes"], rate_at(mine, 0.95)
            if np.isfinite(rate):
                right.plot(size, rate, **look)
                right.annotate(method, (size, rate), (5, 3), textcoords="offset points", fontsize=7)
        left.set(title=f"{name}: rate against recall", xlabel="recall@10", ylabel="queries per second", yscale="log")
        right.set(title=f"{name}: rate at recall@10 = 0.95", xlabel="bytes per vector", xscale="log", yscale="log")
        left.legend(fontsize=7)
        right.margins(x=0.3)
        for axis in (left.yaxis, right.xaxis, right.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:,.0f}")
            axis.set_minor_formatter(NullFormatter())
        left.grid(alpha=0.3)
        right.grid(alpha=0.3)
    with matplotlib.rc_context({"svg.hashsalt": "fpq"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Measure or read, then print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"data sets: {', '.join(SETS)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--singles", type=int, default=500, help="queries of a loop with one query per call")
    parser.add_argument(
        "--levels", type=int, nargs="+", default=range(len(PROBES)), help="which efforts of each method"
    )
    parser.add_argument("--only", default="*", help="comma-separated methods, with * for any letters")
    parser.add_argument("--python", action="append", default=[], metavar="LIBRARY=PATH", help="an interpreter")
    parser.add_argument("--json", type=Path, default=Path("docs/data/pareto.json"))
    parser.add_argument("--draw", type=Path, help="a .svg or .png file")
    options = parser.parse_args()
    results = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
    pythons = dict(entry.split("=", 1) for entry in options.python)
    for name in options.sets or ([] if options.draw else SETS):
        for result in run(name, options, pythons):
            results[name] = result
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        report(name, results[name])
    if options.draw:
        for name, result in results.items():
            report(name, result)
        plot(results, options.draw)


if __name__ == "__main__":
    main()
