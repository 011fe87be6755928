"""`recommend`, the parameters that `fit` chooses, and the warning of codes that are too coarse."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import cli, recommendation
from fpq.indexes.parts import recall_ceiling
from fpq.learning.defaults import default_lists, default_m

RNG = np.random.default_rng(0)


def clustered(n: int, d: int) -> np.ndarray:
    centres = RNG.normal(size=(200, d))
    return (centres[RNG.integers(0, 200, n)] + 0.7 * RNG.normal(size=(n, d))).astype(np.float32)


X = clustered(6000, 30)


# ---- n_lists=None, m=None ----


@pytest.mark.parametrize(("d", "m"), [(1, 1), (2, 1), (3, 2), (8, 4), (50, 25), (128, 25), (384, 48), (1536, 192)])
def test_default_m(d: int, m: int) -> None:
    assert default_m(d) == m


@pytest.mark.parametrize(("n", "lists"), [(1, 1), (2, 2), (15, 5), (10_000, 150), (1_000_000, 1500)])
def test_default_lists(n: int, lists: int) -> None:
    assert default_lists(n) == lists


def test_a_given_number_stays_the_default() -> None:
    assert fpq.PQIndex().quantizer.m == fpq.IVFPQIndex(4).quantizer.m == fpq.ProductQuantizer().m == 16


MAKES: dict[str, Any] = {
    "pq": lambda **options: fpq.PQIndex(None, **options),
    "pq rotated": lambda **options: fpq.PQIndex(None, rotation="pca", rotation_dim=20, **options),
    "ivf": lambda **options: fpq.IVFPQIndex(None, None, **options),
    "ivf m": lambda **options: fpq.IVFPQIndex(None, 5, **options),
    "ivf lists": lambda **options: fpq.IVFPQIndex(7, None, open_indexing=2.0, **options),
}


@pytest.mark.parametrize("name", MAKES)
def test_fit_chooses_and_the_index_equals_one_with_these_numbers(name: str, tmp_path: Path) -> None:
    index = MAKES[name](keep_vectors=True)
    assert "None" in repr(index)
    index.save(tmp_path / "untrained.fpq")
    loaded = fpq.load(tmp_path / "untrained.fpq")
    assert repr(loaded) == repr(index) == repr(index.copy()) == repr(pickle.loads(pickle.dumps(index)))
    index.fit(X).add(X)
    loaded.fit(X).add(X)
    m = index.quantizer.m
    assert type(m) is int
    same: Any
    if isinstance(index, fpq.IVFPQIndex):
        assert index.n_lists == (7 if name == "ivf lists" else default_lists(len(X)))
        same = fpq.IVFPQIndex(index.n_lists, m, open_indexing=index.quantizer.open_indexing, keep_vectors=True)
    else:
        pq = index.quantizer
        same = fpq.PQIndex(m, rotation=pq.rotation, rotation_dim=pq.rotation_dim, keep_vectors=True)
    same.fit(X).add(X)
    index.save(tmp_path / "trained.fpq")
    for each in (loaded, same, index.copy(), fpq.load(tmp_path / "trained.fpq")):
        assert repr(each) == repr(index)
        for mine, other in zip(index.search(X[:9], 5), each.search(X[:9], 5), strict=True):
            assert (mine == other).all()
    assert repr(index.reset().fit(X[:500])).replace("n=500", "") == repr(same.reset().fit(X[:500])).replace("n=500", "")


@pytest.mark.parametrize("name", ["pq", "ivf"])
def test_untrained_index_answers_as_any_other(name: str) -> None:
    index = MAKES[name]()
    for call in (
        lambda: index.search(X[0]),
        lambda: index.tune(X),
        lambda: index.add(X),
        lambda: index.reconstruct([0]),
    ):
        with pytest.raises(ValueError, match="is not trained"):
            call()
    assert index.remove([1]) == 0
    with pytest.raises(ValueError, match="NaN"):
        index.fit(np.full((20, 3), np.nan))
    assert index.quantizer.m is None


def test_few_rows_give_few_lists() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = fpq.IVFPQIndex(None, None).fit(X[:3]).add(X[:3])
    assert (index.n_lists, index.n_probe) == (2, 2)


def test_blocks_need_a_number_of_lists_only_if_their_number_is_unknown() -> None:
    with pytest.raises(ValueError, match="n_lists: expected a number for blocks of unknown number, got None"):
        fpq.IVFPQIndex(None).fit(iter([X]))
    assert fpq.PQIndex(None).fit(iter([X])).quantizer.m == 15


def test_dask_trains_and_builds_with_the_same_numbers(tmp_path: Path) -> None:
    da = pytest.importorskip("dask.array")
    import fpq.dask

    index = fpq.dask.fit(fpq.IVFPQIndex(None, None), da.from_array(X, chunks=(1000, 30)))
    assert index.n_lists == default_lists(len(X))
    assert (index.centroids == fpq.IVFPQIndex(None, None).fit(X).centroids).all()
    sharded = fpq.ShardedIndex(fpq.dask.build(index, da.from_array(X, chunks=(3000, 30)), tmp_path))
    assert len(sharded) == len(X)


def test_sklearn_takes_none() -> None:
    pytest.importorskip("sklearn")
    from fpq.sklearn import ANNTransformer, PQTransformer

    assert ANNTransformer(algorithm="ivfpq", m=None).fit(X).index_.quantizer.m == 15
    assert PQTransformer(m=None).fit(X).quantizer_.m == 15


def test_command_line_takes_auto(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    names = [str(tmp_path / "x.npy"), str(tmp_path / "x.fpq")]
    assert not cli.main(["build", *names, "--kind", "ivfpq", "--m", "auto", "--quiet"])
    index = fpq.load(tmp_path / "x.fpq")
    assert (index.n_lists, index.quantizer.m) == (default_lists(len(X)), 15)


# ---- recommend ----


@pytest.fixture
def eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that scans 8-bit codes fast."""
    monkeypatch.setattr(recommendation, "EIGHT_BITS", fpq.cpu_info()["isas"])


def kept(recommended: fpq.Recommendation) -> tuple[int, bool]:
    index: Any = recommended.index
    return index.quantizer.m, index.keep_vectors


def test_codes_of_four_bits_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommendation, "EIGHT_BITS", ())
    for d, m in ((50, 26), (128, 38), (384, 72), (20_000, 3750)):
        found = fpq.recommend((390_000, d), metric="cosine")
        index: Any = found.index
        assert (index.quantizer.m, index.quantizer.nbits, index.keep_vectors) == (m, 4, True)
        assert f"m = {m}: of 4 bits, faster with" in str(found)
    narrow: Any = fpq.recommend((390_000, 2), metric="ip").index
    assert (narrow.quantizer.m, narrow.quantizer.nbits) == (2, 4)
    alone: Any = fpq.recommend((390_000, 128), recall=0.5).index
    assert (alone.quantizer.nbits, alone.keep_vectors) == (8, False)


@pytest.mark.usefixtures("eight_bits")
def test_glove_gets_a_third_or_half_of_the_dimensions_and_not_an_eighth() -> None:
    assert kept(fpq.recommend((390_000, 50), metric="cosine")) == (17, True)
    assert kept(fpq.recommend((390_000, 50), metric="l2")) == (25, True)
    assert kept(fpq.recommend((390_000, 90), metric="ip")) == (25, True)
    assert kept(fpq.recommend((40_000, 384), metric="cosine")) == (48, True)


@pytest.mark.usefixtures("eight_bits")
def test_budgets() -> None:
    shape = (500_000, 128)
    assert kept(fpq.recommend(shape, dtype=np.uint8)) == (25, True)
    narrow = fpq.recommend(shape, dtype=np.uint8, bytes_per_vector=160)
    assert kept(narrow) == (16, True)
    assert narrow.bytes_per_vector <= 160
    rounded = fpq.recommend(shape, bytes_per_vector=400)
    assert kept(rounded)[1] and "X as float16" in rounded.reasons[-1]
    codes = fpq.recommend(shape, bytes_per_vector=60)
    assert not kept(codes)[1] and "comes nearest" in str(codes)
    with pytest.raises(ValueError, match="bytes_per_vector: expected at least"):
        fpq.recommend(shape, bytes_per_vector=2)


@pytest.mark.parametrize(("dtype", "recall", "budget", "refine"), [
    ("float32", 0.95, 190, "sq8"), ("float32", 0.95, 120, "sq4"), ("float32", 0.95, 300, None),
    ("uint8", 0.95, 190, None), ("uint8", 0.95, 120, "sq4"),
])  # fmt: skip
def test_refinement_codes_where_vectors_do_not_fit(dtype: str, recall: float, budget: float, refine: Any) -> None:
    found = fpq.recommend((500_000, 128), recall=recall, bytes_per_vector=budget, dtype=dtype)
    index: Any = found.index
    assert (index.refine, index.keep_vectors) == (refine, refine is None)
    assert "expected to reach" not in str(found)


def test_bytes_that_cosine_keeps_as_float32_get_refinement_codes() -> None:
    found = fpq.recommend((1_000_000, 512), metric="cosine", dtype="uint8", recall=0.95, bytes_per_vector=700)
    index: Any = found.index
    assert (index.refine, index.residual) == ("sq8", False)


def test_recalls() -> None:
    assert kept(fpq.recommend((500_000, 128), recall=0.5)) == (16, False)
    assert kept(fpq.recommend((500_000, 128), recall=0.99))[1]
    assert isinstance(fpq.recommend((500_000, 128), recall=1).index, fpq.FlatIndex)


def test_small_data_have_no_lists() -> None:
    assert isinstance(fpq.recommend((10_000, 384)).index, fpq.FlatIndex)
    assert isinstance(fpq.recommend((20_000, 384)).index, fpq.PQIndex)
    assert isinstance(fpq.recommend((20_001, 384)).index, fpq.IVFPQIndex)
    few = fpq.recommend((10_000, 64), bytes_per_vector=100)
    assert kept(few) == (32, False)


def test_a_sample_of_the_values_is_read() -> None:
    pixels = RNG.integers(0, 256, (12_000, 20)).astype(np.float64)
    assert "uint8" in fpq.recommend(pixels).reasons[-1]
    assert "uint8" not in str(fpq.recommend(pixels, metric="cosine"))
    huge = np.full((12_000, 20), 1e6, np.float32)
    with pytest.raises(ValueError, match="at least"):
        fpq.recommend(huge, bytes_per_vector=1)
    assert not kept(fpq.recommend(huge, bytes_per_vector=75))[1]


def test_the_estimate_of_a_recommended_index() -> None:
    x = clustered(21_000, 12)
    for options in ({}, {"metric": "ip", "recall": 0.4}, {"bytes_per_vector": 60}, {"bytes_per_vector": 40}):
        recommended = fpq.recommend(x, **options)  # type: ignore[arg-type]
        rows = x.astype(np.float16) if "float16" in recommended.reasons[-1] else x
        index = recommended.index.fit(x).add(rows)
        assert recommended.nbytes == pytest.approx(index.nbytes, rel=0.03)
        assert recommended.build_seconds > 0
        assert all(reason in str(recommended) for reason in recommended.reasons)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (((3,),), ValueError, "X: expected an array or a shape"), (((0, 3),), ValueError, "n: expected at least 1"),
    (((3, 0),), ValueError, "d: expected at least 1"), (((3, 2), "hamming"), ValueError, "metric"),
    (((3, 2), "l2", 2), ValueError, "recall"), (((3, 2), "l2", 0.5, 0), ValueError, "bytes_per_vector"),
    (((3, 2), "l2", 0.5, 9, "U3"), TypeError, "dtype"), (([[np.nan]],), ValueError, "NaN"),
    ((np.zeros(3),), ValueError, "2-d"),
])  # fmt: skip
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    names = ("X", "metric", "recall", "bytes_per_vector", "dtype")
    with pytest.raises(error, match=message):
        fpq.recommend(**dict(zip(names, arguments, strict=False)))


# ---- the warning ----

MANY = clustered(recall_ceiling.LEAST_ROWS, 32)


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_ceiling, "_warned", False)


def caught(*searches: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for search in searches:
            search()
    return [str(each.message) for each in found]


@pytest.mark.usefixtures("unwarned")
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_coarse_codes_warn_once(metric: Any) -> None:
    indexes: list[Any] = [
        make.fit(MANY).add(MANY)
        for make in (fpq.PQIndex(1, metric=metric), fpq.IVFPQIndex(8, 1, metric=metric, keep_vectors=True))
    ]
    messages = caught(*(lambda index=index: index.search(MANY[:50]) for index in [*indexes, *indexes]))
    assert len(messages) == 1
    assert "keep_vectors=True" in messages[0]


@pytest.mark.usefixtures("unwarned")
def test_searches_that_do_not_warn() -> None:
    coarse = fpq.PQIndex(1, keep_vectors=True).fit(MANY).add(MANY)
    fine = fpq.PQIndex(16).fit(MANY).add(MANY)
    assert not caught(
        lambda: coarse.search(MANY[0]),
        lambda: coarse.search(MANY[:3]),
        lambda: coarse.search(MANY[:50], rerank=3),
        lambda: coarse.search(MANY[:50], 100),
        lambda: coarse.search(MANY[:50], 4),
        lambda: coarse.search(MANY[:50], allowed=[1, 2]),
        lambda: fine.search(MANY[:50]),
        lambda: fpq.PQIndex(1).fit(MANY).add(MANY[:-1]).search(MANY[:50]),
    )
    coarse.tune(MANY[:50] + 0.1, recall=0.01)
    assert coarse.rerank is None or coarse.rerank
    coarse.rerank = None
    assert not caught(lambda: coarse.search(MANY[:50]))


@pytest.mark.usefixtures("unwarned")
def test_advice_for_an_index_that_keeps_vectors() -> None:
    index = fpq.IVFPQIndex(8, 1, keep_vectors=True).fit(MANY).add(MANY)
    (message,) = caught(lambda: index.search(MANY[:50]))
    assert "call tune" in message and "keep_vectors=True" not in message


@pytest.mark.usefixtures("unwarned")
def test_clusters_that_codes_tell_apart_do_not_warn() -> None:
    """Few rows per cluster: the error is large beside the distance of neighbours, but small beside its growth."""
    centres = RNG.normal(size=(600, 32))
    x = (centres[np.arange(12_500) % 600] + 0.2 * RNG.normal(size=(12_500, 32))).astype(np.float32)
    index, exact = fpq.PQIndex(16).fit(x[500:]).add(x[500:]), fpq.FlatIndex().add(x[500:])
    assert not caught(lambda: index.search(x[:500]))
    assert fpq.metrics.recall_at_k(index.search(x[:500]).ids, exact.search(x[:500]).ids) > 0.7


def test_small_budgets_do_without_lists() -> None:
    listed, scanned = (fpq.recommend((200_000, 96), bytes_per_vector=budget) for budget in (40, 12))
    assert isinstance(listed.index, fpq.IVFPQIndex) and isinstance(scanned.index, fpq.PQIndex)
    assert scanned.bytes_per_vector <= 12
    assert "no lists" in str(scanned)
    x = clustered(25_000, 8)
    index = fpq.recommend(x, bytes_per_vector=2).index.fit(x).add(x)
    assert index.nbytes <= 2 * len(x)


def test_a_dask_array_is_not_computed() -> None:
    da = pytest.importorskip("dask.array")

    def fail(block: np.ndarray) -> np.ndarray:
        raise AssertionError

    x = da.zeros((30_000, 64), chunks=(1000, 64), dtype="u1").map_blocks(fail, dtype="u1", meta=np.empty((0, 0), "u1"))
    assert str(fpq.recommend(x)) == str(fpq.recommend((30_000, 64), dtype="u1"))


def test_errors_name_the_argument() -> None:
    with pytest.raises(TypeError, match="dtype: expected a type of real numbers, got 'nothing'"):
        fpq.recommend((10, 2), dtype="nothing")
    with pytest.raises(TypeError, match=r"d: expected an integer, got 2\.5"):
        fpq.recommend((10, 2.5))  # type: ignore[arg-type]
