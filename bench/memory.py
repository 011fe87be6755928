"""Peak memory of fit and add above the input, for MNIST and inverted lists: ``python bench/memory.py`` (Linux)."""

import multiprocessing
from pathlib import Path

import numpy as np

import fpq
from fpq import datasets

CONFIGURATIONS = {
    "PQIndex(8)": {"m": 8},
    "PQIndex(16)": {},
    "PQIndex(16, rotation='pca', rotation_dim=64)": {"rotation": "pca", "rotation_dim": 64},
    "the demo's": {"rotation": "opq", "rotation_dim": 64, "open_indexing": 1.5},
}


def status(key: str) -> float:
    """A line of /proc/self/status in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1000


def measure(case: tuple[str, str]) -> str:
    """One line of the table."""
    dtype, name = case
    images = datasets.load("mnist").base
    X = np.array(images, dtype=dtype).reshape(len(images), -1)
    del images
    Path("/proc/self/clear_refs").write_text("5")  # restarts the high-water mark
    before = status("VmRSS")
    fpq.PQIndex(**CONFIGURATIONS[name]).fit(X).add(X)
    return f"{X.nbytes / 1e6:4.0f} MB of {dtype:7}  {status('VmHWM') - before:4.0f} MB above it  {name}"


def clustered(n: int, d: int) -> np.ndarray:
    """Made-up float32 rows in 2,000 clusters."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2000, d)).astype(np.float32) * 2
    X = np.empty((n, d), np.float32)
    for start in range(0, n, 10_000):
        part = X[start : start + 10_000]
        part[:] = centres[rng.integers(2000, size=len(part))] + rng.normal(size=part.shape)
    return X


def measure_lists(_: object) -> str:
    """A line for 1,000,000 rows of 96 dimensions in 4,096 inverted lists."""
    X = clustered(1_000_000, 96)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    index = fpq.IVFPQIndex(4096).fit(X)
    fitted = status("VmHWM") - before
    index.add(X)
    above, codes = status("VmHWM") - before, len(index) * index.quantizer.code_size / 1e6
    return (
        f"{X.nbytes / 1e6:4.0f} MB of float32  {above:4.0f} MB above it ({fitted:.0f} in fit), codes {codes:.0f} MB  "
        "IVFPQIndex(4096)"
    )


def main() -> None:
    """Print one line an element type and index, each measured in a process of its own."""
    cases = [(dtype, name) for dtype in ("uint8", "float32") for name in CONFIGURATIONS]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for line in pool.imap(measure, cases, chunksize=1):
            print(line)
        print(pool.apply(measure_lists, (None,)))


if __name__ == "__main__":
    main()
