"""scikit-learn estimators over fpq's indexes; needs the extra ``fpq-ann[sklearn]``.

`ANNTransformer`, `ANNClassifier` and `ANNRegressor` take the places of scikit-learn's KNeighborsTransformer,
KNeighborsClassifier and KNeighborsRegressor; `PQTransformer` gives product quantization codes.
"""

from fpq.sklearn.neighbors import ANNClassifier, ANNRegressor, ANNTransformer
from fpq.sklearn.quantizer import PQTransformer

__all__ = ["ANNClassifier", "ANNRegressor", "ANNTransformer", "PQTransformer"]
