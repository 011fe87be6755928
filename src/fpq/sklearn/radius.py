"""All neighbours within a radius as a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fpq import _checks
from fpq._checks import Array, Int64
from fpq.indexes import FlatIndex
from fpq.sklearn._base import ROOTS, IndexBase, centred, checked, threads_of

ROUNDING = 2.0**-20  # of float32 distances: relative for Euclidean ones, absolute for "cosine"
MODES = ("distance", "connectivity")


class ANNRadiusTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, IndexBase):
    """The graph of all neighbours within a radius: a replacement for scikit-learn's RadiusNeighborsTransformer.

    The search is exact, by `fpq.FlatIndex`. DBSCAN with ``metric="precomputed"`` and ``eps <= radius`` therefore finds
    the clusters of an exact search, but for pairs of rows whose distance differs from `eps` by the rounding of float32.

    Parameters
    ----------
    radius : float, default 1.0
        The largest distance. A distance that exceeds `radius` by less than the rounding of float32 counts as `radius`.
    mode : {"distance", "connectivity"}, default "distance"
        Distances, or entries of 1.
    metric : {"euclidean", "minkowski", "sqeuclidean", "cosine"}, default "euclidean"
        The distance. "minkowski", scikit-learn's default, is "euclidean" (p = 2); "cosine" is 1 minus the cosine
        similarity, and 0 below 1e-6, the rounding of float32.
    n_jobs : int or None, default None
        Number of threads; None is the default of the environment, -1 means all processors.

    Attributes
    ----------
    index_ : FlatIndex
        The index of the training rows minus `offset_`.
    offset_, n_samples_fit_, n_features_in_
        As in `ANNTransformer`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.cluster import DBSCAN
    >>> from sklearn.pipeline import make_pipeline
    >>> from fpq.sklearn import ANNRadiusTransformer
    >>> X = np.array([[0.0, 0], [0, 1], [1, 0], [9, 9], [9, 8], [20, 0]])
    >>> ANNRadiusTransformer(radius=1).fit_transform(X).nnz   # each row itself, and three pairs in both directions
    12
    >>> model = make_pipeline(ANNRadiusTransformer(radius=1), DBSCAN(eps=1, min_samples=2, metric="precomputed"))
    >>> model.fit_predict(X).tolist()
    [0, 0, 0, 1, 1, -1]
    """

    index_: FlatIndex

    def __init__(
        self, radius: float = 1.0, *, mode: str = "distance", metric: str = "euclidean", n_jobs: int | None = None
    ) -> None:
        self.radius = radius
        self.mode = mode
        self.metric = metric
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> ANNRadiusTransformer:
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
        _checks.choice("mode", self.mode, MODES)
        _checks.real("radius", self.radius, 0)
        self._fill(FlatIndex(self._index_metric(), n_threads=threads_of(self.n_jobs)), checked(self, X))
        return self

    def transform(self, X: Any) -> Any:
        """The graph of the training rows near the rows of X, scipy.sparse.csr_matrix (nq, n).

        A training row is its own neighbour: with "distance" its entry is an explicit 0, as scikit-learn expects.
        """
        check_is_fitted(self)
        return self.radius_neighbors_graph(checked(self, X, reset=False), mode=self.mode)

    def radius_neighbors_graph(self, X: Any = None, radius: float | None = None, mode: str = "connectivity") -> Any:
        """The graph of all training rows within a radius as a sparse matrix.

        Parameters
        ----------
        X : array (nq, d), optional
            Default: the training rows, each without itself as a neighbour.
        radius : float, optional
            Default: the parameter of the estimator.
        mode : {"connectivity", "distance"}, default "connectivity"
            Entries of 1, or distances by `metric`.

        Returns
        -------
        scipy.sparse.csr_matrix (nq, n), float64
            The entries of a row are ordered by distance.
        """
        check_is_fitted(self)
        _checks.choice("mode", mode, MODES)
        limit = _checks.real("radius", self.radius if radius is None else radius, 0)
        if X is None:
            queries: Array = self.index_.reconstruct(np.arange(self.n_samples_fit_))
        else:
            queries = centred(checked(self, X, reset=False), self.offset_)
        starts, distances, rows = self._within(queries, limit)
        if X is None:
            query = np.repeat(np.arange(len(queries)), np.diff(starts))
            others = rows != query
            starts = np.concatenate([[0], np.cumsum(others)])[starts]
            distances, rows = distances[others], rows[others]
        data = np.ones(len(rows)) if mode == "connectivity" else distances
        return csr_matrix((data, rows, starts), shape=(len(queries), self.n_samples_fit_))

    def _within(self, queries: Array, radius: float) -> tuple[Int64, Array, Int64]:
        """The neighbours of each query: where they start, their float64 distances and their rows."""
        if self.index_._metric.inner_product:
            threshold = 1 - radius - ROUNDING
        else:
            threshold = (radius * radius if self.metric in ROOTS else radius) * (1 + ROUNDING)
        # Any larger radius than the largest float32 contains all rows.
        threshold = min(threshold, float(np.finfo(np.float32).max))
        starts, found, rows = self.index_.range_search(queries, threshold, n_threads=threads_of(self.n_jobs))
        distances = np.minimum(self._distances(found).astype(np.float64), radius)
        if self.index_._metric.inner_product:
            distances[distances < ROUNDING] = 0
        return starts, distances, rows

    @property
    def _n_features_out(self) -> int:
        return self.n_samples_fit_
