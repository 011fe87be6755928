"""The cost of building an index, from its options and the shape of the data: the peak memory, and the time."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import numpy as np

from fpq import _native, threads
from fpq._checks import KERNEL_TYPES
from fpq.indexes import C2LSHIndex, E2LSHIndex, FlatIndex, IVFPQIndex, PMLSHIndex, PQIndex
from fpq.indexes.e2lsh import table_count
from fpq.indexes.lsh import NEIGHBOUR_QUERIES, NEIGHBOUR_ROWS, SAMPLE_ROWS
from fpq.indexes.parts.coarse import N_ITER, rows_per_list
from fpq.indexes.parts.refinement import BITS, forms_of
from fpq.indexes.parts.sketches import sketch_size
from fpq.indexes.parts.two_level import ASSIGN_CELLS, LEAST_LISTS
from fpq.indexes.parts.vectors import kept_type
from fpq.learning.anisotropic import N_ITER as ANISOTROPIC_ITERATIONS
from fpq.learning.defaults import default_lists, default_m
from fpq.learning.kmeans import SEED_ROWS, even_offsets
from fpq.learning.lloyd import Bounds
from fpq.learning.quantizer import CHUNK_ROWS
from fpq.learning.rotation import BLOCK_ROWS, OPQ_POINTS_PER_CENTROID, OPQ_ROUNDS, SUM_BYTES
from fpq.learning.steps import ROUNDS as REFINE_ROUNDS
from fpq.learning.steps import TRAINING_ROWS
from fpq.metric import METRICS

AnyLSHIndex = E2LSHIndex | C2LSHIndex | PMLSHIndex
AnyIndex = FlatIndex | PQIndex | IVFPQIndex | AnyLSHIndex
E2LSH_HASHES = 12  # the guess for `n_hashes`, if `fit` chooses it from the vectors

# Seconds per unit of `work` with one thread of an AMD EPYC (Zen 4, AVX-512), fitted by `python bench/estimates.py fit`
# on other data than those of the errors in docs/choosing.md.
SECONDS = {
    "copied byte": 1.2e-9,
    "seeded value": 1.0e-9,
    "training value": 4.4e-8,
    "training code": 5.0e-7,
    "encoded code": 7.1e-9,
    "anisotropic code": 5.2e-8,
    "anisotropic value": 2.4e-8,
    "assigned value": 5.2e-12,
    "placed row": 1.5e-6,
    "rotated value": 3.1e-11,
    "decomposed value": 7.6e-11,
    "opq value": 5.3e-7,
    "refinement value": 1.4e-8,
    "refined value": 2.2e-8,
    "trellis value": 3.8e-8,
    "hashed value": 8.5e-11,
    "sorted entry": 1.2e-7,
}

SERIAL = {"copied byte", "placed row", "decomposed value"}  # work that gains little by threads

FIXED_BYTES = 3 << 20  # of the process beside the arrays: stacks, and what the allocator keeps

PROBE_ROWS, PROBE_DIM, PROBE_CODES, PROBE_RUNS = 1 << 12, 64, 8, 8  # a short run is less often disturbed
PROBE_SECONDS = 1.84e-3  # of a run on the machine of SECONDS


def codebook_sizes(index: PQIndex | IVFPQIndex, d: int) -> tuple[int, int, int]:
    """The numbers of codebooks, of their centroids, and of dimensions after the rotation, as `fit` chooses them."""
    pq, local = index.quantizer, index._rotation_dim if isinstance(index, IVFPQIndex) else None
    width = local or pq.rotation_dim or d
    return default_m(width) if pq.m is None else pq.m, 1 << pq.nbits, width


def hash_functions(index: AnyLSHIndex, n: int, d: int) -> tuple[int, int]:
    """The numbers of tables and of hash functions in all tables, as `fit` chooses them."""
    if not isinstance(index, E2LSHIndex):
        return 0, index.n_hashes
    n_tables = table_count(n, d, index.n_tables, index.memory_limit)
    return n_tables, n_tables * (index.n_hashes or E2LSH_HASHES)


# ---- time ----


def seconds(index: AnyIndex, n: int, d: int, dtype: np.dtype[Any]) -> float:
    """The estimated seconds of `fit` and `add` on this machine."""
    isa, n_threads = _native.isa(), threads.resolve(index.n_threads)
    return sum(
        SECONDS[name] * amount * pace(isa, 1 if name in SERIAL else n_threads)
        for name, amount in work(index, n, d, dtype).items()
    )


@functools.cache
def pace(isa: str, n_threads: int) -> float:
    """The time of this machine relative to SECONDS, with the instruction set `isa`, which is in use."""
    measured = probe(n_threads) / PROBE_SECONDS
    return measured if n_threads == 1 else min(measured, pace(isa, 1))  # other load delays several threads most


def probe(n_threads: int) -> float:
    """The seconds that some rows take to find their nearest centroids in some codebooks."""
    rng = np.random.default_rng(0)
    x = rng.random((PROBE_ROWS, PROBE_DIM), np.float32)
    codebooks = rng.random((PROBE_CODES, 256, PROBE_DIM // PROBE_CODES), np.float32)
    ids, offsets = np.empty((PROBE_CODES, PROBE_ROWS), np.int32), even_offsets(PROBE_DIM, PROBE_CODES)
    times = []
    for _ in range(PROBE_RUNS):
        start = time.perf_counter()
        _native.assign(codebooks, offsets, x, None, ids, None, n_threads)
        times.append(time.perf_counter() - start)
    return min(times)


def work(index: AnyIndex, n: int, d: int, dtype: np.dtype[Any]) -> dict[str, float]:
    """The amounts of work of `fit` and `add`, by the names in SECONDS."""
    units: dict[str, float] = {}
    size = kept_type(dtype, unit_length=METRICS[index.metric].unit_length).itemsize
    if isinstance(index, FlatIndex):
        units["copied byte"] = n * d * size
        return units
    if isinstance(index, AnyLSHIndex):
        n_tables, columns = hash_functions(index, n, d)
        units["copied byte"] = n * d * size
        units["hashed value"] = n * d * (columns + sketch_size(d))
        if not isinstance(index, PMLSHIndex) and index.width is None:
            units["hashed value"] += NEIGHBOUR_QUERIES * min(n, NEIGHBOUR_ROWS) * d
        units["sorted entry"] = n_tables * n
        units["rotated value"] = min(n, SAMPLE_ROWS) * d * d if sketch_size(d) else 0
        units["decomposed value"] = d**3 if sketch_size(d) else 0
        return units
    _add_codes(units, index, n, d, size)
    if isinstance(index, IVFPQIndex):
        n_lists = index.n_lists or default_lists(n)
        compared = n_lists if n_lists < LEAST_LISTS else 64 * math.isqrt(n_lists)
        trained = min(n, n_lists * rows_per_list(n_lists))
        units["assigned value"] = (trained * N_ITER + n) * compared * d
        units["placed row"] = n
        if index.local_rotations:
            units["rotated value"] = (2 * trained + n) * d * (index._rotation_dim or d)
            units["decomposed value"] = n_lists * d**3
    return units


def _add_codes(units: dict[str, float], index: PQIndex | IVFPQIndex, n: int, d: int, size: int) -> None:
    """Add the work of codebooks, rotation, codes, refinement codes and kept vectors."""
    pq = index.quantizer
    m, k, width = codebook_sizes(index, d)
    rows, share, prepared = min(n, pq.max_training_rows), k / 256, 4 * METRICS[index.metric].unit_length
    units["training value"] = rows * width * share
    units["training code"] = rows * m
    units["seeded value"] = min(rows, SEED_ROWS * k) * k * width if pq.init == "k-means++" else 0
    units["encoded code"] = n * m
    if index.anisotropy > 1:
        descents = n + (ANISOTROPIC_ITERATIONS + 1) * rows
        units["anisotropic code"] = descents * m * share
        units["anisotropic value"] = (descents + ANISOTROPIC_ITERATIONS * rows) * width
    units["copied byte"] = n * d * (size if index.keep_vectors is True else 0) + n * d * prepared
    if pq.rotation is not None:
        units["rotated value"] = (n + rows) * d * width + rows * d * d
        units["decomposed value"] = d**3
    if pq.rotation == "opq":
        sample = min(rows, OPQ_POINTS_PER_CENTROID * k)
        units["rotated value"] += 2 * OPQ_ROUNDS * sample * width * width
        units["decomposed value"] += 2 * OPQ_ROUNDS * width**3  # a singular value decomposition takes longer
        units["opq value"] = sample * width * share
    if index.refine == "sq4":  # a round of learning codes the sample; levels and steps take about one more
        units["trellis value"] = (n + (REFINE_ROUNDS + 1) * min(rows, TRAINING_ROWS)) * width
    elif index.refine is not None:
        units["refinement value"] = min(rows, TRAINING_ROWS) * width
        units["refined value"] = n * width


# ---- memory ----


def peak_nbytes(index: AnyIndex, n: int, d: int, dtype: np.dtype[Any], nbytes: int) -> int:
    """The largest memory of `fit` and `add`, without X, of an index that takes `nbytes` in the end."""
    other = FIXED_BYTES + (0 if dtype in KERNEL_TYPES else 4 * n * d)
    size = dtype.itemsize if dtype in KERNEL_TYPES else 4
    numbers = 8 * n  # the ids of the new rows
    if isinstance(index, FlatIndex):
        return other + nbytes + numbers
    n_threads = threads.resolve(index.n_threads)
    if isinstance(index, AnyLSHIndex):
        n_tables, columns = hash_functions(index, n, d)
        sketches = sketch_size(d)
        fit = (18 if sketches else 8) * min(n, SAMPLE_ROWS) * d
        fit += NEIGHBOUR_ROWS * d * size if n > NEIGHBOUR_ROWS else 0
        if not isinstance(index, E2LSHIndex):
            add = n * (columns + sketches + 8)
        else:  # the new entries and a copy, the sketches by row, and what each thread sorts
            add = 16 * n * n_tables + 2 * n * sketches + 16 * n * min(n_threads, n_tables)
        return other + max(fit, nbytes + numbers + add)
    return other + max(_fit_nbytes(index, n, d, size, n_threads), nbytes + numbers + _add_nbytes(index, n, d))


def _add_nbytes(index: PQIndex | IVFPQIndex, n: int, d: int) -> int:
    """The largest memory of `add`, without the index and the numbers of the rows."""
    m, _, width = codebook_sizes(index, d)
    residual = isinstance(index, IVFPQIndex) and index.residual
    prepared = METRICS[index.metric].unit_length or index.quantizer.rotation is not None or residual
    chunk = (m * index.quantizer.nbits + 7) // 8 + (4 * width if prepared else 0)
    if index.refine is not None:
        forms = forms_of(width, BITS[index.refine], index.refine == "sq4").values()
        chunk += (8 if residual else 4) * width
        chunk += sum(np.dtype(dtype).itemsize * math.prod(shape) for shape, dtype in forms)
    if index.anisotropy > 1:
        chunk += 8 + 4 * d + (4 * width if index.quantizer.rotation is not None else 0)
    chunk *= 2 if n > CHUNK_ROWS else 1  # the next chunk is prepared while the last is held
    chunk += 4 * m + (4 * width if index.refine is not None else 0)
    return min(n, CHUNK_ROWS) * chunk + (12 * n if isinstance(index, IVFPQIndex) else 0)


def _fit_nbytes(index: PQIndex | IVFPQIndex, n: int, d: int, size: int, n_threads: int) -> int:
    """The largest memory of `fit` of rows whose numbers take `size` bytes."""
    pq, unit_length = index.quantizer, METRICS[index.metric].unit_length
    m, k, width = codebook_sizes(index, d)
    rows = min(n, pq.max_training_rows)
    share = -(-width // m)
    held, copied, lists = 0, 4 * rows * d if unit_length else 8 * rows, 0
    if isinstance(index, IVFPQIndex):
        n_lists = index.n_lists or default_lists(n)
        trained = min(n, n_lists * rows_per_list(n_lists))
        sample = max(rows, trained)
        held = sample * d * (4 if unit_length else size) if unit_length or sample < n else 0
        lists = 8 * sample + _lloyd_nbytes(1, n_lists, d, trained)
        if n_lists >= LEAST_LISTS:
            lists = 12 * sample + CHUNK_ROWS * (8 * d + 24 * ASSIGN_CELLS)
        copied = 4 * rows * d if index.residual else 0
        lists = max(lists, copied + (rows * d * size if copied and rows < n else 0))
    lloyd = _lloyd_nbytes(m, k, share, rows)
    if pq.init == "k-means++":
        lloyd += 4 * min(rows, SEED_ROWS * k) * d
    if pq.rotation is not None:
        copied += 4 * rows * width
        learned = n_threads * 4 * (BLOCK_ROWS * d + d * d) + 40 * d * d
        learned += 8 * d * d * min(-(-rows // BLOCK_ROWS), max(2, SUM_BYTES // (8 * d * d)))
        if pq.rotation == "opq":
            sample = min(rows, OPQ_POINTS_PER_CENTROID * k)
            correlations = 4 * -(-sample // BLOCK_ROWS) * width * width
            learned += 8 * sample * width + _lloyd_nbytes(m, k, share, sample) + correlations + 64 * width * width
        lloyd = max(lloyd, learned)
    if index.anisotropy > 1:
        lloyd = max(lloyd, rows * (12 * width + 12 * m + 24 * share * n_threads))
    refinement = 0 if index.refine is None else 20 * min(rows, TRAINING_ROWS) * width
    return held + max(lists, copied + max(lloyd, refinement))


def _lloyd_nbytes(m: int, k: int, dsub: int, n: int) -> int:
    """The memory of Lloyd iterations on n rows: assignments, errors, bounds, sums, the order of the rows."""
    chunks = -(-n // _native.kmeans_chunk_rows(m, k, dsub, n))
    groups = Bounds.groups((m, k, dsub), n)
    return 8 * m * n + 2 * m * n * groups + 4 * m * chunks * k * (dsub + 1) + 16 * n
