"""The demonstration: search of handwritten digits with codes of 16 bytes per image."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpq import FlatIndex, PQIndex, __version__, _files, cpu_info, datasets, metrics, progress

K = 100
N_ROWS, N_NEIGHBOURS = 12, 10
RECALL = "recall@k: the share of the k nearest images that are among the k images found."
NO_PICTURE = "No picture: matplotlib is missing; install it with pip install matplotlib."
NPY_FILES = ("base.npy", "base_labels.npy", "query.npy", "query_labels.npy")
IDX_FILES = tuple(datasets._MNIST_MD5)


class Digits(NamedTuple):
    """Images, flattened to one row each, and their digits."""

    base: NDArray[Any]
    base_labels: NDArray[Any]
    query: NDArray[Any]
    query_labels: NDArray[Any]


@dataclass(frozen=True)
class Row:
    """The cost and quality of one method. Recalls and accuracies are from 0 to 1.

    `bytes_per_image` is the size of a code, or of the pixels of an image for exact search. `index_bytes` is the size of
    the whole index, with codebooks and rotation.
    """

    name: str
    fit_s: float | None
    add_s: float
    search_s: float
    bytes_per_image: int
    index_bytes: int
    recall_at_1: float
    recall_at_10: float
    recall_at_100: float
    accuracy_1nn: float
    accuracy_5nn: float


def run(
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "fpq-demo.png",
    n_threads: int | None = None,
    *,
    as_json: bool = False,
) -> dict[str, Any]:
    """Compare exact search, plain PQ and FPQ on MNIST in a table and a picture.

    Parameters
    ----------
    data : path, optional
        Folder with the four MNIST files, or with ``base.npy``, ``base_labels.npy``, ``query.npy`` and
        ``query_labels.npy``. Default: MNIST from `fpq.datasets.load`, downloaded if necessary.
    out : path
        The ``.png`` file to write.
    n_threads : int, optional
        Threads of training and search. Default: all that the environment allows.
    as_json : bool
        Print the figures as JSON instead of the table.

    Returns
    -------
    dict
        The figures that are printed as JSON; "rows" holds one dict per method, see `Row`.

    Raises
    ------
    ValueError
        If `out` is not a ``.png`` file in an existing folder, or the data are not square images with labels.
    OSError
        If a file cannot be read, downloaded or written.
    """
    out = Path(out)
    if out.suffix.lower() != ".png" or not out.parent.is_dir():
        raise ValueError(f"out: expected a .png file in an existing folder, got {out}")
    digits = _load(data)
    machine = cpu_info()
    threads = n_threads or machine["threads"]
    if not as_json:
        print(
            f"fpq {__version__} on handwritten digits (MNIST): {len(digits.query):,} queries, "
            f"{len(digits.base):,} images; {machine['isa']}, threads: {threads}",
            flush=True,
        )
    rows, ids = _measure(digits, n_threads)
    if not as_json:
        print(f"\n{_table(rows)}\n\n{_words(rows)}", flush=True)
    drawn = _draw(digits, ids, rows, out)
    figures = {
        "version": __version__,
        "machine": machine,
        "threads": threads,
        "n_images": len(digits.base),
        "n_queries": len(digits.query),
        "k": ids.shape[1],
        "rows": [asdict(row) for row in rows],
        "picture": str(out) if drawn else None,
    }
    if not as_json:
        print(f"Picture: {out}" if drawn else NO_PICTURE)
        return figures
    if not drawn:
        print(NO_PICTURE, file=sys.stderr)
    print(json.dumps(figures, indent=2))
    return figures


def _load(folder: str | os.PathLike[str] | None) -> Digits:
    if folder is None:
        try:
            _, base, query, _, base_labels, query_labels = datasets.load("mnist")
        except FileNotFoundError:
            return _load(datasets.fetch_mnist())
        if base_labels is None or query_labels is None:
            raise ValueError("mnist: expected base_labels and query_labels, got a data set without labels")
        return Digits(base, base_labels, query, query_labels)
    folder = Path(folder)
    names = NPY_FILES if (folder / NPY_FILES[0]).is_file() else IDX_FILES
    digits = Digits(*(datasets.read_vectors(folder / name) for name in names))
    shapes = [array.shape for array in digits]
    n, nq, side = len(digits.base), len(digits.query), math.isqrt(shapes[0][-1])
    if shapes != [(n, side * side), (n,), (nq, side * side), (nq,)]:
        raise ValueError(f"{folder}: expected square images with one label each, got shapes {shapes}")
    return digits


def _measure(digits: Digits, n_threads: int | None) -> tuple[list[Row], NDArray[np.int64]]:
    """Measure the three methods; the ids are the results of the last one, FPQ."""
    n, dim = digits.base.shape
    fpq = PQIndex(m=16, rotation="opq", rotation_dim=64, open_indexing=1.5, n_threads=n_threads)
    methods: list[tuple[str, int, FlatIndex | PQIndex]] = [
        ("exact", dim * digits.base.itemsize, FlatIndex(n_threads=n_threads)),
        ("PQ m=8", 8, PQIndex(m=8, n_threads=n_threads)),
        ("FPQ m=16", 16, fpq),
    ]
    rows: list[Row] = []
    found: list[NDArray[np.int64]] = []
    long = n * len(digits.query) >= 10**7
    with progress.call("fpq demo", long), progress.stage("measurements", 8, "steps") as advance:

        def timed(call: Callable[..., Any], *args: Any, **kw: Any) -> tuple[float, Any]:
            start = time.perf_counter()
            result = call(*args, **kw)
            seconds = time.perf_counter() - start
            advance(1)
            return seconds, result

        for name, size, index in methods:
            fit_s = None
            if isinstance(index, PQIndex):
                fit_s, _ = timed(index.fit, digits.base)
            add_s, _ = timed(index.add, digits.base)
            search_s, (_, ids) = timed(index.search, digits.query, min(K, n), n_threads=n_threads)
            found.append(ids)
            quality = _judge(digits, ids, found[0])
            rows.append(Row(name, fit_s, add_s, search_s, size, index.nbytes, *quality))
    return rows, found[-1]


def _judge(digits: Digits, ids: NDArray[np.int64], truth: NDArray[np.int64]) -> list[float]:
    """Recall at 1, 10 and 100, and the accuracy of 1-NN and of a vote of 5."""
    labels = digits.base_labels[ids[:, :5]]
    return [
        *(metrics.recall_at_k(ids, truth, min(k, ids.shape[1])) for k in (1, 10, 100)),
        metrics.accuracy(labels[:, 0], digits.query_labels),
        metrics.accuracy(metrics.vote(labels), digits.query_labels),
    ]


def _table(rows: list[Row]) -> str:
    head = "fit s   add s  search s  bytes/image  recall@1  recall@10  recall@100    1-NN    5-NN"
    lines = [f"{'':11}{head}", "-" * 96]
    for row in rows:
        fit = "-" if row.fit_s is None else f"{row.fit_s:.2f}"
        lines.append(
            f"{row.name:8}{fit:>8}{row.add_s:8.2f}{row.search_s:10.2f}{row.bytes_per_image:13,}"
            f"{row.recall_at_1:10.3f}{row.recall_at_10:11.3f}{row.recall_at_100:12.3f}"
            f"{row.accuracy_1nn:8.2%}{row.accuracy_5nn:8.2%}"
        )
    return "\n".join(lines)


def _words(rows: list[Row]) -> str:
    exact, fpq = rows[0], rows[-1]
    ratio = exact.search_s / fpq.search_s
    speed = f"{ratio:.1f}x faster" if ratio >= 1 else f"{1 / ratio:.1f}x slower"
    return (
        f"{RECALL}\n"
        "1-NN, 5-NN: the share of digits classified correctly by the nearest image, by a vote of the 5 nearest.\n\n"
        f"FPQ: {fpq.bytes_per_image} bytes per image instead of {exact.bytes_per_image} "
        f"({exact.bytes_per_image / fpq.bytes_per_image:.0f}x smaller); "
        f"once fitted, {speed} than exact search.\n"
        f"The vote of 5 is right for {fpq.accuracy_5nn:.2%} of the digits with FPQ, "
        f"and for {exact.accuracy_5nn:.2%} with exact search."
    )


def _choose(wrong: NDArray[np.bool_], labels: NDArray[Any]) -> NDArray[np.int64]:
    """The first query of each digit, then queries with a wrong neighbour, then any."""
    _, firsts = np.unique(labels, return_index=True)
    order = np.concatenate([firsts, np.flatnonzero(wrong.any(axis=1)), np.arange(len(labels))])
    _, seen = np.unique(order, return_index=True)
    return order[np.sort(seen)][:N_ROWS]


def _draw(digits: Digits, ids: NDArray[np.int64], rows: list[Row], out: Path) -> bool:
    """Draw queries and their neighbours by FPQ; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError:
        return False
    ids = ids[:, :N_NEIGHBOURS]
    wrong = digits.base_labels[ids] != digits.query_labels[:, np.newaxis]
    chosen = _choose(wrong, digits.query_labels)
    side = math.isqrt(digits.base.shape[1])
    cell, gap = side + 6, side // 2
    lefts = [0, *range(gap + cell, gap + cell * (ids.shape[1] + 1), cell)]
    canvas = np.zeros((cell * len(chosen), lefts[-1] + cell))
    figure = Figure(figsize=(8, 9.6), facecolor="white")
    axes = figure.add_axes((0.03, 0.06, 0.94, 0.835))
    for top, query in zip(range(3, len(canvas), cell), chosen, strict=True):
        images = [digits.query[query], *digits.base[ids[query]]]
        for left, image, red in zip(lefts, images, [False, *wrong[query]], strict=True):
            canvas[top : top + side, left + 3 : left + 3 + side] = image.reshape(side, side)
            if red:
                corner, size = (left + 0.5, top - 2.5), side + 4
                axes.add_patch(Rectangle(corner, size, size, fill=False, ec="crimson", lw=1.6))
    axes.imshow(canvas, cmap="gray_r", interpolation="nearest")
    axes.set_axis_off()
    axes.axvline(cell + gap / 2, color="0.6", lw=0.8)
    for left, head in zip(lefts, ["query", *range(1, len(lefts))], strict=True):
        axes.text(left + cell / 2, -3, str(head), ha="center", va="bottom", fontsize=10)

    exact, fpq = rows[0], rows[-1]
    title = f"The nearest of {len(digits.base):,} handwritten digits, found by FPQ"
    figures = (
        f"{fpq.bytes_per_image} bytes per image instead of {exact.bytes_per_image}; recall@10 "
        f"{fpq.recall_at_10:.2f}: {fpq.recall_at_10:.0%} of the 10 nearest images are among the 10 found.\n"
        f"A vote of the 5 nearest is right for {fpq.accuracy_5nn:.2%} of the digits "
        f"(exact search: {exact.accuracy_5nn:.2%})."
    )
    caption = (
        "Queries: the first test image of each digit, then the first others with a wrong "
        f"neighbour.\nRed: a neighbour with another label, {wrong.mean():.1%} of the "
        f"{ids.shape[1]} nearest of all {len(ids):,} test images."
    )
    figure.text(0.5, 0.97, title, ha="center", fontsize=14, weight="bold")
    figure.text(0.5, 0.923, figures, ha="center", fontsize=10, linespacing=1.4)
    figure.text(0.5, 0.02, caption, ha="center", fontsize=9.5, color="0.25", linespacing=1.4)
    with _files.replacing(out) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": f"fpq {__version__}"})
    return True
