"""The Dask client in use, and what happens when its scheduler goes away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def default_client() -> Any:
    """The client in use; None if there is none."""
    try:
        from distributed import default_client as default

        return default()
    except (ImportError, ValueError):  # not installed; no client
        return None


@contextlib.contextmanager
def answering(client: Any) -> Iterator[None]:
    """Turn errors of a cluster that does not answer into ConnectionError; `client` may be None."""
    try:
        yield
    except Exception as error:
        lost = client is not None and client.status != "running"
        if lost or type(error).__module__.startswith("distributed."):
            raise ConnectionError(f"the Dask cluster does not answer: {error!r}") from error
        raise
