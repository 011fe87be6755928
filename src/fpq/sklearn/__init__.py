"""scikit-learn estimators based on the indexes of fpq; require scikit-learn.

`ANNTransformer`, `ANNRadiusTransformer`, `ANNClassifier` and `ANNRegressor` replace scikit-learn's
KNeighborsTransformer, RadiusNeighborsTransformer, KNeighborsClassifier and KNeighborsRegressor; `PQTransformer`
computes product quantization codes.
"""

from fpq.sklearn.neighbors import ANNClassifier, ANNRegressor, ANNTransformer
from fpq.sklearn.quantizer import PQTransformer
from fpq.sklearn.radius import ANNRadiusTransformer

__all__ = ["ANNClassifier", "ANNRadiusTransformer", "ANNRegressor", "ANNTransformer", "PQTransformer"]
