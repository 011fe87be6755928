"""MinHash against its definitions: signatures, the probabilities of bands, similarities, pairs, clusters, shingles."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import _native
from fpq.indexes.parts import bands as banding
from fpq.indexes.parts.sets import Sets, checked

RNG = np.random.default_rng(0)
HASHES = [
    18382651599528238328,
    1571310274965463165,
    14809813460504333008,
    370495579110375987,
    13589327608656186781,
    487617019471545679,
    9717461053837625793,
    13860337684883479919,
]


def jaccard(a: Any, b: Any) -> float:
    a, b = set(a), set(b)
    return len(a & b) / len(a | b) if a & b else 0.0


def random_sets(n: int, universe: int = 60, most: int = 12, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, universe, rng.integers(0, most)).tolist() for _ in range(n)]


def pair_of_similarity(shared: int, others: int, rng: Any) -> tuple[Any, Any]:
    """Two sets with `shared` common items and `others` items that only one of them has, half in each."""
    items = rng.integers(0, 1 << 63, shared + others, dtype=np.uint64)
    half = shared + others // 2
    return items[:half], np.concatenate([items[:shared], items[half:]])


def signed(hashes: Any, sets: Sets, width: int | None, n_threads: int) -> tuple[Any, Any]:
    """Signatures and keys."""
    signatures = None if width is None else np.empty((len(sets), width), np.uint8)
    return signatures, banding.signed(hashes, sets, signatures, n_threads)


def mixed(x: Any) -> Any:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# ---- signatures and keys ----


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signatures_are_those_of_the_definition(bits: int, isa: str) -> None:
    sets = checked([*random_sets(100), list(range(2000)), [(1 << 64) - 1, 0, 1 << 63]])
    hashes = banding.functions(48, (7, 5), bits, 3)
    n_bands, n_rows, _, salt, factors, shifts, mixers = hashes.arguments
    least = np.full((len(sets), 48), 0xFFFFFFFF, np.uint32)
    for i in range(len(sets)):
        upper = (mixed(sets.items[sets.first[i] : sets.first[i + 1]] ^ np.uint64(salt)) >> np.uint64(32)).astype(
            np.uint32
        )
        if len(upper):
            least[i] = (upper[:, None] * factors + shifts).min(0)
    spread = (least * np.uint32(0x9E3779B1)) >> np.uint32(32 - bits)
    used = least[:, : n_bands * n_rows].astype(np.uint64) * mixers
    keys = used.reshape(-1, n_bands, n_rows).sum(2) >> np.uint64(32)
    before = _native.isa()
    try:
        _native.use_isa(isa)
        signatures, got = signed(hashes, sets, 48 * bits // 8, 2)
    finally:
        _native.use_isa(before)
    assert signatures is not None
    np.testing.assert_array_equal(signatures.view(f"u{bits // 8}"), spread)
    np.testing.assert_array_equal(got, keys)


def test_functions_of_a_seed_do_not_change() -> None:
    """Saved files hold the seed only."""
    salt, factors, shifts, mixers = banding.functions(16, (2, 3), 8, 5).arguments[3:]
    assert salt == 14849682912918955432
    assert factors[:3].tolist() == [3470079269, 2213306431, 1227507581]
    assert shifts[:2].tolist() == [97294837, 2013703616]
    assert mixers[-1] == 16226700068647630231


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize(("shared", "others"), [(1, 2), (8, 2), (10, 10), (5, 45), (300, 100)])
def test_estimates_have_no_bias(shared: int, others: int, bits: int) -> None:
    """The mean over many pairs is within 4.5 standard errors; a single estimate within the stated error, on average."""
    n, k = 400, 128
    true = shared / (shared + others)
    pairs = [pair_of_similarity(shared, others, RNG) for _ in range(n)]
    hashes = banding.functions(k, (1, 1), bits, 1)
    sets = checked([each for pair in pairs for each in pair])
    signatures, _ = signed(hashes, sets, k * bits // 8, 2)
    assert signatures is not None
    numbers = signatures.view(f"u{bits // 8}")
    chance = 2.0**-bits
    estimates = ((numbers[::2] == numbers[1::2]).mean(1) - chance) / (1 - chance)
    error = math.sqrt(true * (1 - true) / k) * 1.1
    assert abs(estimates.mean() - true) < 4.5 * error / math.sqrt(n)
    assert abs(estimates - true).mean() < error


@pytest.mark.parametrize(("shared", "others"), [(1, 1), (4, 1), (20, 20), (30, 70)])
@pytest.mark.parametrize(("bands", "rows"), [(42, 3), (18, 7), (1, 2), (5, 1)])
def test_bands_find_what_the_formula_says(shared: int, others: int, bands: int, rows: int) -> None:
    n = 3000
    true = shared / (shared + others)
    sets = checked([each for _ in range(n) for each in pair_of_similarity(shared, others, RNG)])
    _, keys = signed(banding.functions(128, (bands, rows), 8, 2), sets, None, 2)
    found = (keys[::2] == keys[1::2]).any(1).mean()
    expected = banding.found(true, bands, rows)
    assert expected == pytest.approx(1 - (1 - true**rows) ** bands)
    assert abs(found - expected) < 4.5 * math.sqrt(expected * (1 - expected) / n) + 1e-3


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("n_hashes", [16, 128, 256])
def test_chosen_bands(threshold: float, n_hashes: int) -> None:
    bands, rows = fpq.MinHashIndex(threshold, n_hashes).bands
    assert bands * rows <= n_hashes
    enough = banding.found(threshold, bands, rows) >= 0.95
    assert enough or rows == 1
    for more in range(rows + 1, n_hashes + 1):
        assert banding.found(threshold, n_hashes // more, more) < 0.95


# ---- the index ----


@pytest.mark.parametrize("keep_sets", [False, True])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_search_finds_the_most_similar_of_the_candidates(keep_sets: bool, n_threads: int) -> None:
    sets, queries = random_sets(700), random_sets(40, seed=1)
    index = fpq.MinHashIndex(keep_sets=keep_sets, bands=(20, 2), bits=16, n_threads=n_threads)
    index.add(sets, ids=np.arange(700) * 3)
    similarities, ids = index.search(queries, k=5)
    hashes = index._hashes
    signatures, keys = signed(hashes, checked(sets), 256, 1)
    of_queries, query_keys = signed(hashes, checked(queries), 256, 1)
    assert signatures is not None and of_queries is not None
    for q, query in enumerate(queries):
        rows = np.flatnonzero((keys == query_keys[q]).any(1)) if query else np.empty(0, int)
        if keep_sets:
            each = np.array([jaccard(query, sets[row]) for row in rows], np.float32)
        else:
            equal = (signatures[rows].view("u2") == of_queries[q].view("u2")).mean(1)
            each = np.maximum((equal - 2**-16) / (1 - 2**-16), 0).astype(np.float32)
        order = np.lexsort([rows, -each])[:5]
        assert index.last_found is not None and index.last_found[q] == len(rows)
        assert ids[q].tolist() == (rows[order] * 3).tolist() + [-1] * (5 - len(order))
        np.testing.assert_allclose(similarities[q, : len(order)], each[order], rtol=1e-6)
        assert (similarities[q, len(order) :] == -np.inf).all()


def test_range_search() -> None:
    sets = random_sets(500)
    index = fpq.MinHashIndex(keep_sets=True, bands=(128, 1)).add(sets)
    lims, similarities, ids = index.range_search(sets[:30], 0.4)
    for q in range(30):
        each = {i: jaccard(sets[q], other) for i, other in enumerate(sets)}
        wanted = {i for i, value in each.items() if value >= 0.4}
        got = ids[lims[q] : lims[q + 1]].tolist()
        assert len(set(got)) == len(got) and set(got) <= wanted
        assert len(wanted) - len(got) <= len(wanted) // 10
        np.testing.assert_allclose(similarities[lims[q] : lims[q + 1]], [each[i] for i in got], rtol=1e-6)
        assert (np.diff(similarities[lims[q] : lims[q + 1]]) <= 0).all()


def test_every_kind_of_input_is_the_same_set() -> None:
    lists = [[3, 1, 2], [], [5, 5, 7], [(1 << 40) + 1]]
    indptr = np.array([0, 3, 3, 6, 7], np.int32)
    indices = np.array([3, 1, 2, 5, 5, 7, (1 << 40) + 1])
    inputs: list[Any] = [
        lists,
        tuple(map(frozenset, lists)),
        (iter(each) for each in lists),
        [np.array(each, int) for each in lists],
        [dict.fromkeys(each) for each in lists],
        (indptr, indices),
        (indptr.astype(np.uint8), indices.astype(np.uint64)),
    ]
    for each in inputs:
        index = fpq.MinHashIndex(keep_sets=True).add(each)
        assert [sets.tolist() for sets in index.reconstruct(range(4))] == [[1, 2, 3], [], [5, 7], [(1 << 40) + 1]]


def test_sparse_matrices() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.array([[0, 1, 2, 0], [0, 0, 0, 0], [5, 0, 0, 1]])
    matrix = sparse.csr_matrix(dense)
    stored_zero = sparse.csr_matrix(dense + 1)
    stored_zero.data -= 1
    for each in (matrix, matrix.tocoo(), sparse.csr_array(dense), stored_zero):
        index = fpq.MinHashIndex(keep_sets=True).add(each)
        assert [items.tolist() for items in index.reconstruct([0, 1, 2])] == [[1, 2], [], [0, 3]]
    with pytest.raises(ValueError, match=r"^sets: expected a matrix without NaN"):
        fpq.MinHashIndex().add(sparse.csr_matrix(np.array([[np.nan, 1.0]])))


def test_empty_sets_are_similar_to_nothing() -> None:
    for keep_sets in (False, True):
        index = fpq.MinHashIndex(keep_sets=keep_sets).add([[], [1], []])
        assert index.search([[], [1]], 2).ids.tolist() == [[-1, -1], [1, -1]]
    assert len(fpq.minhash.duplicates([[], [], [1], []], 0.5).pairs) == 0


def test_no_sets() -> None:
    index = fpq.MinHashIndex()
    assert index.add([]).add((np.zeros(1, int), np.zeros(0, int))).range_search([[1]], 0.5).lims.tolist() == [0, 0]
    assert fpq.minhash.duplicates([]).pairs.shape == (0, 2)
    with pytest.warns(UserWarning, match="no vectors were added"):
        assert index.search([[1]], 2).ids.tolist() == [[-1, -1]]
    assert index.add([[1]]).search([], 2).ids.shape == (0, 2)


def test_many_small_adds_are_one_large() -> None:
    sets = random_sets(300)
    whole = fpq.MinHashIndex().add(sets)
    parts = fpq.MinHashIndex()
    for start in range(0, 300, 7):
        parts.add(sets[start : start + 7])
        if start % 3 == 0:
            parts.search(sets[:1])
    assert b"".join(parts._pieces()) == b"".join(whole._pieces())


@pytest.mark.parametrize("keep_sets", [False, True])
def test_changes(keep_sets: bool, tmp_path: Path) -> None:
    """An index after changes answers as one that is built of what is left."""
    sets, queries = random_sets(400), random_sets(30, seed=1)
    index = fpq.MinHashIndex(keep_sets=keep_sets).add(sets[:300], ids=np.arange(300))
    other = fpq.MinHashIndex(keep_sets=keep_sets).add(sets[300:350], ids=np.arange(300, 350))
    assert index.remove(np.arange(0, 300, 3)) == 100
    index.merge(other).update(sets[350:], ids=np.arange(290, 340))
    left = {i: sets[i] for i in range(350) if i % 3 or i >= 300}
    left.update(zip(range(290, 340), sets[350:], strict=True))
    fresh = fpq.MinHashIndex(keep_sets=keep_sets).add(list(left.values()), ids=list(left))
    index.save(tmp_path / "index.fpq")
    loaded, mapped = fpq.load(tmp_path / "index.fpq"), fpq.load(tmp_path / "index.fpq", mmap=True)
    mapped.verify()
    for each in (index, index.copy(), loaded, mapped):
        assert sorted(each.ids.tolist()) == sorted(left)
        for a, b in zip(each.search(queries, 7), fresh.search(queries, 7), strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(each.range_search(queries, 0.3), fresh.range_search(queries, 0.3), strict=True):
            np.testing.assert_array_equal(a, b)
    allowed = np.arange(0, 350, 2)
    assert set(index.search(queries, 50, allowed=allowed).ids.ravel()) <= {-1, *allowed.tolist()}
    assert len(index.reset()) == 0


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "negative": ([[1], [-1]], ValueError, r"^sets\[1\]: expected integers from 0 to 2\*\*64 - 1, got -1"),
    "huge": ([[1 << 64]], ValueError, r"^sets\[0\]: expected integers from 0"),
    "nan": ([[float("nan")]], TypeError, r"^sets\[0\]: expected strings, bytes, integers, or tuples .* got nan"),
    "bool": ([[True]], TypeError, r"^sets\[0\]: .* got True"),
    "none": ([[None]], TypeError, r"^sets\[0\]: .* got None"),
    "in a tuple": ([[("a", 1.5)]], TypeError, r"^sets\[0\]: .* got \('a', 1.5\)"),
    "surrogate": ([["\ud800"]], ValueError, r"^sets\[0\]: expected strings that UTF-8 can encode"),
    "strings": (["abc"], TypeError, r"^sets\[0\]: expected an iterable of items, got str: fpq.minhash.shingles"),
    "string": ("abc", TypeError, r"^sets: expected a sparse matrix, .* got str"),
    "numbers": ([1, 2], TypeError, r"^sets\[0\]: expected an iterable of items, got int"),
    "number": (7, TypeError, r"^sets: expected a sparse matrix, .* got int"),
    "unsorted": ((np.array([0, 2, 1, 3]), np.arange(3)), ValueError, r"^indptr: expected numbers that rise"),
    "short": ((np.array([0, 2]), np.arange(3)), ValueError, r"^indptr: .* 3 indices, got 0 to 2"),
    "late": ((np.array([1, 3]), np.arange(3)), ValueError, r"^indptr: .* got 1 to 3"),
    "no indptr": ((np.array([], int), np.array([], int)), ValueError, r"^indptr: .* got none"),
    "negative indices": ((np.array([0, 1]), np.array([-5])), ValueError, r"^indices: .* at least 0, got -5"),
    "floats": ((np.array([0, 1]), np.array([1.0])), TypeError, r"^indices: expected integers, got dtype float64"),
    "nan indices": ((np.array([0, 1]), np.array([np.nan])), TypeError, r"^indices: expected integers"),
    "2-d": ((np.array([[0, 1]]), np.array([1])), ValueError, r"^indptr: expected a 1-d array, got shape \(1, 2\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sets(name: str) -> None:
    sets, error, message = BAD[name]
    index = fpq.MinHashIndex().add([[1, 2], [3]])
    before = b"".join(index._pieces())
    for call in (index.add, index.fit, index.search, fpq.minhash.duplicates, lambda x: index.update(x, [0])):
        with pytest.raises(error, match=message):
            call(sets)
    assert b"".join(index._pieces()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold: expected a number above 0, at most 1, got 0"),
        ({"threshold": 1.5}, "threshold: expected a number above 0, at most 1, got 1.5"),
        ({"threshold": float("nan")}, "threshold: expected a finite number"),
        ({"n_hashes": 0}, "n_hashes: expected 16 to 4096, got 0"),
        ({"n_hashes": 100}, "n_hashes: expected a multiple of 16, got 100"),
        ({"bands": (20, 7)}, "bands: expected at most 128 hash functions in all bands, got 20 x 7"),
        ({"bands": (0, 7)}, "bands: expected 1 to 4096, got 0"),
        ({"bands": 7}, r"bands: expected a pair \(bands, rows\), got 7"),
        ({"bits": 7}, "bits: expected"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
    ],
)
def test_bad_options(options: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        fpq.MinHashIndex(**options)
    if not options.keys() & {"bits"}:
        with pytest.raises((ValueError, TypeError), match=f"^{message}"):
            fpq.minhash.duplicates([[1]], **options)


def test_an_index_of_signatures_has_no_sets() -> None:
    with pytest.raises(ValueError, match=r"^reconstruct: expected an index that keeps its sets"):
        fpq.MinHashIndex().add([[1]]).reconstruct([0])


def test_nested_tuples_end() -> None:
    deep: Any = ()
    for _ in range(1_000_000):
        deep = (deep,)
    with pytest.raises(RecursionError):
        fpq.MinHashIndex().add([[deep]])
    while deep:  # the interpreter would take a tuple apart by recursion
        (deep,) = deep


def test_a_set_that_grows() -> None:
    class Liar(list[int]):
        def __len__(self) -> int:
            return 1

    with pytest.raises(ValueError, match=r"^sets\[0\]: expected 1 items, as by len, got 2"):
        fpq.MinHashIndex().add([Liar([1, 2])])


# ---- items ----


def test_hashes_of_items_do_not_change() -> None:
    """Saved files hold hashes."""
    items = checked([["", "a", "rosé", "a longer string", b"a", (), ("a", 7), (("a",), b"")]]).items
    assert items.tolist() == HASHES
    assert len(set(HASHES)) == len(HASHES)


def test_hashes_do_not_depend_on_the_process() -> None:
    code = "from fpq.indexes.parts.sets import checked; print(checked([['a', ('b', b'c')]]).items.tolist())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{checked([['a', ('b', b'c')]]).items.tolist()}\n".encode()}


def test_hashes_of_strings_are_different() -> None:
    strings = ["".join(each) for n in range(1, 5) for each in itertools.product("abcdefgh \0", repeat=n)]
    items = checked([strings, [string.encode() for string in strings], list(itertools.product(strings[:110], "ab"))])
    assert len(set(items.items.tolist())) == len(items.items)
    bits = np.unpackbits(items.items.view(np.uint8)).reshape(-1, 64).mean(0)
    assert abs(bits - 0.5).max() < 0.02


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_shingles(n: int, n_threads: int) -> None:
    texts = ["a rose is a rose is a rose", "", " \t\n", "rosé 日本語 é", "ab", "one  two\nthree\r", "\u2003x y"] * 30
    indptr, indices = fpq.minhash.shingles(texts, n, n_threads=n_threads)
    words = [text.encode().split() for text in texts]  # by white space of ASCII
    units = [[word.decode() for word in each] for each in words]
    wanted = [[tuple(each[i : i + n]) for i in range(max(len(each) - n + 1, min(1, len(each))))] for each in units]
    if n == 1:
        wanted = [[shingle[0] for shingle in each] for each in wanted]
    same(Sets(indptr, indices), wanted)
    indptr, indices = fpq.minhash.shingles(texts, n, "characters", n_threads=n_threads)
    same(
        Sets(indptr, indices),
        [[text[i : i + n] for i in range(max(len(text) - n + 1, min(1, len(text))))] for text in texts],
    )


def same(sets: Sets, wanted: Any) -> None:
    other = checked(wanted)
    np.testing.assert_array_equal(sets.first, other.first)
    np.testing.assert_array_equal(sets.items, other.items)


def test_bad_shingles() -> None:
    for arguments, message in [
        (("abc",), r"^texts: expected a list of strings, got str"),
        ((["a", 7],), r"^texts\[1\]: expected a string, got 7"),
        ((["\ud800"],), r"^texts\[0\]: expected a string that UTF-8 can encode"),
        ((["a"], 0), r"^n: expected 1 to 1024, got 0"),
        ((["a"], 2, "letters"), r"^unit: expected"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            fpq.minhash.shingles(*arguments)
    assert fpq.minhash.shingles([])[0].tolist() == [0]


# ---- pairs and clusters ----


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_duplicates(exact: bool, n_threads: int) -> None:
    sets = random_sets(300) + [[1, 2, 3]] * 40 + [[], [9]]
    pairs, similarities = fpq.minhash.duplicates(sets, 0.6, exact=exact, bands=(64, 2), n_threads=n_threads)
    hashes = banding.functions(128, (64, 2), 8, 0)
    signatures, keys = signed(hashes, checked(sets), 128, 1)
    assert signatures is not None
    wanted = {}
    for i, j in itertools.combinations(range(len(sets)), 2):
        if not sets[i] or not sets[j] or not (keys[i] == keys[j]).any():
            continue
        estimate = ((signatures[i] == signatures[j]).mean() - 2**-8) / (1 - 2**-8)
        similarity = np.float32(jaccard(sets[i], sets[j]) if exact else max(estimate, 0))
        if similarity >= np.float32(0.6):
            wanted[i, j] = similarity
    assert list(map(tuple, pairs.tolist())) == sorted(wanted)
    np.testing.assert_allclose(similarities, [wanted[each] for each in sorted(wanted)], rtol=1e-6)


def test_duplicates_over_many_tasks() -> None:
    """Buckets that begin in one part of the entries and end in another."""
    sets = np.repeat(np.arange(3000), 4)
    indptr = np.arange(len(sets) + 1)
    one, three = (fpq.minhash.duplicates((indptr, sets), 0.9, n_threads=t) for t in (1, 3))
    assert len(one.pairs) == 3000 * 6 and (one.pairs // 4 == one.pairs[:, :1] // 4).all()
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)


def test_clusters() -> None:
    n = 2000
    edges = RNG.integers(0, n, (900, 2))
    lowest = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in edges.tolist():
            least = min(lowest[a], lowest[b])
            changed |= lowest[a] != least or lowest[b] != least
            lowest[a] = lowest[b] = least
    assert fpq.minhash.clusters(edges, n).tolist() == lowest
    chain = np.stack([np.arange(n - 1), np.arange(1, n)], axis=1)
    assert not fpq.minhash.clusters(chain[::-1], n).any()
    assert fpq.minhash.clusters([], 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^pairs: expected numbers from 0 to 2, got 0 to 3"):
        fpq.minhash.clusters([[0, 3]], 3)
    with pytest.raises(ValueError, match=r"^pairs: expected shape"):
        fpq.minhash.clusters([0, 3], 3)
