"""The current Dask client, and the errors of a lost connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def default_client() -> Any:
    """The current client, or None."""
    try:
        from distributed import default_client as default

        return default()
    except (ImportError, ValueError):  # distributed is not installed, or no client exists
        return None


@contextlib.contextmanager
def answering(client: Any) -> Iterator[None]:
    """Convert errors of a cluster that does not respond to ConnectionError; `client` may be None."""
    try:
        yield
    except Exception as error:
        lost = client is not None and client.status != "running"
        if lost or type(error).__module__.startswith("distributed."):
            raise ConnectionError(f"the Dask cluster does not respond: {error!r}") from error
        raise
