"""The compiled module (csrc/fpq.h says what the functions compute)."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from fpq._checks import Array, Float32, Float64, Int32, Int64, UInt8, UInt16, UInt32, UInt64

_IdEntries = tuple[UInt8, int, int, bool]

L2: int
IP: int
CANDIDATES_PER_ROUND: int
CENTROIDS_PER_ROUND: int

def features() -> dict[str, int]: ...
def isa() -> str: ...
def isas() -> tuple[str, ...]: ...
def use_isa(name: str) -> None: ...
def has_openmp() -> bool: ...
def max_threads() -> int: ...
def after_fork() -> None: ...
def trace(log: Float32 | None) -> int: ...
def first_nonfinite_row(x: Array, threads: int) -> int: ...
def largest(x: Array, threads: int) -> float: ...
def copy_rows(x: Array, rows: Int64 | None, out: Array, threads: int) -> None: ...
def normalize(x: Array, out: Float32, threads: int) -> None: ...
def append_lengths(x: Array, factor: float, out: Float32, threads: int) -> None: ...
def add_centroids(
    x: Array, centroids: Float32, labels: Int32 | None, sign: float, out: Float32, threads: int
) -> None: ...
def packed_size(k: int, d: int) -> int: ...
def pack(columns: Float32, d: int, out: Float32) -> None: ...
def project(x: Array, packed: Float32, out: Float32, threads: int) -> None: ...
def assign(
    centroids: Float32, offsets: Int32, x: Array, rows: Int64 | None, ids: Int32, errors: Float32 | None, threads: int
) -> None: ...
def assign_in_cells(
    centroids: Float32, first: Int64, members: Int64, x: Float32, of_rows: Int64, ids: Int32, threads: int
) -> None: ...
def move_to_means(x: Float32, first: Int64, centroids: Float32, threads: int) -> None: ...
def assign_anisotropic(
    centroids: Float32, offsets: Int32, x: Array, directions: Float32, weight: float, ids: Int32, parallel: Float64,
    threads: int,
) -> None: ...  # fmt: skip
def seed(centroids: Float32, offsets: Int32, x: Array, rows: Int64 | None, draws: Float64, threads: int) -> None: ...
def kmeans_chunk_rows(m: int, k: int, dsub: int, n: int) -> int: ...
def kmeans_sums(
    centroids: Float32,
    offsets: Int32,
    x: Array,
    rows: Int64 | None,
    active: UInt8,
    chunk_rows: int,
    ids: Int32,
    errors: Float32,
    bounds: UInt16,
    drift: UInt16,
    scale: Float32,
    drifted: Float32 | None,
    sums: Float32 | None,
    changed: Int64 | None,
    threads: int,
) -> None: ...
def kmeans_sums_of(
    centroids: Float32, offsets: Int32, x: Array, rows: Int64 | None, active: UInt8, chunk_rows: int, ids: Int32,
    before: Int32, errors: Float32, sums: Float32, changed: Int64, threads: int,
) -> None: ...  # fmt: skip
def kmeans_means(
    centroids: Float32, offsets: Int32, active: UInt8, sums: Float32, counts: Int64, threads: int
) -> None: ...
def kmeans_donors(ids: Int32, errors: Float32, counts: Int64, rows: Int64) -> None: ...
def reorder(order: Int64, ids: Int32, errors: Float32, threads: int) -> None: ...
def renumber(numbers: Int32 | None, ids: Int32, counts: Int64, threads: int) -> None: ...
def open_index(
    centroids: Float32,
    offsets: Int32,
    x: Array,
    rows: Int64 | None,
    limit: float,
    candidates: int,
    shared: bool,
    ids: Int32,
    counts: Int64,
    threads: int,
) -> None: ...
def pack_codes(ids: Int32, nbits: int, codes: UInt8, threads: int) -> None: ...
def unpack_codes(codes: UInt8, nbits: int, ids: Int32) -> None: ...
def put_codes(codes: UInt8, rows: Int64, blocks: UInt8, threads: int = 1) -> None: ...
def decode(codebooks: Float32, offsets: Int32, nbits: int, codes: UInt8, out: Float32, threads: int) -> None: ...
def sum_entries(entries: Float64, nbits: int, codes: UInt8, sums: Float64, threads: int) -> None: ...
def get_codes(blocks: UInt8, rows: Int64, codes: UInt8) -> None: ...
def ids_find(table: _IdEntries, ids: Int32 | Int64, wanted: Int64, places: Int64) -> None: ...
def ids_insert(table: _IdEntries, ids: Int32 | Int64, places: Int64) -> None: ...
def ids_remove(table: _IdEntries | None, ids: Int32 | Int64, gone: Int64, sources: Int64, targets: Int64) -> None: ...
def set_bits(places: Int64, bits: UInt64) -> None: ...

@disjoint_base
class Answers: ...

@final
class Ranking:
    def __new__(
        cls, x: Array, metric: int, exponent: int, table: tuple[UInt8, int, int, bool] | None, ids: Int64 | None
    ) -> Ranking: ...

@final
class TopK(Answers):
    def __new__(
        cls,
        distances: Float32,
        ids: Int64,
        sort: bool = True,
        by: Ranking | None = None,
        queries: Float32 | None = None,
        candidates: int = 0,
    ) -> TopK: ...

def plane_bytes(w: int, bits: int, plane: int) -> int: ...

@final
class Refinement:
    arguments: tuple[object, ...]
    def __new__(cls, bits: int, steps: Float32, levels: UInt8 | None, table: Float32 | None) -> Refinement: ...
    def encode(
        self,
        residuals: Float32,
        decoded: Float32,
        scale: float,
        centre: Float32,
        first: UInt8,
        second: UInt8 | None,
        gains: UInt8 | None,
        norms: Float32,
        threads: int,
    ) -> None: ...
    def decode(self, first: UInt8, second: UInt8 | None, gains: UInt8 | None, out: Float32) -> None: ...

@final
class Refined:
    def __new__(
        cls,
        refinement: Refinement,
        first: UInt8,
        second: UInt8 | None,
        gains: UInt8 | None,
        norms: Float32,
        n: int,
        table: _IdEntries | None,
        ids: Int64 | None,
        metric: int,
        centre: Float32,
        query_scale: float,
        unit: float,
    ) -> Refined: ...

@final
class Within(Answers):
    def __new__(cls, nq: int, radius: float) -> Within: ...
    def counts(self, out: Int64) -> None: ...
    def copy(self, distances: Float32, ids: Int64) -> None: ...

@final
class ADC:
    arguments: tuple[object, ...]
    def __new__(cls, packed: Float32, codebooks: Float32, offsets: Int32, nbits: int, metric: int) -> ADC: ...
    def tables(self, queries: Float32, out: Float32) -> None: ...

@disjoint_base
class Codes:
    def selects(self, n_probe: int) -> bool: ...
    def search(
        self,
        rotated: Float32,
        answers: Answers,
        threads: int,
        candidates: int = 0,
        n_probe: int = 0,
        queries: Float32 | None = None,
        probes: Int64 | None = None,
        residuals: Float32 | None = None,
        first_query: int = 0,
    ) -> None: ...

@final
class FlatCodes(Codes):
    def __new__(
        cls,
        adc: ADC,
        refined: Refined | None,
        blocks: UInt8,
        ids: Int64 | None,
        allowed: UInt64 | None,
        n: int,
    ) -> FlatCodes: ...

@final
class Lists(Codes):
    def __new__(
        cls,
        adc: ADC,
        refined: Refined | None,
        coarse: SmallFlat | None,
        lengths: float,
        centroids: Float32,
        first: Int64,
        block_ids: Int32,
        live_rows: UInt64,
        max_residual: Float32 | None,
        residual: bool,
        blocks: UInt8,
        slot_ids: Int32 | Int64,
    ) -> Lists: ...

def postings(first: Int64, lists: Int32, list_first: Int64, list_rows: Int32 | None) -> None: ...
def maxsim_search(
    adc: ADC,
    centroids: Float32,
    residual: bool,
    list_first: Int64,
    list_rows: Int32,
    first: Int64,
    lists: Int32,
    codes: UInt8,
    ids: Int64 | None,
    allowed: UInt64 | None,
    queries: Float32,
    query_first: Int64,
    probes: Int64,
    n_candidates: int,
    first_query: int,
    answers: Answers,
    found: Int64,
    threads: int,
) -> None: ...
def rotate(x: Array, lists: Int64, packed: Float32, centroids: Float32 | None, out: Float32, threads: int) -> None: ...
def flat_norms(x: Array, norms: Float32, threads: int) -> None: ...
def flat_search(
    x: Array,
    norms: Float32 | None,
    queries: Float32,
    ids: Int64 | None,
    allowed: UInt64 | None,
    metric: int,
    answers: Answers,
    threads: int,
    exponent: int = 0,
) -> None: ...

@final
class SmallFlat:
    arguments: tuple[Array, bool]
    def __init__(self, x: Array, metric: int) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def applies(self, k: int) -> bool: ...

def flat_distances(
    x: Array, queries: Float32, rows: Int64, metric: int, out: Float32, threads: int, exponent: int = 0
) -> None: ...
def smallest(distances: Float32, ids: Int64, out: Float32, out_ids: Int64, threads: int) -> None: ...

@final
class LSHHashes:
    arguments: tuple[int, int, Float32, Float32, Float32, UInt64]
    def __init__(
        self, n_tables: int, n_hashes: int, centre: Float32, packed: Float32, shifts: Float32, mixers: UInt64
    ) -> None: ...
    def values(self, x: Array, out: Float32, threads: int) -> None: ...
    def entries(self, x: Array, first_row: int, out: UInt64, threads: int) -> None: ...
    def buckets(self, x: Array, out: UInt8, threads: int) -> None: ...
    def clipped_buckets(self, x: Array, out: Array, threads: int) -> None: ...

@final
class LSHSketcher:
    arguments: tuple[Float32, Float32, Float32, Float32, float]
    def __init__(self, centre: Float32, packed: Float32, back: Float32, least: Float32, scale: float) -> None: ...
    def sketch(self, x: Array, out: UInt8, threads: int) -> None: ...

def lsh_starts(entries: UInt64, bits: int, starts: UInt32) -> None: ...
def e2lsh_search(
    hashes: LSHHashes | None,
    entries: UInt64,
    sketches: UInt8 | None,
    starts: UInt32,
    bits: int,
    x: Array,
    sketcher: LSHSketcher | None,
    ids: Int64 | None,
    allowed: UInt64 | None,
    metric: int,
    queries: Float32,
    n_probe: int | None,
    distances: Float32,
    found: Int64,
    stats: Int64,
    threads: int,
) -> None: ...
def c2lsh_search(
    hashes: LSHHashes | None,
    codes: UInt8,
    window: float,
    radius: float | None,
    ratio: float,
    threshold: int,
    budget: int,
    stop_early: bool,
    x: Array,
    sketcher: LSHSketcher | None,
    sketches: UInt8 | None,
    ids: Int64 | None,
    allowed: UInt64 | None,
    metric: int,
    queries: Float32,
    distances: Float32,
    found: Int64,
    stats: Int64,
    threads: int,
) -> None: ...
def pmlsh_put(codes: Array, rows: Int64, blocks: Array, threads: int = 1) -> None: ...
def pmlsh_get(blocks: Array, rows: Int64, codes: Array) -> None: ...
def pmlsh_clipped(blocks: Array, n: int, m: int) -> int: ...
def chi_squared(x: float, m: int) -> float: ...
def pmlsh_search(
    hashes: LSHHashes | None,
    blocks: Array,
    width: float | None,
    reach: float,
    ratio: float,
    n_candidates: int,
    n_clipped: int,
    x: Array,
    sketcher: LSHSketcher | None,
    sketches: UInt8 | None,
    ids: Int64 | None,
    allowed: UInt64 | None,
    metric: int,
    queries: Float32,
    distances: Float32,
    found: Int64,
    stats: Int64,
    threads: int,
) -> None: ...

PAIR_BATCH: int

@final
class MinHash:
    arguments: tuple[int, int, int, int, UInt32, UInt32, UInt64]
    def __init__(
        self, n_bands: int, n_rows: int, bits: int, salt: int, factors: UInt32, shifts: UInt32, mixers: UInt64
    ) -> None: ...
    def sign(self, first: Int64, items: UInt64, signatures: UInt8 | None, keys: UInt32, threads: int) -> None: ...
    def search(
        self,
        signatures: UInt8 | None,
        first: Int64,
        items: UInt64,
        entries: UInt64,
        starts: UInt32,
        bits: int,
        ids: Int64 | None,
        allowed: UInt64 | None,
        query_first: Int64,
        query_items: UInt64,
        answers: Answers,
        found: Int64,
        threads: int,
    ) -> None: ...
    def pairs(
        self,
        signatures: UInt8 | None,
        first: Int64,
        items: UInt64,
        keys: UInt32,
        first_band: int,
        entries: UInt64,
        answers: Within,
        threads: int,
    ) -> None: ...

def minhash_tables(
    keys: UInt32, first_band: int, first_row: int, bits: int, entries: UInt64, starts: UInt32, threads: int
) -> None: ...
def order_items(first: Int64, items: UInt64, sizes: Int64, threads: int) -> None: ...
def items_of(collections: list[Any], first: Int64, items: UInt64) -> None: ...
def locate_texts(texts: list[str], at: NDArray[np.uintp], sizes: Int64) -> None: ...
def shingle_counts(
    at: NDArray[np.uintp], sizes: Int64, width: int, words: bool, counts: Int64, threads: int
) -> None: ...
def shingles(
    at: NDArray[np.uintp], sizes: Int64, width: int, words: bool, first: Int64, items: UInt64, threads: int
) -> None: ...
