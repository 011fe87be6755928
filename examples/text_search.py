"""Search a folder of text files by meaning, or by words, in two commands.

    python examples/text_search.py index FOLDER
    python examples/text_search.py search FOLDER "how do I save an index?" [--where "path LIKE ?" --param "%.md"]

Each paragraph of a file is a row of an `fpq.Collection`, which lies in the folder as `.text-search`. A second `index`
reads only files that have changed since, and forgets those that are gone.

`--model` of `index` says what turns text into vectors; `search` uses the same:

- ``words`` (default): counts of words and pieces of words, by scikit-learn. It needs no model file and knows no
  synonyms.
- Any other name is a model of the package sentence-transformers, which downloads the model at the first use:
  ``--model sentence-transformers/all-MiniLM-L6-v2``.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import fpq
from fpq.collection import Hit

STORE = ".text-search"
ENDINGS = (".txt", ".md", ".rst")
DIMENSIONS = 1024  # of the vectors of `words`
BATCH = 256  # paragraphs that are embedded together
LONGEST = 2000  # characters of a paragraph

Embed = Callable[[list[str]], np.ndarray]


def model(name: str) -> Embed:
    """The function that turns texts into vectors (n, d)."""
    if name == "words":
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.pipeline import make_union

        hashing = dict(n_features=DIMENSIONS // 2, alternate_sign=True)
        pieces = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **hashing)
        both = make_union(HashingVectorizer(stop_words="english", **hashing), pieces)
        return lambda texts: both.transform(texts).toarray().astype(np.float32)
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(name)
    return lambda texts: np.asarray(encoder.encode(texts), np.float32)


def paragraphs(file: Path) -> list[str]:
    """The paragraphs of a file that have at least one word."""
    text = file.read_text(encoding="utf-8", errors="replace")
    pieces = (piece.strip() for piece in re.split(r"\n\s*\n", text))
    return [piece[:LONGEST] for piece in pieces if re.search(r"\w", piece)]


def files(folder: Path) -> Iterator[Path]:
    """The text files of a folder, without hidden folders."""
    for root, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if name.endswith(ENDINGS))


def opened(folder: Path, name: str | None, *, read_only: bool = False) -> tuple[fpq.Collection, str]:
    """The collection of a folder, and the name of its model."""
    path, noted = folder / STORE, folder / STORE / "model.txt"
    if noted.exists():
        known = noted.read_text(encoding="utf-8")
        if name not in (None, known):
            raise SystemExit(
                f"--model: expected {known!r}, the model of {path}, got {name!r}: delete that folder first"
            )
        return fpq.Collection.open(path, read_only=read_only), known
    if read_only:
        raise SystemExit(f"{folder}: expected an indexed folder: call `index` first")
    collection = fpq.Collection.create(path, columns={"path": str, "changed": float, "text": str}, indexed=["path"])
    noted.write_text(name or "words", encoding="utf-8")
    return collection, name or "words"


def index(folder: Path, name: str | None) -> tuple[int, int]:
    """Bring the collection of a folder up to date; the number of files that were read, and of files in all."""
    collection, known = opened(folder, name)
    with collection:
        embed = model(known)
        stored = {row.metadata["path"]: row.metadata["changed"] for row in collection.get(list(collection))}
        present = {file.relative_to(folder).as_posix(): file for file in files(folder)}
        for path in stored.keys() - present.keys():
            collection.delete(where="path = ?", params=[path])
        stale = [path for path, file in present.items() if stored.get(path) != file.stat().st_mtime]
        for path in stale:
            collection.delete(where="path = ?", params=[path])
            changed, texts = present[path].stat().st_mtime, paragraphs(present[path])
            for start in range(0, len(texts), BATCH):
                batch = texts[start : start + BATCH]
                keys = [f"{path}#{number}" for number in range(start, start + len(batch))]
                metadata = [{"path": path, "changed": changed, "text": text} for text in batch]
                collection.upsert(keys, embed(batch), metadata)
    return len(stale), len(present)


def search(folder: Path, query: str, k: int, where: str | None, params: list[str] | None) -> list[Hit]:
    """The paragraphs nearest to a text."""
    collection, known = opened(folder, None, read_only=True)
    with collection:
        hits: list[Hit] = collection.search(model(known)([query])[0], k, where=where, params=params)
    return hits


def main() -> None:
    """Read the command line and run a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("index", help="bring the collection of a folder up to date")
    command.add_argument("folder", type=Path)
    command.add_argument("--model", help="default: that of the last call, or words")
    command = commands.add_parser("search", help="find paragraphs")
    command.add_argument("folder", type=Path)
    command.add_argument("query")
    command.add_argument("-k", type=int, default=5)
    command.add_argument("--where", help="a condition in SQL over path, changed (seconds since 1970) and text")
    command.add_argument("--param", action="append", help="the value of a ? in the condition")
    options = parser.parse_args()
    if options.command == "index":
        read, n = index(options.folder, options.model)
        print(f"read {read:,} of {n:,} files")
        return
    for hit in search(options.folder, options.query, options.k, options.where, options.param):
        print(f"{hit.distance:.3f}  {hit.metadata['path']}\n       {' '.join(hit.metadata['text'].split())[:200]}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"text_search: {error}") from None
