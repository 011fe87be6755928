"""Learning and building on a Dask cluster, or on one machine in pieces: ``import fpq.dask``."""
