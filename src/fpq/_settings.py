"""Attributes of indexes and quantizers that are checked on every assignment.

Attributes that control a call (n_threads, n_probe, seed, ...) may be set at any time. Attributes on which codes, hashes
or counters depend (m, metric, n_lists, ...) are set once, by the constructor. Every accepted value can be saved.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import numpy as np

from fpq import _checks, threads

T = TypeVar("T")
R = TypeVar("R")

# What users of faiss, hnswlib, usearch and scikit-learn look for, and what fpq calls it.
NAMES_ELSEWHERE = {
    "nprobe": "n_probe", "nlist": "n_lists", "ntotal": "len(index)", "d": "dim", "train": "fit",
    "add_with_ids": "add(X, ids)", "remove_ids": "remove", "ef": "n_probe or rerank (fpq has no graph index)",
    "efSearch": "n_probe or rerank (fpq has no graph index)", "set_ef": "n_probe or rerank (fpq has no graph index)",
    "expansion_search": "n_probe or rerank (fpq has no graph index)", "init_index": "fit", "add_items": "add",
    "knn_query": "search", "mark_deleted": "remove", "get_items": "reconstruct", "save_index": "save",
    "load_index": "fpq.load", "get": "reconstruct", "kneighbors": "search", "query": "search", "partial_fit": "add",
}  # fmt: skip
MOST_SEED = (1 << 128) - 1  # the entropy of NumPy's generators has 128 bits


class Setting(Generic[T]):
    """An attribute of a `Checked` object. An assignment stores the result of `check(name, value)`.

    A check raises ValueError or TypeError that names the attribute; the old value then stays. The value is stored in
    the ``__dict__`` of its object, so reads are as fast as those of a plain attribute.
    """

    def __init__(self, check: Callable[[str, Any], T]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, owner: None, kind: type) -> Setting[T]: ...
    @overload
    def __get__(self, owner: object, kind: type) -> T: ...
    def __get__(self, owner: object | None, kind: type) -> Setting[T] | T:
        if owner is None:
            return self
        raise AttributeError(f"{kind.__name__!r} object has no attribute {self._name!r}")

    if TYPE_CHECKING:  # values of any type may be assigned

        def __set__(self, owner: object, value: Any) -> None: ...

    def checked(self, owner: object, value: Any) -> T:
        """The value to store."""
        return self._check(self._name, value)


class Fixed(Setting[T]):
    """A setting that only the constructor assigns, because the content of the object depends on it."""

    def checked(self, owner: object, value: Any) -> T:
        """As `Setting.checked`; AttributeError for a second assignment."""
        if self._name in vars(owner):
            kind = type(owner).__name__
            raise AttributeError(f"{self._name}: cannot be changed, make a new {kind} with {self._name}={value!r}")
        return super().checked(owner, value)


class Checked:
    """A class whose settings are checked on every assignment. Public attributes must be declared in the class."""

    _declared: frozenset[str]  # the names of all members and annotated attributes

    def __init_subclass__(cls, **options: Any) -> None:
        """Collect the declared names."""
        super().__init_subclass__(**options)
        cls._declared = frozenset(dir(cls)).union(*map(inspect.get_annotations, cls.__mro__))

    if not TYPE_CHECKING:  # for a type checker, the attributes are those that the class declares

        def __setattr__(self, name: str, value: Any) -> None:
            known = getattr(type(self), name, None)
            if isinstance(known, Setting):
                value = known.checked(self, value)
            elif not name.startswith("_") and name not in self._declared:
                raise AttributeError(self._unknown(name))
            object.__setattr__(self, name, value)

        def __getattr__(self, name: str) -> Any:
            """Called for an attribute that does not exist: say what fpq calls it."""
            error = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(self._unknown(name) if name in NAMES_ELSEWHERE else error, name=name, obj=self)

    def _unknown(self, name: str) -> str:
        """The message for a public attribute that the class does not have."""
        settings = [each for each in dir(type(self)) if type(getattr(type(self), each, None)) is Setting]
        advice = NAMES_ELSEWHERE.get(name, "")
        if advice.isidentifier() and not hasattr(type(self), advice):
            advice = ""
        advice = advice or next(iter(get_close_matches(name, settings, 1)), "")
        hint = f"did you mean {advice}?" if advice else f"its settings are {', '.join(settings)}"
        more = "" if type(self).__module__.startswith("fpq.") else f" (a subclass declares its own: {name}: type)"
        return f"{type(self).__name__} has no attribute {name!r}: {hint}{more}"


def checked(name: str, value: T) -> T:
    """No check: the constructor has checked the value together with others."""
    return value


def integer(low: int, high: int | None = None) -> Callable[[str, Any], int]:
    """The check for an integer between `low` and `high`."""
    return lambda name, value: _checks.integer(name, value, low, high)


def at_least(low: int, most: int) -> Callable[[str, Any], int]:
    """The check for an integer of at least `low`; errors mention the limit `most` only for values above it."""

    def check(name: str, value: Any) -> int:
        enough = isinstance(value, (int, np.integer)) and value >= low
        return _checks.integer(name, value, low, most if enough else None)

    return check


def real(low: float) -> Callable[[str, Any], float]:
    """The check for a finite number of at least `low`."""
    return lambda name, value: _checks.real(name, value, low)


def choice(*options: R, elsewhere: Mapping[str, R] | None = None) -> Callable[[str, Any], R]:
    """The check for one of several values; errors suggest the value that other libraries name as in `elsewhere`."""

    def check(name: str, value: Any) -> R:
        chosen: R = _checks.choice(name, value, options, elsewhere)
        return chosen

    return check


def optional(check: Callable[[str, Any], R]) -> Callable[[str, Any], R | None]:
    """The check for None or a value that passes `check`."""
    return lambda name, value: None if value is None else check(name, value)


def known_after_fit(check: Callable[[str, Any], R]) -> Callable[[str, Any], R]:
    """The check for a value that passes `check`, or None until `fit` chooses. The type is that of a trained object."""
    return lambda name, value: cast("R", None) if value is None else check(name, value)


def flag_or_function(name: str, value: Any) -> bool | Callable[..., Any]:
    """Check that `value` is True, False or a function."""
    try:
        return cast("Callable[..., Any]", value) if callable(value) else flag(name, value)
    except ValueError:
        raise ValueError(f"{name}: expected True, False or a function, got {value!r}") from None


def flag(name: str, value: Any) -> bool:
    """Check that `value` is True or False."""
    return bool(_checks.choice(name, value, (False, True)))


def flag_or_path(name: str, value: Any) -> bool | str:
    """Check that `value` is True, False or the path of a .npy file."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str):
        raise TypeError(f"{name}: expected False, True or the path of a .npy file, got {value!r}")
    return path


def thread_count(name: str, value: Any) -> int | None:
    """Check that `value` is None or a number of threads."""
    threads.resolve(value)
    return None if value is None else _checks.integer(name, value, 1)


def seed(name: str, value: Any) -> int:
    """Check that `value` is a seed."""
    return at_least(0, MOST_SEED)(name, value)
