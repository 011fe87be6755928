"""Handwritten digits in a scikit-learn pipeline: KNeighborsClassifier beside fpq's ANNClassifier.

    pip install '.[sklearn]'                # in a checkout of fpq
    python examples/mnist_pipeline.py

Each model is fitted and asked in a process of its own. Time is that of fit and predict together; memory is the peak of
the process above what it held with the data loaded, measured on Linux.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import time

from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from fpq import datasets
from fpq.sklearn import ANNClassifier

MODELS = {
    "KNeighborsClassifier": lambda: make_pipeline(FunctionTransformer(), KNeighborsClassifier(n_neighbors=5)),
    "ANNClassifier": lambda: make_pipeline(
        FunctionTransformer(),  # here stands what prepares your data
        ANNClassifier(n_neighbors=5, algorithm="pq", m=16, rotation="pca", rotation_dim=64, rerank=None),
    ),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="training images to use (default: all 60,000)")
    rows = parser.parse_args().rows
    print(f"{'':22}{'fit s':>8}{'predict s':>11}{'peak MB':>9}{'model MB':>10}{'accuracy':>10}")
    spawn = multiprocessing.get_context("spawn")
    for name in MODELS:
        with spawn.Pool(1) as pool:
            fit, predict, peak, size, accuracy = pool.apply(measure, (name, rows))
        peak_mb = "-" if peak is None else f"{peak / 1e6:.0f}"
        print(f"{name:22}{fit:8.2f}{predict:11.2f}{peak_mb:>9}{size / 1e6:10.1f}{accuracy:10.2%}")


def measure(name: str, rows: int | None) -> tuple[float, float, float | None, int, float]:
    """Seconds of fit and of predict, peak bytes above the data, pickled bytes, accuracy."""
    mnist = datasets.load("mnist")
    base, labels = mnist.base[:rows], mnist.base_labels[:rows]
    model = MODELS[name]()
    model.fit(base[:1000], labels[:1000]).predict(mnist.query[:10])  # loads the libraries
    before = memory("VmRSS")
    forget_peak()
    start = time.perf_counter()
    model.fit(base, labels)
    fitted = time.perf_counter()
    predicted = model.predict(mnist.query)
    done = time.perf_counter()
    peak = memory("VmHWM")
    grown = None if peak is None or before is None else peak - before
    accuracy = float((predicted == mnist.query_labels).mean())
    return fitted - start, done - fitted, grown, len(pickle.dumps(model)), accuracy


def memory(name: str) -> int | None:
    """A line of /proc/self/status, in bytes; None where there is no such file."""
    if not os.path.exists("/proc/self/status"):
        return None
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def forget_peak() -> None:
    """Start VmHWM anew."""
    if os.path.exists("/proc/self/clear_refs"):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")


if __name__ == "__main__":
    main()
