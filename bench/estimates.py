"""What `fpq.estimate` says beside what an index takes: bytes, file, peak memory and time (Linux).

``python bench/estimates.py`` builds indexes of sift500k and minilm, each in a process of its own, and prints a table.
``--threads N`` sets the threads. Times are the shortest of ``--rounds`` builds. ``--cpu`` is for a machine with other
load, best with one thread: it compares CPU time with `fpq.building.SECONDS`, without the pace of this machine.

``python bench/estimates.py fit`` builds indexes of made-up vectors with one thread. It prints the constants of
`fpq.building` that fit their CPU time best, by least squares of relative errors with no constant below 0.
"""

import argparse
import ctypes
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import fpq
from fpq import building, datasets

CODES = (  # of made-up vectors: (n, d), class, options
    ((50_000, 64), "PQIndex", {"m": 16}), ((50_000, 64), "PQIndex", {"m": 8}), ((30_000, 384), "PQIndex", {"m": 48}),
    ((200_000, 32), "PQIndex", {"m": 16}), ((60_000, 128), "PQIndex", {"m": 32, "nbits": 4}),
    ((150_000, 64), "PQIndex", {"m": 32, "nbits": 4}), ((60_000, 128), "PQIndex", {"m": 16, "nbits": 6}),
    ((60_000, 128), "PQIndex", {"m": 25, "metric": "cosine", "keep_vectors": True}),
    ((10_000, 256), "PQIndex", {"m": 32, "keep_vectors": True}), ((5_000, 64), "PQIndex", {"m": 8}),
    ((60_000, 128), "PQIndex", {"m": 16, "rotation": "pca"}), ((40_000, 128), "PQIndex", {"m": 16, "rotation": "opq"}),
    ((20_000, 384), "PQIndex", {"m": 48, "rotation": "opq"}), ((60_000, 64), "PQIndex", {"m": 8, "rotation": "opq"}),
    ((20_000, 384), "PQIndex", {"m": 48, "rotation": "pca", "rotation_dim": 192}),
    ((60_000, 128), "PQIndex", {"m": 16, "refine": "sq8"}), ((30_000, 384), "PQIndex", {"m": 48, "refine": "sq4"}),
    ((200_000, 32), "IVFPQIndex", {"n_lists": 500, "m": 16}), ((200_000, 96), "IVFPQIndex", {"n_lists": 1000, "m": 16}),
    ((300_000, 48), "IVFPQIndex", {"n_lists": 3000, "m": 24}), ((50_000, 64), "IVFPQIndex", {"n_lists": 250, "m": 8}),
    ((200_000, 96), "IVFPQIndex", {"n_lists": 700, "m": 25, "residual": False, "keep_vectors": True}),
    ((30_000, 384), "IVFPQIndex", {"n_lists": 117, "m": 48, "metric": "cosine", "keep_vectors": True}),
    ((60_000, 128), "IVFPQIndex", {"n_lists": 300, "m": 16, "refine": "sq8"}),
    ((30_000, 384), "IVFPQIndex", {"n_lists": 117, "m": 48, "refine": "sq4", "residual": False}),
    ((60_000, 64), "IVFPQIndex", {"n_lists": 300, "m": 8, "rotation": "opq"}),
    ((200_000, 32), "IVFPQIndex", {"n_lists": 10_000, "m": 8}),
    ((200_000, 64), "PQIndex", {"m": 8, "refine": "sq8"}), ((2_000, 32), "PQIndex", {"m": 8}),
    ((4_000, 1024), "PQIndex", {"m": 32, "rotation": "pca"}), ((4_000, 768), "PQIndex", {"m": 16, "rotation": "opq"}),
    ((300_000, 96), "FlatIndex", {}), ((60_000, 384), "FlatIndex", {"metric": "cosine"}),
    ((100_000, 64), "E2LSHIndex", {}), ((60_000, 128), "E2LSHIndex", {"n_tables": 4}),
    ((200_000, 24), "E2LSHIndex", {}), ((20_000, 384), "E2LSHIndex", {}), ((100_000, 64), "C2LSHIndex", {}),
    ((20_000, 384), "C2LSHIndex", {}),
    ((200_000, 24), "C2LSHIndex", {"n_hashes": 64}),
)  # fmt: skip
SIFT = (
    ("FlatIndex", {}), ("PQIndex", {"m": 16}), ("PQIndex", {"m": 25, "keep_vectors": True}),
    ("PQIndex", {"m": 16, "rotation": "opq"}), ("IVFPQIndex", {"n_lists": 1024, "m": 16}),
    ("IVFPQIndex", {"n_lists": None, "m": 25, "residual": False, "keep_vectors": True}),
    ("IVFPQIndex", {"n_lists": 1024, "m": 16, "refine": "sq8"}), ("IVFPQIndex", {"n_lists": 16_384, "m": 16}),
    ("E2LSHIndex", {}), ("C2LSHIndex", {}), ("PMLSHIndex", {}),
)  # fmt: skip
MINILM = (
    ("FlatIndex", {}), ("PQIndex", {"m": 48, "keep_vectors": True}), ("PQIndex", {"m": 48, "rotation": "opq"}),
    ("PQIndex", {"m": 48, "rotation": "pca", "refine": "sq4"}), ("IVFPQIndex", {"n_lists": 150, "m": 32}),
    ("IVFPQIndex", {"n_lists": None, "m": 48, "residual": False, "refine": "sq8"}),
    ("E2LSHIndex", {}), ("C2LSHIndex", {}), ("PMLSHIndex", {}),
)  # fmt: skip


def status(key: str) -> int:
    """A line of /proc/self/status in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def clustered(n: int, d: int) -> np.ndarray:
    """Made-up float32 rows in 1,000 clusters, of fewer dimensions than d."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(d // 3, d)).astype(np.float32)
    centres = 2 * rng.normal(size=(1000, d // 3)).astype(np.float32)
    X = np.empty((n, d), np.float32)
    for start in range(0, n, 10_000):
        part = X[start : start + 10_000]
        inner = centres[rng.integers(1000, size=len(part))] + rng.normal(size=(len(part), d // 3)).astype(np.float32)
        part[:] = inner @ basis + rng.normal(size=part.shape)
    return X


def build(case: tuple) -> dict:
    """Build an index in this process, and return what it takes."""
    data, kind, options, n_threads = case
    X = clustered(*data) if isinstance(data, tuple) else np.array(datasets.load(data).base)
    index = getattr(fpq, kind)(n_threads=n_threads, **options)
    fpq.PQIndex(4, rotation="pca", n_threads=n_threads).fit(X[:2000])  # starts threads
    ctypes.CDLL(None).malloc_trim(0)  # the system gets back what the allocator keeps
    Path("/proc/self/clear_refs").write_text("5")  # restarts the high-water mark
    before, start, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
    index.fit(X).add(X)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = status("VmHWM") - before
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder, "x.fpq"))
        size = Path(folder, "x.fpq").stat().st_size
    return {"n": len(X), "d": X.shape[1], "dtype": X.dtype.str, "wall": wall, "cpu": cpu,
            "nbytes": index.nbytes, "file": size, "peak": peak}  # fmt: skip


def built(case: tuple) -> dict:
    """As `build`, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(build, (case,))


def constants() -> None:
    """Print the constants that fit the CPU times of made-up vectors."""
    from scipy.optimize import nnls

    names, rows, times = list(building.SECONDS), [], []
    cases = [(*case, 1) for case in CODES]
    found = [built(case) for case in cases]
    for (data, kind, options, _), took in zip(cases, found, strict=True):
        amounts = building.work(getattr(fpq, kind)(**options), *data, np.dtype(np.float32))
        rows.append([amounts.get(name, 0) for name in names])
        times.append(took["cpu"])
    A, t = np.array(rows, float), np.array(times)
    A, scale = A / A.max(axis=0), A.max(axis=0)
    fitted, _ = nnls(A / t[:, None], np.ones(len(t)))
    for case, took, predicted in zip(cases, found, A @ fitted, strict=True):
        error = estimated(case, took)["peak"] / took["peak"] - 1
        seconds, peak = took["cpu"], took["peak"] / 1e6
        print(f"{seconds:7.2f} s {predicted / seconds - 1:+5.0%}  peak {peak:6.0f} MB {error:+5.0%} ", *case[:3])
    print("\n".join(f'    "{name}": {number:.2g},' for name, number in zip(names, fitted / scale, strict=True)))
    print(f"PROBE_SECONDS = {min(building.probe(1) for _ in range(20)):.3g}")


def estimated(case: tuple, took: dict) -> dict:
    """What `estimate` says about the index of `build`."""
    _, kind, options, n_threads = case
    found = fpq.estimate(took["n"], took["d"], getattr(fpq, kind)(n_threads=n_threads, **options), dtype=took["dtype"])
    return {
        "nbytes": found.nbytes,
        "file": found.file_nbytes,
        "peak": found.peak_nbytes,
        "seconds": found.build_seconds,
    }


def main() -> None:
    """Print a line per index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["check", "fit"], default="check")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--data", nargs="+", choices=["sift500k", "minilm"], default=["sift500k", "minilm"])
    args = parser.parse_args()
    if args.what == "fit":
        constants()
        return
    errors: dict[str, list[float]] = {}
    print("| data | index | MB | error | file | peak MB | error | build s | error |", "|---" * 9 + "|", sep="\n")
    if args.cpu:
        building.pace = lambda isa, n_threads: 1.0
    clock = "cpu" if args.cpu else "wall"
    for data in args.data:
        for kind, options in SIFT if data == "sift500k" else MINILM:
            case = (data, kind, options, args.threads)
            rounds = [built(case) for _ in range(args.rounds)]
            took = {**rounds[0], "seconds": min(each[clock] for each in rounds)}
            said = estimated(case, took)
            off = {name: said[name] / took[name] - 1 for name in said}
            for name, error in off.items():
                errors.setdefault(name, []).append(error)
            text = ", ".join(f"{name}={value!r}" for name, value in options.items())
            cells = (
                data, f"`{kind}({text})`",
                f"{took['nbytes'] / 1e6:.1f}", f"{off['nbytes']:+.1%}", f"{off['file']:+.1%}",
                f"{took['peak'] / 1e6:.0f}", f"{off['peak']:+.0%}", f"{took['seconds']:.2f}", f"{off['seconds']:+.0%}",
            )  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)
    for name, found in errors.items():
        sizes = [abs(error) for error in found]
        print(f"{name}: {min(found):+.1%} to {max(found):+.1%}, median of the sizes {statistics.median(sizes):.1%}")


if __name__ == "__main__":
    main()
