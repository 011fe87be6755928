"""Refinement codes: refined distances, recall, and every change of an index that has them."""

import pickle
import warnings

import numpy as np
import pytest

import fpq
from fpq import _native
from fpq.indexes.parts.refinement import Refinement, residuals_of
from fpq.learning import levels
from fpq.learning.steps import CLIPS, GAINS, LEAST_STEP

KINDS = ("sq4", "sq6", "sq8")


def clusters(n, d, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, d)) * 3
    return (centres[rng.integers(0, 20, n)] + rng.normal(size=(n, d))).astype(np.float32)


def ivf(refine, **options):
    return fpq.IVFPQIndex(8, options.pop("m", 4), refine=refine, **options)


def pq(refine, **options):
    options.pop("residual", None)
    return fpq.PQIndex(options.pop("m", 4), refine=refine, **options)


X, Q = clusters(3000, 30), clusters(40, 30, seed=1)
TRUTH = fpq.FlatIndex().add(X).search(Q, 10).ids


def recall(index, **options):
    return fpq.metrics.recall_at_k(index.search(Q, 10, **options).ids, TRUTH)


def error_of_trellis(x, values):
    """The least mean squared error of chains x (n, 16), by the definition of csrc/refine/trellis.h."""
    of_states = values.reshape(4, 16)
    least = np.zeros((len(x), 1))  # by the state of the dimension: the upper bits of the code of the next one
    for j in reversed(range(x.shape[1])):
        errors = (x[:, j, None, None] - of_states[: least.shape[1]]) ** 2 + least[:, :, None]
        least = errors.reshape(len(x), -1, 4, 4).min(axis=(1, 3))
    return least.min(axis=1).sum() / x.size


@pytest.mark.parametrize("kind", ["normal", "laplace", "standard_cauchy"])
def test_first_levels_have_less_error_than_even_ones_without_a_trellis(kind):
    x = getattr(np.random.default_rng(0), kind)(size=20_000)
    x = np.clip(x / x.std(), -8, 8)
    values = levels.first_values(levels.counted(x))
    found, reach = levels.rounded(values, np.ones(levels.LEVELS))
    assert (levels.in_order(values) == values).all() and (levels.in_order(found) == found).all()
    assert found.min() > 0 and found.max() < 2 * levels.ZERO
    error = error_of_trellis(x.reshape(-1, 16), (found.astype(float) - levels.ZERO) * reach / (levels.ZERO - 1))
    even = min(np.min((x[:, None] - clip * (np.arange(16) - 7.5) / 8) ** 2, axis=1).mean() for clip in CLIPS)
    assert error < 0.85 * even


def test_levels_without_numbers_and_of_one_number():
    for x in (np.empty(0), np.zeros(5), np.full(5, 1e30), np.full(5, -3.0)):
        found, reach = levels.rounded(levels.first_values(levels.counted(x)), np.ones(levels.LEVELS))
        assert (levels.in_order(found) == found).all() and found.min() > 0 and found.max() < 2 * levels.ZERO
        assert reach > 0


def test_levels_leave_out_few_numbers_far_from_the_others():
    values = np.append(np.linspace(-1, 1, levels.LEVELS - 1), 40.0)
    found, reach = levels.rounded(values, np.append(np.full(levels.LEVELS - 1, 1e6), 1))
    assert reach == 1 and found[-1] == found[-2] == 127


def test_the_codes_of_old_files_are_those_of_nearest_levels():
    """Without a trellis, all states have the same levels."""
    rng = np.random.default_rng(0)
    of_state = np.sort(rng.choice(128, 16, replace=False)).astype(np.uint8)
    x = (rng.normal(size=(50, 40)) * 40).astype(np.float32)
    refinement = Refinement(
        4, np.ones(40, np.float32), levels.of_one_state(of_state), False, np.zeros(40, np.float32), 0
    )
    found = refinement.decode(refinement.encode(x, np.zeros_like(x), 1))
    assert (np.abs(found - x) == np.abs(x[..., None] - (of_state.astype(np.float32) - levels.ZERO)).min(-1)).all()


def residuals(index, x):
    """What codes leave over, and what the refinement codes say is left over."""
    n_threads, refinement = 1, index._refinement
    both = residuals_of(index.quantizer, index.quantizer.rotate(x, n_threads), index.codes, n_threads)
    return both[0], refinement.decode(refinement.encode(*both, n_threads))


def test_gains_leave_little_more_error_than_the_best():
    index = pq("sq4").fit(X).add(X)
    refinement, planes = index._refinement, index._columns.planes()
    rest, found = residuals(index, X)
    error, gains = ((rest - found) ** 2).sum(1), planes.gains[: len(X)]
    assert len(np.unique(gains)) > 8
    centre, exponent = refinement.centre, refinement.exponent
    tried = []
    for gain in GAINS[gains.min() - 8 : gains.max() + 9]:
        with_gain = Refinement(4, refinement.steps * gain, refinement.levels, False, centre, exponent)
        tried.append(((rest - with_gain.decode(with_gain.encode(rest, X, 1))) ** 2).sum(1))
    least = np.min(tried, axis=0)
    assert (least <= 1.0001 * error).all() and error.sum() < 1.01 * least.sum() and (error < 2 * least).all()
    assert (error < 1.0001 * least).mean() > 0.9
    without = np.sum(tried, axis=1).min()
    assert error.sum() < 0.75 * without


@pytest.mark.parametrize("power", [-100, -10, 10, 50])
def test_gains_on_any_scale(power):
    ours, theirs = (pq("sq4").fit(rows).add(rows) for rows in (X, np.ldexp(X, power)))
    np.testing.assert_array_equal(*(index._columns.planes().gains for index in (ours, theirs)))


@pytest.mark.parametrize("power", [0, 3, 9, 14])
def test_rows_of_any_length_keep_their_relative_error(power):
    """A gain spans 32 octaves, so that later rows may be far longer than those that were learned from."""
    index = fpq.PQIndex(4, nbits=4, refine="sq4").fit(X).add(X)
    rest = np.random.default_rng(0).normal(size=(300, X.shape[1])).astype(np.float32) * np.float32(X.std() * 2.0**power)
    found = index._refinement.decode(index._refinement.encode(rest, np.zeros_like(rest), 1))
    assert ((rest - found) ** 2).sum() < 0.02 * (rest**2).sum()


def test_constant_columns_and_rows_without_residuals():
    x = X.copy()
    x[:, 3] = 7
    x[::2] = x[0]
    index = pq("sq4").fit(x).add(x)
    assert index._refinement.steps[3] == 0
    rest, found = residuals(index, x)
    assert not found[:, 3].any() and np.isfinite(found).all()
    assert np.abs(found[::2] - rest[::2]).max() < 1e-4
    assert (index.search(x[:1], 3, rerank=50).ids == [[0, 2, 4]]).all()


def test_steps_that_vanish_beside_outliers_teach_no_levels():
    x = np.random.default_rng(0).standard_cauchy(X.shape).astype(np.float32)
    x[:, 5] *= np.float32(1e-30)
    x[::100] *= np.float32(1e12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = fpq.PQIndex(3, nbits=4, refine="sq4").fit(x)
    assert 0 < index._refinement.steps[5] < LEAST_STEP


@pytest.mark.parametrize("make", [ivf, pq])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [100, 1e5])
def test_few_outliers_leave_other_rows_their_digits(make, kind, factor):
    x = X.copy()
    x[::300] *= np.float32(factor)
    found = make(kind).fit(x).add(x).search(Q, 10, rerank=100, **({"n_probe": 8} if make is ivf else {})).ids
    assert fpq.metrics.recall_at_k(found, fpq.FlatIndex().add(x).search(Q, 10).ids) > 0.88


def test_most_rows_may_be_exact_by_their_codes():
    """Residuals of 0 do not make the others outliers."""
    x = np.vstack([np.repeat(X[:4], 600, axis=0), X[:400]])
    index = fpq.PQIndex(4, nbits=4, refine="sq8").fit(x).add(x)
    error = np.linalg.norm(index.reconstruct(np.arange(2400, 2800)) - X[:400], axis=1)
    assert np.quantile(error, 0.8) < 0.1 * np.linalg.norm(X[:400], axis=1).mean()


@pytest.mark.parametrize("make", [ivf, pq])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 63, 64, 65, 130])
def test_every_instruction_set_gives_the_answers_of_scalar_code(make, kind, n):
    x = clusters(n, 30, seed=3)
    x[1::3] = x[0]  # ties, which go to the lower id
    index, answers = make(kind).fit(X).add(x), []
    before = _native.isa()
    for isa in _native.isas():
        _native.use_isa(isa)
        try:
            copy = pickle.loads(pickle.dumps(index))
            answers.append([a for k in (1, 10, 70) for a in copy.search(np.vstack([Q, x[:1]]), k)])
        finally:
            _native.use_isa(before)
    for other in answers[1:]:
        for ours, scalar in zip(other, answers[0], strict=True):
            np.testing.assert_array_equal(ours, scalar)


@pytest.mark.parametrize("make", [ivf, pq])
def test_queries_in_batches(make):
    """A search has memory for 2**22 candidates; the answers do not show it."""
    index, queries = make("sq8").fit(X).add(X), clusters(1500, 30, seed=2)
    found = index.search(queries, 10, rerank=300)
    parts = [index.search(queries[part], 10, rerank=300) for part in (slice(0, 700), slice(700, None))]
    for ours, theirs in zip(found, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(ours, np.concatenate(theirs))


@pytest.mark.parametrize("make", [ivf, pq])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"residual": False},
        {"metric": "ip"},
        {"metric": "cosine"},
        {"rotation": "opq"},
        {"rotation": "pca", "residual": False},
        {"m": 7, "nbits": 4},
    ],
)
def test_a_refined_distance_is_that_of_the_reconstruction(make, kind, options):
    index = make(kind, **options).fit(X).add(X)
    effort = {"n_probe": 8} if make is ivf else {}
    distances, ids = index.search(Q, 5, rerank=20, **effort)
    found = index.reconstruct(ids.ravel()).reshape(*ids.shape, -1).astype(np.float64)
    queries = Q / np.linalg.norm(Q, axis=1, keepdims=True) if options.get("metric") == "cosine" else Q
    products = np.einsum("id,ikd->ik", queries, found)
    expected = ((found - queries[:, None]) ** 2).sum(2) if "metric" not in options else products
    scale = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(found, axis=2)
    np.testing.assert_allclose(distances, expected, atol=2e-3 * scale.max(), rtol=0)


@pytest.mark.parametrize("make", [ivf, pq])
def test_more_bits_find_more_neighbours(make):
    effort = {"n_probe": 8} if make is ivf else {}
    recalls = [recall(make(kind).fit(X).add(X), rerank=30, **effort) for kind in KINDS]
    plain = recall(make(None).fit(X).add(X), **effort)
    assert plain + 0.2 < recalls[0] < recalls[1] <= recalls[2] + 0.01
    assert recalls[2] > 0.97


def test_without_rerank_ten_candidates_per_neighbour_are_refined():
    index = ivf("sq8").fit(X).add(X)
    for default, given in zip(index.search(Q, 5), index.search(Q, 5, rerank=10), strict=True):
        np.testing.assert_array_equal(default, given)
    index.rerank = 30
    np.testing.assert_array_equal(index.search(Q, 5).ids, index.search(Q, 5, rerank=30).ids)


@pytest.mark.parametrize("make", [ivf, pq])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_depend_on_threads_or_batches(make, kind):
    index = make(kind).fit(X).add(X, np.arange(len(X))[::-1] * 3)
    one = index.search(Q, 7, n_threads=1)
    single = [index.search(q, 7) for q in Q]
    for other in (index.search(Q, 7, n_threads=3), [np.stack([each[i] for each in single]) for i in (0, 1)]):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("make", [ivf, pq])
@pytest.mark.parametrize("kind", KINDS)
def test_changes_leave_the_answers_of_a_new_index(make, kind, tmp_path):
    def same(a, b):
        for x, y in zip(a.search(Q, 9, rerank=20), b.search(Q, 9, rerank=20), strict=True):
            np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(a.reconstruct(np.sort(a.ids)), b.reconstruct(np.sort(b.ids)))

    empty = make(kind).fit(X)
    kept = np.setdiff1d(np.arange(3000), np.arange(0, 3000, 3))
    expected = empty.copy().add(X[kept], kept)
    index = empty.copy().add(X)
    assert index.remove(np.arange(0, 3000, 3)) == 1000
    same(index, expected)
    merged = empty.copy().add(X[kept[:900]], kept[:900]).merge(empty.copy().add(X[kept[900:]], kept[900:]))
    same(merged, expected)
    updated = empty.copy().add(X[kept] + 1, kept).update(X[kept], kept)
    same(updated, expected)
    index.save(tmp_path / "a.fpq")
    expected.save(tmp_path / "b.fpq")
    same(fpq.load(tmp_path / "a.fpq"), expected)
    same(fpq.load(tmp_path / "b.fpq", mmap=True), expected)
    again = index.reset().add(X[kept], kept)
    same(again, expected)


@pytest.mark.parametrize("make", [ivf, pq])
def test_blocks_of_known_number_take_no_more_memory(make, tmp_path, monkeypatch):
    monkeypatch.setattr("fpq.indexes.parts.streaming.ROWS", 128)
    np.save(tmp_path / "x.npy", X)
    trained = make("sq4").fit(X)
    at_once, by_blocks = (trained.copy().add(rows) for rows in (X, np.load(tmp_path / "x.npy", mmap_mode="r")))
    assert by_blocks._columns.nbytes == at_once._columns.nbytes


def test_kept_vectors_rank_the_nearest_by_exact_distances():
    index = ivf("sq4", keep_vectors=True).fit(X).add(X)
    distances, ids = index.search(Q, 10, n_probe=8, rerank=40)
    assert fpq.metrics.recall_at_k(ids, TRUTH) > 0.99
    exact = ((X[ids].astype(np.float64) - Q[:, None]) ** 2).sum(2)
    np.testing.assert_allclose(distances, exact, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 3e17])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_tiny_and_huge_vectors(scale, metric):
    index = ivf("sq8", metric=metric).fit(X * np.float32(scale)).add(X * np.float32(scale))
    ordinary = ivf("sq8", metric=metric).fit(X).add(X)
    found = index.search(Q * np.float32(scale), 10, n_probe=8).ids
    assert fpq.metrics.recall_at_k(found, ordinary.search(Q, 10, n_probe=8).ids) > 0.9


@pytest.mark.parametrize("residual", [True, False])
def test_a_large_offset(residual):
    index = ivf("sq8", residual=residual).fit(X + 1000).add(X + 1000)
    assert fpq.metrics.recall_at_k(index.search(Q + 1000, 10, n_probe=8, rerank=30).ids, TRUTH) > 0.95


def test_outliers_and_constant_columns():
    x = X.copy()
    x[5] = 1e6
    x[:, 3] = 7
    index = ivf("sq8").fit(x).add(x)
    np.testing.assert_allclose(index.reconstruct([5, 6])[:, 3], [7, 7], rtol=1e-5)
    ids = index.search(x[:50], 1, n_probe=8, rerank=50).ids[:, 0]
    assert (ids == np.arange(50)).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 4, 65, 130])
def test_few_rows_and_odd_dimensions(kind, d):
    x = clusters(70, d)
    index = fpq.PQIndex(1, nbits=4, refine=kind).fit(x).add(x[:3])
    distances, ids = index.search(x[:2], 5)
    assert (ids[:, 3:] == -1).all() and np.isinf(distances[:, 3:]).all()
    assert index.search(x[:0], 5).ids.shape == (0, 5)


def test_allowed_ids():
    index = ivf("sq8").fit(X).add(X)
    ids = index.search(Q, 10, n_probe=8, allowed=np.arange(0, 3000, 2)).ids
    assert (ids % 2 == 0).all()


@pytest.mark.parametrize("refine", ["sq5", 8, True])
def test_unknown_kinds_are_refused(refine):
    with pytest.raises(ValueError, match=f"refine: expected one of None, 'sq4', 'sq6', 'sq8', got {refine!r}$"):
        fpq.PQIndex(4, refine=refine)


def test_other_steps_cannot_be_merged():
    index, other = pq("sq8").fit(X).add(X[:9]), pq("sq4").fit(X)
    with pytest.raises(ValueError, match="refine"):
        index.merge(other)


def test_tune_sets_rerank():
    index = ivf("sq8").fit(X).add(X)
    tuned = index.tune(Q, recall=0.9, X=X)
    assert tuned.best.recall >= 0.9
    assert index.rerank is not None


def test_shards(tmp_path):
    index = ivf("sq8").fit(X)
    index.copy().add(X[:1500]).save(tmp_path / "0.fpq")
    index.copy().add(X[1500:], np.arange(1500, 3000)).save(tmp_path / "1.fpq")
    files = [tmp_path / "0.fpq", tmp_path / "1.fpq"]
    sharded = fpq.ShardedIndex.create(tmp_path / "manifest.json", files, offsets=[0, 0])
    assert fpq.metrics.recall_at_k(sharded.search(Q, 10, n_probe=8, rerank=30).ids, TRUTH) > 0.95
    assert fpq.metrics.recall_at_k(sharded.search(Q, 10, n_probe=8).ids, TRUTH) > 0.9
