"""Learning and building on a Dask cluster, or on one machine block by block: ``import fpq.dask``.

Dask itself (``pip install 'fpq-ann[dask]'``) is needed for Dask arrays and clusters only.
"""

from fpq.dask.build import build
from fpq.dask.fit import fit

__all__ = ["build", "fit"]
