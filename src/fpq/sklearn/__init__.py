"""scikit-learn estimators based on the indexes of fpq; require the extra ``fpq-ann[sklearn]``.

`ANNTransformer`, `ANNClassifier` and `ANNRegressor` replace scikit-learn's KNeighborsTransformer, KNeighborsClassifier
and KNeighborsRegressor; `PQTransformer` computes product quantization codes.
"""

from fpq.sklearn.neighbors import ANNClassifier, ANNRegressor, ANNTransformer
from fpq.sklearn.quantizer import PQTransformer

__all__ = ["ANNClassifier", "ANNRegressor", "ANNTransformer", "PQTransformer"]
