"""Training and building on a Dask cluster, or block by block on one machine: ``import fpq.dask``.

Only Dask arrays and clusters require Dask (``pip install 'dask[array,distributed]'``).
"""

from fpq.dask.build import build
from fpq.dask.fit import fit

__all__ = ["build", "fit"]
