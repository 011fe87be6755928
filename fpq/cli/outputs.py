"""Files that commands write: never over an input, over files of other programs only if that is asked for."""

from __future__ import annotations

import argparse
import contextlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from fpq import storage
from fpq._checks import Array
from fpq.sharding import manifest
from fpq.storage import FormatError

MARK = b"fpq"  # how the comment of a file of results begins
PICTURE_MARK = b"Software\0fpq"  # what matplotlib writes into a picture, told so
PICTURE_HEAD = 4096  # bytes of a picture that hold it


def add_force(parser: argparse.ArgumentParser, what: str) -> None:
    """The option that every command which writes has."""
    parser.add_argument("--force", action="store_true", help=f"write over {what} that fpq has not written")


def check(out: str, inputs: Iterable[str | Path], is_own: Callable[[Path], bool], *, force: bool) -> None:
    """See, before any work, that `out` may be written.

    Raises
    ------
    ValueError
        If it is one of the inputs, by whatever name or link.
    OSError
        If its folder is not there, if it is no regular file, or, unless `force`, if it is not `is_own`.
    """
    storage.refuse_input(out, inputs)
    path = Path(out)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {path.absolute().parent}")
    if not path.exists():
        return
    if not path.is_file():
        raise FileExistsError(f"{out}: expected the name of a file, this is none")
    if not force and not is_own(path):
        raise FileExistsError(f"{out}: this file is there and was not written by fpq: --force writes over it")


def is_saved(path: Path) -> bool:
    """Whether `save` has written the file."""
    try:
        storage.describe(path)
    except FormatError:
        return False
    return True


def is_results(path: Path) -> bool:
    """Whether `write_results` has written the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment.startswith(MARK)
    except zipfile.BadZipFile:
        return False


def is_picture(path: Path) -> bool:
    """Whether the demonstration has written the file."""
    with open(path, "rb") as file:
        head = file.read(PICTURE_HEAD)
    return head.startswith(b"\x89PNG") and PICTURE_MARK in head


def write_results(out: str, arrays: dict[str, Array]) -> None:
    """Write an npz file, whole or not at all, that `is_results` knows again."""
    with storage._replacing(Path(out)) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.comment = MARK + b" search"


def files_of_index(file: str) -> Iterator[Path]:
    """All files that a search of an index reads: its own or its manifest and shards, and the vectors kept elsewhere."""
    path = Path(file)
    yield path
    parts = [path]
    with contextlib.suppress(FormatError, OSError):  # opening the index tells
        if path.suffix == ".json":
            parts = [path.parent / shard.file for shard in manifest.read(path).shards]
            yield from parts
    for part in parts:
        with contextlib.suppress(FormatError, OSError):
            kept = storage.describe(part).params.get("keep_vectors")
            if isinstance(kept, dict) and isinstance(kept.get("path"), str):
                yield Path(kept["path"])
