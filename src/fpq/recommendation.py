"""A configured index for the shape of the data, a recall and a budget of bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fpq import _bfloat16, _checks, _native, building, tuning
from fpq._checks import Array, Rows
from fpq.blocks import on_dask
from fpq.estimation import element_type, estimated_nbytes, readable_seconds
from fpq.indexes import FlatIndex, IVFPQIndex, PQIndex
from fpq.indexes.parts.refinement import RefineName
from fpq.indexes.parts.vectors import kept_type
from fpq.learning.defaults import default_lists, default_m
from fpq.metric import METRICS, NAMES_ELSEWHERE, MetricName

FLAT_ROWS = 10_000  # an exact search of at most this many rows is fast
PQ_ROWS = 20_000  # at most this many rows have no inverted lists
LIST_ROWS = 256  # vectors per list at least: on MiniLM (40,000 vectors), longer lists are as fast in fewer bytes
SAMPLE_ROWS = 4096
DEFAULT_RECALL = 0.95

# recall@10 of codes alone, by dimensions per code: rounded down from bench/widths.py for 2, 4 and 8 dimensions, of SIFT
# and MiniLM (WIDE) and of GloVe-50 (NARROW); guesses for 16 and 32.
WIDE = {2: 0.85, 4: 0.7, 8: 0.55, 16: 0.35, 32: 0.2}
NARROW = {2: 0.75, 4: 0.4, 8: 0.15, 16: 0.05, 32: 0.05}  # fewer than NARROW_DIM dimensions, which are hardly redundant
NARROW_DIM = 100
REFINED_RECALL: dict[RefineName, float] = {"sq8": 0.97, "sq4": 0.95}  # rounded down from bench/pareto.py
# Instruction sets that scan 8-bit codes at least as fast as 4-bit codes of the same recall: AVX-512 with VBMI looks up
# one of 256 entries per lane, plain C one entry at a time. The others look up one of 16 per lane (bench/bits.py).
EIGHT_BITS = "avx512", "scalar"
KEPT_RECALL = 0.99  # with kept vectors and `tune`: what users may ask for, not what every data set reaches

Make = Callable[..., FlatIndex | PQIndex | IVFPQIndex]


@dataclass(frozen=True)
class Recommendation:
    """An index that fits the data, and why. `print` shows all of it.

    Attributes
    ----------
    index : FlatIndex, PQIndex or IVFPQIndex
        Configured, not trained.
    bytes_per_vector : float
        Estimated `nbytes` of the index per vector.
    nbytes : int
        Estimated `nbytes` of the index with all vectors: mostly within 3 %.
    build_seconds : float
        Estimated seconds of `fit` and `add` on this machine, as `estimate` gives them.
    reasons : tuple of str
        Why, and what to do next.
    """

    index: FlatIndex | PQIndex | IVFPQIndex
    bytes_per_vector: float
    nbytes: int
    build_seconds: float
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        size = f"{self.nbytes:,} bytes, {self.bytes_per_vector:.1f} per vector"
        head = [repr(self.index), f"about {size}; built in about {readable_seconds(self.build_seconds)}"]
        return "\n".join([*head, *(f"- {reason}" for reason in self.reasons)])


@dataclass(frozen=True)
class Option:
    """A way to store the vectors."""

    recall: float  # that it is expected to reach
    make: Make
    dtype: np.dtype[Any]  # of the rows to add
    reasons: tuple[str, ...]


def recommend(
    X: Rows | tuple[int, int],
    *,
    metric: MetricName = "l2",
    recall: float | None = None,
    bytes_per_vector: float | None = None,
    dtype: DTypeLike | None = None,
) -> Recommendation:
    """An index that reaches a recall within a budget of bytes.

    The choice follows from the number of vectors, their dimension and element type, and the instruction set of this
    machine, by rules that were measured on a few data sets. It replaces no measurement: call `tune` of the index, which
    does measure.

    Parameters
    ----------
    X : array (n, d), or the tuple (n, d)
        The vectors to be added, or their shape. A Dask array counts as its shape. A sample of an array is read: whole
        numbers from 0 to 255 can be kept as uint8, and numbers up to 65,504 as float16.
    metric : {"l2", "ip", "cosine"}, default "l2"
    recall : float, optional
        The share of the true neighbours to be found, from 0 to 1. Default: 0.95. Codes alone are recommended where they
        are expected to reach it, an exact index for 1.
    bytes_per_vector : float, optional
        The most that `nbytes` of the index may be per vector. Default: no limit.
    dtype : dtype, optional
        The element type of the vectors. Default: that of X, float32 for a shape.

    Returns
    -------
    Recommendation
        If no index reaches the recall within the budget, the one that comes nearest; `reasons` then says so.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described, or no index fits the budget. The message gives the smallest.

    Examples
    --------
    >>> import fpq
    >>> recommended = fpq.recommend((1_000_000, 128), recall=0.95, dtype="uint8")
    >>> recommended.index.n_lists, recommended.index.keep_vectors
    (1500, True)
    """
    metric = _checks.choice("metric", metric, tuple(METRICS), NAMES_ELSEWHERE)
    wanted = DEFAULT_RECALL if recall is None else tuning.recall_target(recall)
    budget = None if bytes_per_vector is None else _checks.positive("bytes_per_vector", bytes_per_vector)
    rows: Any = X
    if on_dask(rows):
        dtype, rows = rows.dtype if dtype is None else dtype, rows.shape
    n, d, sample = _described(rows)
    kind = _dtype(dtype, sample)
    found = [
        (option, index, estimated_nbytes(index, n, d, option.dtype))
        for option in _options(n, d, kind, metric, sample)
        for index in [option.make(metric=metric)]
    ]
    fitting = [each for each in found if budget is None or each[2] <= budget * n]
    if not fitting:
        least = min(size for _, _, size in found) / n
        raise ValueError(f"bytes_per_vector: expected at least {least:.1f} for {n:,} x {d}, got {budget:g}")
    reaching = [each for each in fitting if each[0].recall >= wanted]
    listed = [each for each in fitting if n <= PQ_ROWS or not isinstance(each[1], PQIndex)] or fitting
    option, index, size = reaching[0] if reaching else max(listed, key=lambda each: each[0].recall)
    reasons = [*option.reasons, *_budget_reasons(option, wanted, budget, bool(reaching))]
    added = "X" if sample is not None and option.dtype == sample.dtype else f"X as {_bfloat16.name_of(option.dtype)}"
    if isinstance(index, FlatIndex):
        reasons.append(f"next: add({added}); an exact index needs no fit and no tune")
    else:
        known = "" if index.keep_vectors else ", X=X"
        tune = f", then tune(Q, recall={wanted:g}{known}) with queries that are not among the vectors"
        reasons.append(f"next: fit(X), add({added}){tune if reaching else ''}")
    return Recommendation(index, size / n, size, building.seconds(index, n, d, option.dtype), tuple(reasons))


def _described(X: Any) -> tuple[int, int, Array | None]:
    """The shape of X, and a sample of its rows; None if X is a shape."""
    if isinstance(X, tuple) and all(np.ndim(each) == 0 for each in X):
        if len(X) != 2:
            raise ValueError(f"X: expected an array or a shape (n, d), got {X!r}")
        return _checks.integer("n", X[0], 1), _checks.integer("d", X[1], 1), None
    array = _checks.plain("X", X)
    sample = _checks.vectors("X", array[:: max(1, len(array) // SAMPLE_ROWS)] if array.ndim else array, min_rows=1)
    return len(array), sample.shape[1], sample


def _dtype(dtype: DTypeLike | None, sample: Array | None) -> np.dtype[Any]:
    """The element type in which vectors are kept."""
    given = np.dtype(np.float32 if sample is None else sample.dtype) if dtype is None else element_type(dtype)
    return kept_type(given, unit_length=False)


def _options(n: int, d: int, dtype: np.dtype[Any], metric: str, sample: Array | None) -> list[Option]:
    """All ways to store n vectors: the first that reaches the recall is recommended.

    Ways that store more follow those that store less, but vectors are kept in their own type if possible.
    """
    exact = (f"exact search: {n:,} vectors are few" if n <= PQ_ROWS else "exact search: slow for so many vectors",)
    kept = _kept_types(dtype, metric, sample)
    options = [] if n <= FLAT_ROWS else [_codes(n, d, width) for width in (32, 16, 8, 4, 2) if d >= width or width == 2]
    if n > FLAT_ROWS:
        for each, note in kept:
            for m, nbits, why in _kept_sizes(d, metric):
                reasons = (
                    f"m = {m}: {why}",
                    *_lists_reasons(n),
                    "kept vectors: re-ranking finds what codes miss",
                    note,
                )
                make = partial(_make, n, m=m, nbits=nbits, keep_vectors=True)
                options.append(Option(KEPT_RECALL, make, each, reasons))
        options += [
            _refined(n, d, dtype, refine) for refine in REFINED_RECALL if refine == "sq4" or kept[0][0].itemsize > 1
        ]
    rounded = np.dtype(np.float16)
    flat = [Option(0.9996 if each == rounded != dtype else 1.0, FlatIndex, each, (*exact, note)) for each, note in kept]
    few = [_codes(n, d, width) for width in (2, 4, 8, 16, 32) if d >= width or width == 2] if n <= FLAT_ROWS else []
    # Lists store an id of 8 bytes per vector. A scan of all codes is for budgets that lists do not fit.
    scans = [_codes(n, d, width, lists=False) for width in (8, 16, 32) if d >= width] if n > PQ_ROWS else []
    return [*options, *flat, *few, *scans]


def _kept_types(dtype: np.dtype[Any], metric: str, sample: Array | None) -> list[tuple[np.dtype[Any], str]]:
    """The element types in which vectors can be kept, best first, and a line about each."""
    if metric == "cosine" and dtype.kind in "iub":
        dtype = np.dtype(np.float32)
    if dtype != np.float32:
        return [(dtype, f"vectors are kept as {_bfloat16.name_of(dtype)}")]
    types = [(dtype, "vectors are kept as float32")]
    whole = sample is not None and bool(((sample >= 0) & (sample <= 255) & (sample == np.floor(sample))).all())
    if whole and metric != "cosine":
        types.insert(
            0, (np.dtype(np.uint8), "the sample has whole numbers from 0 to 255 only: uint8 keeps them exactly")
        )
    elif metric == "cosine" or sample is None or float(np.abs(sample).max()) <= float(np.finfo(np.float16).max):
        types.append((np.dtype(np.float16), "vectors are kept as float16, rounded to 3 decimal digits"))
    return types


def _codes(n: int, d: int, width: int, lists: bool = True) -> Option:
    """Codes alone, with `width` dimensions per code."""
    m = max(1, -(-d // width))
    recall = (NARROW if d < NARROW_DIM else WIDE)[width]
    why = _lists_reasons(n) if lists else (f"no lists, to save their ids: a search scans all {n:,} codes",)
    make = partial(_make, n, m=m) if lists else partial(PQIndex, m)
    reasons = (f"codes alone, m = {m}: a recall of about {recall:g} is to be expected", *why)
    return Option(recall, make, np.dtype(np.float32), reasons)


def _refined(n: int, d: int, dtype: np.dtype[Any], refine: RefineName) -> Option:
    """Codes with refinement codes."""
    recall, m = REFINED_RECALL[refine], default_m(d)
    reasons = (
        f"m = {m}: {_m_reason(d)}",
        *_lists_reasons(n),
        f'refine = "{refine}" instead of kept vectors, to save bytes: a recall of about {recall:g} is to be expected',
    )
    return Option(recall, partial(_make, n, m=m, refine=refine), dtype, reasons)


def _make(n: int, *, metric: MetricName, **options: Any) -> PQIndex | IVFPQIndex:
    if n <= PQ_ROWS:
        return PQIndex(metric=metric, **options)
    alone = options.keys() == {"m"}  # codes of residuals are more accurate, plain codes faster
    return IVFPQIndex(_n_lists(n), residual=alone, metric=metric, **options)


def _kept_sizes(d: int, metric: str) -> list[tuple[int, int, str]]:
    """Numbers of subquantizers beside kept vectors, their bits, and why; the fastest first."""
    sizes, isa = byte_codes(d, metric), _native.isa()
    if isa in EIGHT_BITS:
        return [(m, 8, why) for m, why in sizes]
    return [(fewer_bits(m, d), 4, f"of 4 bits, faster with {isa} than {m} of 8 bits ({why})") for m, why in sizes]


def byte_codes(d: int, metric: str) -> list[tuple[int, str]]:
    """Numbers of subquantizers of 8 bits beside kept vectors, and why; the fastest first."""
    if d >= NARROW_DIM:
        fewer = [(d // 8, "an eighth of the dimensions, to save bytes")] if d // 8 < default_m(d) else []
        return [(default_m(d), _m_reason(d)), *fewer]
    third = -(-d // 3)
    if METRICS[metric].inner_product and third < default_m(d):
        return [(third, "3 dimensions per code: faster than 2 for inner products, whose codes weigh errors")]
    return [(default_m(d), _m_reason(d))]


def fewer_bits(m: int, d: int) -> int:
    """The number of subquantizers of 4 bits that take the place of m of 8 bits, in three quarters of the bytes."""
    return min(d, -(-3 * m // 2))


def _m_reason(d: int) -> str:
    if d >= 200:
        return "an eighth of the dimensions is enough for re-ranking"
    if d <= 50:
        return "2 dimensions per code: vectors of few dimensions are hardly redundant"
    return "fewer codes need more re-ranking in vectors of fewer than 200 dimensions"


def _lists_reasons(n: int) -> tuple[str, ...]:
    if n <= PQ_ROWS:
        return (f"no lists: scanning {n:,} codes is fast",)
    why = "1.5 times the square root of" if _n_lists(n) == default_lists(n) else f"about {LIST_ROWS} vectors each, of"
    return (f"n_lists = {_n_lists(n):,}: {why} {n:,} vectors",)


def _n_lists(n: int) -> int:
    """The number of lists: shorter lists waste memory, as lists are stored in blocks of 64 rows."""
    return min(default_lists(n), max(1, n // LIST_ROWS))


def _budget_reasons(option: Option, wanted: float, budget: float | None, reached: bool) -> list[str]:
    if budget is None:
        return []
    if reached:
        return [f"fits {budget:g} bytes per vector"]
    return [
        f"no index is expected to reach a recall of {wanted:g} in {budget:g} bytes per vector: this one comes nearest"
    ]
