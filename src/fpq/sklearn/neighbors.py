"""Nearest neighbours as a graph, for classification and for regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from fpq import _checks
from fpq._checks import Array, Float64
from fpq.sklearn._base import NeighborsBase, checked

Weights = str | Callable[[Array], Array]


class ANNTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, NeighborsBase):
    """The graph of nearest neighbours: a replacement for scikit-learn's KNeighborsTransformer.

    The graph serves Isomap, t-SNE and spectral clustering with ``metric="precomputed"``. DBSCAN needs all neighbours
    within a radius; on a graph of k neighbours it silently returns other clusters. Use `ANNRadiusTransformer` for
    DBSCAN.

    Parameters
    ----------
    n_neighbors : int, default 5
        scikit-learn's TSNE requires at least ``3 * perplexity + 1``.
    mode : {"distance", "connectivity"}, default "distance"
        Distances, or entries of 1. With "distance" each row has ``n_neighbors + 1`` entries, because a training row is
        its own nearest neighbour; the estimators of scikit-learn expect this.
    algorithm : {"auto", "flat", "pq", "ivfpq"}, default "auto"
        `fpq.FlatIndex` (exact), `fpq.PQIndex` or `fpq.IVFPQIndex`. "auto" is "flat" for at most 10,000 training rows,
        "pq" for at most 200,000, "ivfpq" for more.
    metric : {"euclidean", "minkowski", "sqeuclidean", "cosine"}, default "euclidean"
        The distance. "minkowski", scikit-learn's default, is "euclidean" (p = 2); "cosine" is 1 minus the cosine
        similarity.
    m : int or None, default 16
        Number of subquantizers, reduced to the number of features (or of `rotation_dim`) if that is smaller. None: from
        the number of features, as in `fpq.ProductQuantizer`.
    nbits, rotation, rotation_dim, open_indexing
        As in `fpq.PQIndex`.
    n_lists : int, optional
        Number of lists of "ivfpq", at most the number n of training rows. Default: 1.5 sqrt(n).
    n_probe : int, optional
        Lists of "ivfpq" to scan per query; more lists if these have too few rows. Default: 16.
    rerank : int or None, default 10
        Re-rank the ``rerank * n_neighbors`` nearest codes by exact distances; the index keeps the training rows. None:
        distances are those to the reconstructions of the codes, and the index keeps only the codes.
    random_state : int, RandomState or None, default 0
        Seed of the training of "pq" and "ivfpq".
    n_jobs : int or None, default None
        Number of threads; None is the default of the environment, -1 means all processors.

    Attributes
    ----------
    index_ : FlatIndex, PQIndex or IVFPQIndex
        The index of the training rows minus `offset_`.
    offset_ : float64 (d,) or None
        Subtracted from features before their conversion to float32. None for an offset of 0, for training rows of other
        types than float64, and for "cosine".
    n_samples_fit_ : int
    n_features_in_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.manifold import Isomap
    >>> from sklearn.pipeline import make_pipeline
    >>> from fpq.sklearn import ANNTransformer
    >>> X = np.random.default_rng(0).normal(size=(200, 10))
    >>> ANNTransformer(n_neighbors=5).fit_transform(X).shape
    (200, 200)
    >>> model = make_pipeline(ANNTransformer(n_neighbors=10), Isomap(n_neighbors=10, metric="precomputed"))
    >>> model.fit_transform(X).shape
    (200, 2)
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        mode: str = "distance",
        algorithm: str = "auto",
        metric: str = "euclidean",
        m: int | None = 16,
        nbits: int = 8,
        rotation: str | None = None,
        rotation_dim: int | None = None,
        open_indexing: Any = None,
        n_lists: int | None = None,
        n_probe: int | None = None,
        rerank: int | None = 10,
        random_state: Any = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.mode = mode
        self.algorithm = algorithm
        self.metric = metric
        self.m = m
        self.nbits = nbits
        self.rotation = rotation
        self.rotation_dim = rotation_dim
        self.open_indexing = open_indexing
        self.n_lists = n_lists
        self.n_probe = n_probe
        self.rerank = rerank
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> ANNTransformer:
        """Build the index.

        Parameters
        ----------
        X : array (n, d)
        y : ignored

        Warns
        -----
        UserWarning
            If different float64 rows are equal as float32 rows.
        """
        _checks.choice("mode", self.mode, ("distance", "connectivity"))
        self._fit_index(checked(self, X))
        return self

    def transform(self, X: Any) -> Any:
        """The graph of the nearest training rows of the rows of X, scipy.sparse.csr_matrix (nq, n)."""
        return self.kneighbors_graph(X, self.n_neighbors + (self.mode == "distance"), self.mode)

    @property
    def _n_features_out(self) -> int:
        return self.n_samples_fit_


class _Predictor(NeighborsBase):
    """Base of estimators that predict from weighted neighbours."""

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        weights: Weights = "uniform",
        algorithm: str = "auto",
        metric: str = "euclidean",
        m: int | None = 16,
        nbits: int = 8,
        rotation: str | None = None,
        rotation_dim: int | None = None,
        open_indexing: Any = None,
        n_lists: int | None = None,
        n_probe: int | None = None,
        rerank: int | None = 10,
        random_state: Any = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.algorithm = algorithm
        self.metric = metric
        self.m = m
        self.nbits = nbits
        self.rotation = rotation
        self.rotation_dim = rotation_dim
        self.open_indexing = open_indexing
        self.n_lists = n_lists
        self.n_probe = n_probe
        self.rerank = rerank
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _check_weights(self) -> None:
        if not callable(self.weights):
            _checks.choice("weights", self.weights, ("uniform", "distance"))

    def _weighted(self, X: Any) -> tuple[Array, Float64]:
        """The neighbours (nq, k) of the rows of X, and their weights, with sum 1 in each row."""
        distances, rows = self.kneighbors(X)
        if callable(self.weights):
            weights = _checks.numbers("weights", self.weights(distances)).astype(np.float64)
        elif self.weights == "uniform":
            weights = np.ones(rows.shape)
        else:
            same = distances == 0
            with np.errstate(divide="ignore"):
                weights = np.where(same.any(axis=1, keepdims=True), same, 1 / distances.astype(np.float64))
        total = weights.sum(axis=1, keepdims=True)
        if not (total > 0).all():
            raise ValueError(f"weights: expected a positive sum for each query, got {total.min()}")
        return rows, weights / total


class ANNClassifier(ClassifierMixin, _Predictor):
    """Classification by a vote of the nearest neighbours: a replacement for scikit-learn's KNeighborsClassifier.

    Parameters
    ----------
    n_neighbors : int, default 5
    weights : {"uniform", "distance"} or callable, default "uniform"
        Equal weights, or the inverse of the distance; if neighbours have distance 0, only these have weight. A callable
        takes distances (nq, n_neighbors) and returns weights of that shape.
    algorithm, metric, m, nbits, rotation, rotation_dim, open_indexing, n_lists, n_probe, rerank, random_state, n_jobs
        As in `ANNTransformer`.

    Attributes
    ----------
    classes_ : array (n_classes,)
    index_, offset_, n_samples_fit_, n_features_in_
        As in `ANNTransformer`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fpq.sklearn import ANNClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = ANNClassifier(algorithm="pq", rotation="pca", rotation_dim=32, rerank=None).fit(X[:1500], y[:1500])
    >>> bool(model.score(X[1500:], y[1500:]) > 0.95)
    True
    """

    classes_: Array

    def fit(self, X: Any, y: Any) -> ANNClassifier:
        """Build the index and store the classes of the training rows.

        Parameters
        ----------
        X : array (n, d)
        y : array (n,)
            Classes: numbers or strings.
        """
        X, y = checked(self, X, y=y)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self._check_weights()
        self._fit_index(X)
        self.classes_, self._classes = np.unique(y, return_inverse=True)
        return self

    def predict_proba(self, X: Any) -> Float64:
        """The weighted share of each class among the neighbours, float64 (nq, n_classes)."""
        check_is_fitted(self)
        rows, weights = self._weighted(X)
        shares = np.zeros((len(rows), len(self.classes_)))
        queries = np.arange(len(rows))
        for column, weight in zip(rows.T, weights.T, strict=True):
            shares[queries, self._classes[column]] += weight
        return shares

    def predict(self, X: Any) -> Array:
        """The class with the largest weight, (nq,); a tie goes to the first one in `classes_`."""
        shares = self.predict_proba(X)
        classes: Array = self.classes_[shares.argmax(axis=1)]
        return classes


class ANNRegressor(RegressorMixin, _Predictor):
    """Regression by the mean of the nearest neighbours: a replacement for scikit-learn's KNeighborsRegressor.

    Parameters
    ----------
    n_neighbors : int, default 5
    weights : {"uniform", "distance"} or callable, default "uniform"
        As in `ANNClassifier`.
    algorithm, metric, m, nbits, rotation, rotation_dim, open_indexing, n_lists, n_probe, rerank, random_state, n_jobs
        As in `ANNTransformer`.

    Attributes
    ----------
    index_, offset_, n_samples_fit_, n_features_in_
        As in `ANNTransformer`.

    Examples
    --------
    >>> import numpy as np
    >>> from fpq.sklearn import ANNRegressor
    >>> X = np.linspace(0, 1, 101)[:, None]
    >>> model = ANNRegressor(n_neighbors=3).fit(X, X[:, 0] ** 2)
    >>> model.predict([[0.5]]).round(3).tolist()
    [0.25]
    """

    def fit(self, X: Any, y: Any) -> ANNRegressor:
        """Build the index and store the targets of the training rows.

        Parameters
        ----------
        X : array (n, d)
        y : array (n,) or (n, n_outputs)
        """
        X, y = checked(self, X, y=y, multi_output=True, y_numeric=True)
        self._check_weights()
        self._fit_index(X)
        self._targets = np.array(y, dtype=np.float64)
        return self

    def predict(self, X: Any) -> Float64:
        """The weighted mean of the targets of the neighbours, float64 (nq,) or (nq, n_outputs)."""
        check_is_fitted(self)
        rows, weights = self._weighted(X)
        means: Float64 = np.einsum("qk,qk...->q...", weights, self._targets[rows])
        return means

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
