"""Output files of commands: never an input; files of other programs are overwritten only with --force."""

from __future__ import annotations

import argparse
import contextlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from fpq import _files, storage
from fpq._checks import Array
from fpq.sharding import manifest
from fpq.storage import FormatError

MARK = b"fpq"  # the start of the comment of a file of results
PICTURE_MARK = b"Software\0fpq"  # the metadata that the demonstration gives to matplotlib
PICTURE_HEAD = 4096  # the first bytes of a picture, which contain the mark


def add_force(parser: argparse.ArgumentParser, output: str) -> None:
    """Add the option of all commands that write a file."""
    parser.add_argument("--force", action="store_true", help=f"overwrite {output} even if another program wrote it")


def check(out: str, inputs: Iterable[str | Path], is_own: Callable[[Path], bool], *, force: bool) -> None:
    """Check before any work that `out` may be written.

    Raises
    ------
    ValueError
        If `out` is one of the inputs, under any name or link.
    OSError
        If the folder is missing, `out` exists and is not a regular file, or `is_own` is false and `force` not given.
    """
    _files.refuse_input(out, inputs)
    path = Path(out)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out}: expected an existing folder, got {path.absolute().parent}")
    if not path.exists():
        return
    if not path.is_file():
        raise FileExistsError(f"{out}: expected the name of a regular file, got another kind of file")
    if not force and not is_own(path):
        raise FileExistsError(f"{out}: the file exists and was not written by fpq; --force overwrites it")


def is_saved(path: Path) -> bool:
    """Whether `save` wrote the file."""
    try:
        storage.describe(path)
    except FormatError:
        return False
    return True


def is_results(path: Path) -> bool:
    """Whether `write_results` wrote the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment.startswith(MARK)
    except zipfile.BadZipFile:
        return False


def is_picture(path: Path) -> bool:
    """Whether the demonstration wrote the file."""
    with open(path, "rb") as file:
        head = file.read(PICTURE_HEAD)
    return head.startswith(b"\x89PNG") and PICTURE_MARK in head


def write_results(out: str, arrays: dict[str, Array]) -> None:
    """Write an npz file atomically, with the mark of `is_results`."""
    with _files.replacing(Path(out)) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.comment = MARK + b" search"


def files_of_index(file: str) -> Iterator[Path]:
    """All files that a search reads: the file or the manifest and shards of the index, and files of kept vectors."""
    path = Path(file)
    yield path
    parts = [path]
    with contextlib.suppress(FormatError, OSError):  # raised when the index is opened
        if path.suffix == ".json":
            parts = [path.parent / shard.file for shard in manifest.read(path).shards]
            yield from parts
    for part in parts:
        with contextlib.suppress(FormatError, OSError):
            kept = storage.describe(part).params.get("keep_vectors")
            if isinstance(kept, dict) and isinstance(kept.get("path"), str):
                yield Path(kept["path"])
