"""fpq for ann-benchmarks: flat PQ, inverted lists and E2LSH, one query at a time on one core."""

import numpy as np

import fpq

from ..base.module import BaseANN

METRICS = {"euclidean": "l2", "angular": "cosine"}


class _FPQ(BaseANN):
    """What the algorithms share: ids of one query without the -1 of missing results, and batches."""

    def __init__(self, metric):
        if metric not in METRICS:
            raise NotImplementedError(f"fpq has no metric {metric}")
        self._metric = METRICS[metric]
        self._settings = {}

    def _make(self, n, d):
        raise NotImplementedError

    def fit(self, X):
        X = np.ascontiguousarray(X, dtype=np.float32)
        self._index = self._make(*X.shape).fit(X).add(X)

    def query(self, v, n):
        ids = self._index.search(v, n, n_threads=1, **self._settings).ids
        return ids if ids[-1] >= 0 else ids[ids >= 0]

    def batch_query(self, X, n):
        self._batch = self._index.search(X, n, **self._settings).ids

    def get_batch_results(self):
        return [ids[ids >= 0] for ids in self._batch]

    def __str__(self):
        return f"{self.name}, {self._settings}"


class FPQFlat(_FPQ):
    """All codes are scanned."""

    def __init__(self, metric, dims_per_subquantizer, rotation):
        super().__init__(metric)
        self._dims, self._rotation = dims_per_subquantizer, rotation
        self.name = f"FPQFlat(dims={dims_per_subquantizer}, rotation={rotation})"

    def _make(self, n, d):
        m = max(1, d // self._dims)
        return fpq.PQIndex(m, rotation=self._rotation, metric=self._metric, keep_vectors=True)

    def set_query_arguments(self, rerank):
        self._settings = {"rerank": rerank}


class FPQIVF(_FPQ):
    """Codes in inverted lists, the best ones re-ranked by the vectors."""

    def __init__(self, metric, n_lists, dims_per_subquantizer, nbits, residual):
        super().__init__(metric)
        self._n_lists, self._dims, self._nbits, self._residual = n_lists, dims_per_subquantizer, nbits, residual
        self.name = f"FPQIVF(n_lists={n_lists}, dims={dims_per_subquantizer}, nbits={nbits}, residual={residual})"

    def _make(self, n, d):
        return fpq.IVFPQIndex(
            min(self._n_lists, n),
            max(1, d // self._dims),
            nbits=self._nbits,
            residual=self._residual,
            metric=self._metric,
            keep_vectors=True,
        )

    def set_query_arguments(self, n_probe, rerank):
        self._settings = {"n_probe": n_probe, "rerank": rerank}


class FPQE2LSH(_FPQ):
    """Hash tables with multi-probe; there is hardly any training."""

    def __init__(self, metric, n_tables):
        super().__init__(metric)
        self._n_tables = n_tables
        self.name = f"FPQE2LSH(n_tables={n_tables})"

    def _make(self, n, d):
        return fpq.E2LSHIndex(n_tables=self._n_tables, metric=self._metric)

    def set_query_arguments(self, n_probe):
        self._settings = {"n_probe": n_probe}
