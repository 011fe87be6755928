"""The estimators pass scikit-learn's own checks and stand in for its neighbours.

All checks run; scikit-learn itself skips two kinds: those of pandas objects where pandas is not installed, and those of
the array API where SCIPY_ARRAY_API is not set. None is expected to fail.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn")

from sklearn.base import clone
from sklearn.cluster import DBSCAN
from sklearn.datasets import make_blobs
from sklearn.manifold import Isomap
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    KNeighborsTransformer,
    RadiusNeighborsTransformer,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fpq
from fpq.sklearn import ANNClassifier, ANNRadiusTransformer, ANNRegressor, ANNTransformer, PQTransformer

CODED: list[dict[str, Any]] = [
    {"algorithm": "pq", "nbits": 4},
    {"algorithm": "ivfpq", "nbits": 4, "n_lists": 3, "n_probe": 1},
]
ESTIMATORS = [cls(**options) for cls in (ANNTransformer, ANNClassifier, ANNRegressor) for options in ({}, *CODED)] + [
    PQTransformer(nbits=4),
    ANNRadiusTransformer(),
]


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(ESTIMATORS)
def test_check_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    return make_blobs(n_samples=600, centers=6, n_features=12, random_state=0)


@pytest.mark.parametrize("metric", ["euclidean", "minkowski", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("mode", ["distance", "connectivity"])
def test_flat_graph_equals_scikit_learns(blobs: Any, metric: str, mode: str) -> None:
    X = blobs[0]
    theirs = KNeighborsTransformer(n_neighbors=7, metric=metric, mode=mode).fit(X[:500])
    ours = ANNTransformer(n_neighbors=7, metric=metric, mode=mode).fit(X[:500])
    for rows in (X[:500], X[500:]):
        a, b = theirs.transform(rows), ours.transform(rows)
        assert a.shape == b.shape and a.nnz == b.nnz
        np.testing.assert_allclose(a.toarray(), b.toarray(), rtol=1e-3, atol=5e-3)
    assert list(ours.get_feature_names_out()[:2]) == ["anntransformer0", "anntransformer1"]


@pytest.mark.parametrize(
    ("metric", "radius"), [("euclidean", 5.0), ("minkowski", 5.0), ("sqeuclidean", 25.0), ("cosine", 0.2)]
)
@pytest.mark.parametrize("mode", ["distance", "connectivity"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_radius_graph_equals_scikit_learns(blobs: Any, metric: str, radius: float, mode: str, dtype: Any) -> None:
    X = blobs[0].astype(dtype)
    theirs = RadiusNeighborsTransformer(radius=radius, metric=metric, mode=mode).fit(X[:500])
    ours = ANNRadiusTransformer(radius, metric=metric, mode=mode).fit(X[:500])
    for rows in (X[:500], X[500:]):
        a, b = theirs.transform(rows), ours.transform(rows)
        assert a.shape == b.shape and b.dtype == np.float64
        assert (a.indptr == b.indptr).all()
        np.testing.assert_allclose(a.toarray(), b.toarray(), rtol=1e-3, atol=5e-3)
        for start, end in zip(b.indptr, b.indptr[1:], strict=False):
            assert (np.diff(b.data[start:end]) >= 0).all()
    if mode == "distance":
        graph = ours.transform(X[:500])
        own = graph.indices == np.repeat(np.arange(500), np.diff(graph.indptr))
        assert own.sum() == 500 and (graph.data[own] == 0).all()
    without = ours.radius_neighbors_graph(mode=mode)
    assert without.nnz == ours.transform(X[:500]).nnz - 500
    assert without.diagonal().sum() == 0
    assert list(ours.get_feature_names_out()[:1]) == ["annradiustransformer0"]


@pytest.mark.parametrize("min_samples", [1, 5])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_clusters_of_the_radius_graph(dtype: Any, min_samples: int) -> None:
    X = make_blobs(n_samples=1500, centers=25, n_features=4, cluster_std=0.6, random_state=1)[0].astype(dtype)
    expected = DBSCAN(eps=0.7, min_samples=min_samples, algorithm="brute").fit(X.astype(np.float64))
    cluster = DBSCAN(eps=0.7, min_samples=min_samples, metric="precomputed")
    for radius in (0.7, 1.5):
        model = make_pipeline(ANNRadiusTransformer(radius), clone(cluster))
        assert (model.fit_predict(X) == expected.labels_).all()


@pytest.mark.parametrize("step", [0.1, 1.1, 1 / 3, 1e-5, 12.5])
def test_neighbours_at_the_radius_belong_to_it(step: float) -> None:
    X = np.arange(5.0)[:, None] * step
    assert ANNRadiusTransformer(step).fit_transform(X).nnz == 13
    assert (
        DBSCAN(eps=step, min_samples=2, metric="precomputed")
        .fit_predict(ANNRadiusTransformer(step).fit_transform(X))
        .tolist()
        == [0] * 5
    )
    assert ANNRadiusTransformer(step * 0.999).fit_transform(X).nnz == 5


def test_radius_of_nothing_and_of_everything(blobs: Any) -> None:
    X = np.vstack([blobs[0][:50], blobs[0][:10]])
    for metric in ("euclidean", "sqeuclidean", "cosine"):
        assert ANNRadiusTransformer(0, metric=metric).fit_transform(X).nnz == 80
        assert ANNRadiusTransformer(1e300, metric=metric).fit_transform(X).nnz == 3600
    model = ANNRadiusTransformer(0.5).fit(X)
    assert model.radius_neighbors_graph(X, 1e6).nnz == 3600
    again = pickle.loads(pickle.dumps(model))
    assert (again.transform(X) != model.transform(X)).nnz == 0
    assert clone(model).get_params() == {"radius": 0.5, "mode": "distance", "metric": "euclidean", "n_jobs": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": -1}, "radius: expected a finite number of at least 0"),
        ({"mode": "graph"}, "mode: expected one of 'distance', 'connectivity'"),
        ({"metric": "manhattan"}, "metric: expected one of 'euclidean', 'minkowski'"),
    ],
)
def test_bad_parameters_of_the_radius_graph(blobs: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANNRadiusTransformer(**options).fit(blobs[0])


@pytest.mark.parametrize("options", CODED)
def test_coded_graph_has_the_exact_distances(blobs: Any, options: dict[str, Any]) -> None:
    X = blobs[0].astype(np.float32)
    exact = ANNTransformer(algorithm="flat").fit(X)
    coded = ANNTransformer(**options, rerank=20).fit(X)
    (_, truth), (distances, rows) = exact.kneighbors(X), coded.kneighbors(X)
    assert fpq.metrics.recall_at_k(rows, truth) > 0.8
    np.testing.assert_allclose(distances, np.linalg.norm(X[rows] - X[:, None], axis=2), rtol=1e-4, atol=1e-3)


def test_few_rows_in_the_probed_lists_are_filled_up() -> None:
    X = np.repeat(np.arange(8.0), 5)[:, None] * 100 + np.arange(40)[:, None] / 10
    model = ANNTransformer(n_neighbors=12, algorithm="ivfpq", nbits=3, n_lists=8, n_probe=1).fit(X)
    graph = model.transform(X)
    assert (np.diff(graph.indptr) == 13).all()
    assert graph.indices.min() >= 0


@pytest.mark.parametrize("rerank", [None, 10])
@pytest.mark.parametrize("algorithm", ["flat", "pq"])
def test_neighbours_of_the_training_rows_are_others(blobs: Any, algorithm: str, rerank: int | None) -> None:
    X = np.concatenate([blobs[0], np.tile(blobs[0][:1], (20, 1))])  # equal rows too
    model = ANNTransformer(n_neighbors=5, algorithm=algorithm, nbits=4, rerank=rerank).fit(X)
    rows = model.kneighbors(return_distance=False)
    assert rows.shape == (620, 5)
    assert (rows != np.arange(620)[:, None]).all()
    assert model.kneighbors_graph().shape == (620, 620)


@pytest.mark.parametrize("weights", ["uniform", "distance", lambda distances: np.exp(-distances)])
def test_predictions_equal_scikit_learns(blobs: Any, weights: Any) -> None:
    X, y = blobs
    train, test = slice(0, 500), slice(500, None)
    names = np.array(list("abcdef"))[y]
    theirs = KNeighborsClassifier(weights=weights).fit(X[train], names[train])
    ours = ANNClassifier(weights=weights).fit(X[train], names[train])
    assert (ours.predict(X[test]) == theirs.predict(X[test])).all()
    np.testing.assert_allclose(ours.predict_proba(X[test]), theirs.predict_proba(X[test]), rtol=1e-3, atol=1e-6)
    targets = np.column_stack([X[:, 0], y])
    two = KNeighborsRegressor(weights=weights).fit(X[train], targets[train])
    mean = ANNRegressor(weights=weights).fit(X[train], targets[train])
    np.testing.assert_allclose(mean.predict(X[test]), two.predict(X[test]), rtol=1e-3, atol=1e-3)
    assert mean.fit(X[train], targets[train, 0]).predict(X[test]).shape == (100,)


def test_rows_of_distance_0_decide() -> None:
    model = ANNClassifier(n_neighbors=3, weights="distance").fit([[0.0], [0.0], [1.0], [1.1]], [1, 1, 0, 0])
    assert model.predict_proba([[0.0]]).tolist() == [[0.0, 1.0]]


def test_pipeline_and_grid_search(blobs: Any) -> None:
    X, y = blobs
    pipeline = make_pipeline(StandardScaler(), ANNClassifier(algorithm="pq", nbits=4))
    search = GridSearchCV(pipeline, {"annclassifier__n_neighbors": [1, 5], "annclassifier__m": [4, 12]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.95
    embedded = make_pipeline(ANNTransformer(n_neighbors=300), Isomap(n_neighbors=300, metric="precomputed"))
    assert embedded.fit_transform(X).shape == (600, 2)


def test_pickle_and_clone(blobs: Any) -> None:
    X, y = blobs
    model = ANNClassifier(algorithm="ivfpq", nbits=4, n_lists=5).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict_proba(X) == model.predict_proba(X)).all()
    assert not hasattr(clone(model), "index_")


@pytest.mark.parametrize(
    ("n", "index"), [(10_000, fpq.FlatIndex), (10_001, fpq.PQIndex), (200_000, fpq.PQIndex), (200_001, fpq.IVFPQIndex)]
)
def test_auto(n: int, index: type) -> None:
    assert type(ANNTransformer()._new_index(n, 8)) is index


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "tree"}, "algorithm: expected one of 'auto', 'flat', 'pq', 'ivfpq'"),
        ({"metric": "manhattan"}, "metric: expected one of 'euclidean'"),
        ({"n_neighbors": 0}, "n_neighbors: expected at least 1"),
        ({"weights": "rank"}, "weights: expected one of 'uniform', 'distance'"),
        ({"algorithm": "pq", "m": 0}, "m: expected at least 1"),
        ({"algorithm": "ivfpq", "n_probe": 0}, "n_probe: expected at least 1"),
        ({"rerank": 0}, "rerank: expected at least 1"),
    ],
)
def test_bad_parameters(blobs: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANNClassifier(**options).fit(*blobs)


def test_more_neighbours_than_rows(blobs: Any) -> None:
    model = ANNTransformer(n_neighbors=5).fit(blobs[0][:5])
    assert model.kneighbors(blobs[0], return_distance=False).shape == (600, 5)
    with pytest.raises(ValueError, match="n_neighbors: expected at most 5"):
        model.transform(blobs[0])
    with pytest.raises(ValueError, match="n_neighbors: expected at most 4"):
        model.kneighbors()


def test_codes_and_back() -> None:
    X = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    coder = PQTransformer(m=16, nbits=8, random_state=3)
    codes = coder.fit_transform(X)
    assert codes.dtype == np.uint8 and codes.shape == (500, 6)  # one subquantizer a feature, no more
    assert np.mean((coder.inverse_transform(codes) - X) ** 2) < 0.01
    same = fpq.ProductQuantizer(m=6, seed=3).fit(X)
    assert (same.encode(X) == codes).all()


def test_random_states() -> None:
    X = np.random.default_rng(0).normal(size=(300, 4))
    by_state = [PQTransformer(nbits=3, random_state=np.random.RandomState(1)).fit_transform(X) for _ in range(2)]
    assert (by_state[0] == by_state[1]).all()
    assert PQTransformer(nbits=3, random_state=None, n_jobs=-1).fit_transform(X).shape == (300, 2)


def test_fpq_does_not_import_scikit_learn(tmp_path: Any) -> None:
    code = "import sys, fpq, fpq.cli; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


OFFSETS = {
    "Unix times": 1.7e9 + np.arange(500.0),
    "a large negative offset": -3e12 + np.arange(500.0) / 8,
    "one row far away": np.append(1.7e9 + np.arange(499.0), 0.0),
    "integers": 1_700_000_000 + np.arange(500),
    "large integers": 2**62 + (np.arange(500) << 12),
    "unsigned integers": np.uint64(2**63) + (np.arange(500, dtype=np.uint64) << np.uint64(12)),
}


@pytest.mark.parametrize("scale", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("case", OFFSETS)
def test_features_of_large_offset(case: str, scale: str) -> None:
    X = np.column_stack([OFFSETS[case], np.zeros(500, OFFSETS[case].dtype)])
    y = np.arange(500.0)
    model = ANNRegressor(1, metric=scale).fit(X, y)
    assert (model.predict(X) == y).all()
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict(X) == y).all()
    distances, rows = again.kneighbors(X[10:11], 3)
    assert rows[0, 0] == 10 and set(rows[0, 1:]) == {9, 11}
    step = float(np.diff(OFFSETS[case][:2].astype(object))[0]) if "integers" in case else float(X[1, 0] - X[0, 0])
    assert distances[0, 1] == pytest.approx(step if scale == "euclidean" else step * step)


@pytest.mark.parametrize("options", CODED)
def test_codes_of_features_of_large_offset(blobs: Any, options: dict[str, Any]) -> None:
    X, y = blobs
    plain, moved = (ANNClassifier(5, **options).fit(x, y) for x in (X, X + 2.0**31))
    assert moved.offset_ is not None and moved.score(X + 2.0**31, y) > 0.98
    assert plain.score(X, y) > 0.98
    graph = ANNTransformer(5, **options).fit(X + 2.0**31)
    assert (graph.kneighbors(return_distance=False) != np.arange(600)[:, None]).all()
    coder = PQTransformer(4).fit(X + 2.0**31)
    decoded = coder.inverse_transform(coder.transform(X + 2.0**31))
    assert decoded.dtype == np.float64
    assert np.abs(decoded - 2.0**31 - X).mean() < 1


def test_features_around_zero_stay_as_they_are(blobs: Any) -> None:
    X = blobs[0]
    digits = np.random.default_rng(0).integers(0, 17, (300, 8)).astype(np.float64)
    for x in (X, digits, np.zeros((5, 3)), X.astype(np.float32) + 1000, (X + 128).clip(0, 255).astype(np.uint8)):
        model = ANNTransformer().fit(x)
        assert model.offset_ is None
        index = fpq.FlatIndex().add(x)
        assert (model.index_.reconstruct(index.ids) == index.reconstruct(index.ids)).all()
    assert ANNTransformer(metric="cosine").fit(X + 1e6).offset_ is None


def test_rows_that_float32_cannot_tell_apart() -> None:
    X = np.column_stack([np.repeat([0.0, 1e9], 50), np.zeros(100)]) + np.arange(100.0)[:, None] * [1, 0]
    with pytest.warns(UserWarning, match=r"^X: 50\.00% of the rows \(50\) differ from others in float64"):
        ANNTransformer().fit(X)
    for metric in ("cosine", "euclidean"):
        x = np.vstack([np.eye(3), np.eye(3) * (1 + 1e-12), np.eye(3)])
        with pytest.warns(UserWarning, match=r"^X: 100\.00% of the rows \(9\)"):
            ANNTransformer(2, metric=metric).fit(x)


@pytest.mark.filterwarnings("error")
def test_equal_rows_are_no_reason_to_warn(blobs: Any) -> None:
    X = np.vstack([blobs[0], blobs[0]])
    X[0, 0], X[600, 0] = 0.0, -0.0
    for x in (X, X + 2.0**31, X.astype(np.float32), np.zeros((4, 2)), np.round(X), np.eye(40), np.exp2(np.eye(40))):
        ANNTransformer(3).fit(x)


@pytest.mark.parametrize(
    "estimator", [ANNTransformer(), ANNClassifier(), ANNRegressor(), ANNRadiusTransformer(), PQTransformer(nbits=2)]
)
def test_masked_entries_are_refused(estimator: Any, blobs: Any) -> None:
    X, y = blobs
    masked = np.ma.masked_array(X, mask=X > 5)
    with pytest.raises(ValueError, match=r"^X: expected an array without masked entries"):
        clone(estimator).fit(masked, y)
    fitted = clone(estimator).fit(X, y)
    with pytest.raises(ValueError, match=r"^X: expected an array without masked entries"):
        (fitted.predict if hasattr(fitted, "predict") else fitted.transform)(masked)
    if hasattr(fitted, "predict"):
        with pytest.raises(ValueError, match=r"^y: expected an array without masked entries"):
            clone(estimator).fit(X, np.ma.masked_array(y, mask=y > 3))
