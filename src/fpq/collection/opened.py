"""What every use of a collection needs: the store, the present state, the background thread."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fpq import _settings, tuning
from fpq._checks import Array, Int64
from fpq.collection import folding
from fpq.collection.background import Background
from fpq.collection.filters import Filters
from fpq.collection.store import Settings, Store
from fpq.collection.view import State, View
from fpq.progress import Progress

C = TypeVar("C", bound="Opened")
Verbose = bool | Callable[[Progress], None]


class Opened(_settings.Checked):
    """An open collection."""

    n_threads = _settings.Setting(_settings.thread_count)
    verbose = _settings.Setting[Verbose](_settings.flag_or_function)

    def _begin(self, store: Store, background: bool, n_threads: int | None, verbose: Verbose) -> None:
        self.n_threads = n_threads
        self.verbose = verbose
        self._store = store
        self._process = os.getpid()
        self._closed = False
        self._view = View(store, self.n_threads)
        self._filters = Filters(store)
        self._folding = threading.Lock()
        self._in_background = background and not store.read_only
        self._background = Background(self._fold)

    def close(self) -> None:
        """Wait for the background thread, and close all files. A closed collection cannot be used.

        Raises
        ------
        Exception
            The error of the background thread, if it failed after the last call. The files are closed nevertheless.
        """
        if self._closed:
            return
        self._require_own_process()
        self._background.wait()
        self._closed = True
        self._store.close()
        self._view.close()
        self._background.raise_error()

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("Collection: expected no pickling: open the collection in the other process")

    def _require_own_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("Collection: a forked process cannot use the connections of its parent: open it there")

    def _ready(self, *, to_write: bool = False) -> Store:
        """The store, if the collection can be used."""
        self._require_own_process()
        if self._closed:
            raise ValueError("Collection: expected an open collection, got a closed one")
        if to_write and self._store.read_only:
            raise PermissionError("Collection: expected an object that may write, got one with read_only=True")
        self._background.raise_error()
        return self._store

    def _state(self) -> State:
        """The present state; the background thread starts if the tail is long."""
        state = self._view.state()
        self._fold_if_due(state.settings, len(state.tail_ids))
        return state

    def _fold_if_due(self, settings: Settings, tail: int) -> None:
        if self._in_background and folding.is_due(settings, tail):
            self._background.ask()

    def _fold(self, wanted: folding.Tuning | None = None, train: bool = False) -> tuning.Tuning | None:
        with self._folding:
            return folding.fold(self._store, self._view, self.n_threads, wanted=wanted, train=train)

    def _read(self, ids: Int64) -> tuple[Int64, Array]:
        """The row numbers that exist, ascending, and their vectors."""
        with self._store.reader.reading() as db:
            settings = self._store.settings(db)
            found, vectors = self._store.vectors(db, settings, ids.tolist())
        order = np.argsort(found)
        return found[order], vectors[order]

    @property
    def dim(self) -> int | None:
        """Dimension of the vectors; None until the first upsert."""
        return self._present().dim

    @property
    def metric(self) -> str:
        """The metric."""
        return self._present().metric

    @property
    def columns(self) -> list[str]:
        """The names of metadata, each of which is a column for `where`."""
        store = self._ready()
        with store.reader.reading() as db:
            return list(store.names(db, store.settings(db)))

    def _present(self) -> Settings:
        store = self._ready()
        with store.reader.reading() as db:
            return store.settings(db)

    def __repr__(self) -> str:
        where = ":memory:" if self._store.folder is None else str(self._store.folder)
        if self._closed:
            return f"Collection({where!r}, closed)"
        settings = self._present()
        return f"Collection({where!r}, n={settings.rows}, dim={settings.dim}, metric={settings.metric!r})"

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and os.getpid() == self._process:
            with contextlib.suppress(Exception):
                self._store.close()
