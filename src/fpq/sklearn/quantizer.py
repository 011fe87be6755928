"""Product quantization as a step of a scikit-learn pipeline."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fpq._checks import Float32, Float64, UInt8
from fpq.learning.quantizer import ProductQuantizer, RotationName
from fpq.sklearn._base import centre, centred, checked, m_of, seed_of, threads_of


class PQTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Transform vectors to product quantization codes, and codes to vectors.

    Parameters
    ----------
    m : int or None, default 16
        Number of subquantizers, reduced to the number of features (or of `rotation_dim`) if that is smaller. None: from
        the number of features, as in `fpq.ProductQuantizer`.
    nbits, rotation, rotation_dim, open_indexing, n_iter
        As in `fpq.ProductQuantizer`. With `open_indexing` the code of a row depends on the previous rows of the call.
    random_state : int, RandomState or None, default 0
    n_jobs : int or None, default None
        Number of threads; None is the default of the environment, -1 means all processors.

    Attributes
    ----------
    quantizer_ : fpq.ProductQuantizer
        Trained on the training rows minus `offset_`.
    offset_ : float64 (d,) or None
        Subtracted from features before their conversion to float32. None for an offset of 0, and for training rows of
        other types than float64.
    n_features_in_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from fpq.sklearn import PQTransformer
    >>> X = np.random.default_rng(0).normal(size=(1000, 8))
    >>> coder = PQTransformer(m=4, nbits=6).fit(X)
    >>> codes = coder.transform(X)
    >>> codes.shape, codes.dtype       # four sub-codes of six bits
    ((1000, 3), dtype('uint8'))
    >>> coder.inverse_transform(codes).shape
    (1000, 8)
    """

    quantizer_: ProductQuantizer
    offset_: Float64 | None

    def __init__(
        self,
        m: int | None = 16,
        *,
        nbits: int = 8,
        rotation: RotationName | None = None,
        rotation_dim: int | None = None,
        open_indexing: Any = None,
        n_iter: int = 25,
        random_state: Any = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.m = m
        self.nbits = nbits
        self.rotation = rotation
        self.rotation_dim = rotation_dim
        self.open_indexing = open_indexing
        self.n_iter = n_iter
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> PQTransformer:
        """Train rotation and codebooks.

        Parameters
        ----------
        X : array (n, d)
        y : ignored
        """
        X = checked(self, X)
        offset = centre(X)
        width = X.shape[1] if self.rotation_dim is None else self.rotation_dim
        self.quantizer_ = ProductQuantizer(
            m_of(self.m, width), nbits=self.nbits, rotation=self.rotation,
            rotation_dim=self.rotation_dim, open_indexing=self.open_indexing, n_iter=self.n_iter,
            seed=seed_of(self.random_state), n_threads=threads_of(self.n_jobs),
        ).fit(centred(X, offset))  # fmt: skip
        self.offset_ = offset
        return self

    def transform(self, X: Any) -> UInt8:
        """The codes of the rows of X, uint8 (n, code_size); see `fpq.ProductQuantizer.encode`."""
        check_is_fitted(self)
        return self.quantizer_.encode(centred(checked(self, X, reset=False), self.offset_))

    def inverse_transform(self, X: Any) -> Float32 | Float64:
        """The reconstructions (n, d) of codes: float32, or float64 with an `offset_`."""
        check_is_fitted(self)
        vectors = self.quantizer_.decode(X)
        return vectors if self.offset_ is None else vectors + self.offset_

    @property
    def _n_features_out(self) -> int:
        return self.quantizer_.code_size

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # codes are uint8 for inputs of any type
        return tags
