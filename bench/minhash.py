"""MinHash beside rensa and datasketch: a million short texts, and which of them are near-duplicates.

    python bench/minhash.py --python PATH [--texts N] [--rounds 3] [--threads 2,1] [--wordnet FOLDER] [--json FILE]

PATH is a Python that has rensa and datasketch. The texts are the descriptions of Debian's packages
(`apt-cache dumpavail`), the glosses of WordNet (Debian: wordnet-base), and copies of these with 5 to 45 % of their
words replaced, left out or doubled. Sets are word bigrams, hashed once by fpq for all libraries, which then do the same
work on the same integers: 128 hash functions; signatures; an index; and for thresholds of 0.5 and 0.8, which texts have
a near-duplicate. All have the same bands (BANDS). fpq tells the pairs, with exact similarities; rensa tells which texts
share a band with another. datasketch takes minutes, so it gets 2 % of the texts, once, and its times are multiplied by
50; it queries the index once per text.

The libraries run in turns, each in a process of its own. Times are medians; a ratio is of medians, in brackets are the
least and the largest ratio of a round. Recall and precision are of the texts found, by exact similarities of a sample
of texts to all texts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

HASHES = 128
BANDS = {"0.5": (32, 4), "0.8": (16, 8)}  # by threshold; rensa takes numbers that divide HASHES
SAMPLE = 2000
PART = 50  # datasketch gets one text in so many


def descriptions() -> Iterator[str]:
    """The descriptions of Debian's packages: of each the first line and the paragraphs."""
    text = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    for record in re.findall(r"^Description(?:-en)?: (.*(?:\n .*)*)", text, re.M):
        first, *rest = record.split("\n")
        yield first
        yield from filter(None, " ".join(line.strip() for line in rest).split(" . "))


def glosses(folder: Path) -> Iterator[str]:
    """The glosses of WordNet."""
    for name in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{name}").read_text(encoding="utf-8").splitlines():
            if "|" in line and not line.startswith("  "):
                yield line.split("|", 1)[1].strip()


def edited(words: list[str], all_words: list[str], rng: np.random.Generator) -> str:
    """A copy with some words replaced, left out or doubled."""
    rate = rng.uniform(0.05, 0.45)
    draws, kinds = rng.random(len(words)), rng.integers(0, 3, len(words))
    out: list[str] = []
    for word, draw, kind in zip(words, draws, kinds, strict=True):
        if draw > rate:
            out.append(word)
        elif kind == 0:
            out.append(all_words[rng.integers(len(all_words))])
        elif kind == 1:
            out += [word, word]
    return " ".join(out)


def texts(n: int, wordnet: Path) -> list[str]:
    """n texts in random order."""
    rng = np.random.default_rng(0)
    found = list(dict.fromkeys(text.lower() for text in (*descriptions(), *glosses(wordnet)) if len(text.split()) > 3))
    sources = [found[i] for i in rng.permutation(len(found))][:n]
    words = [text.split() for text in sources]
    all_words = sorted({word for each in words for word in each})
    copies = [edited(words[rng.integers(len(words))], all_words, rng) for _ in range(n - len(sources))]
    every = sources + copies
    print(f"{n} texts, {len(sources)} of them not copies, {np.mean([len(each) for each in every]):.0f} characters each")
    return [every[i] for i in rng.permutation(n)]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


# ---- the same work in each library: named seconds, and the texts found per threshold ----


def run_fpq(texts: list[str], indptr: Any, indices: Any, threads: int) -> tuple[dict[str, float], Any]:
    import fpq

    seconds, found = {}, {}
    seconds["texts to sets"], _ = timed(lambda: fpq.minhash.shingles(texts, 2, n_threads=threads))
    sets = fpq.indexes.parts.sets.Sets(indptr, indices)
    for bits, name in ((32, "signatures"), (8, "signatures of 8 bits")):
        hashes = fpq.indexes.parts.bands.functions(HASHES, BANDS["0.8"], bits, 0)
        out = np.empty((len(sets), HASHES * bits // 8), np.uint8)
        seconds[name], _ = timed(lambda h=hashes, o=out: fpq.indexes.parts.bands.signed(h, sets, o, threads))
    for threshold in BANDS:
        name = f"near-duplicates {threshold}"
        options = {"bands": BANDS[threshold], "n_threads": threads}
        seconds[name], pairs = timed(
            lambda t=float(threshold), o=options: fpq.minhash.duplicates((indptr, indices), t, **o).pairs
        )
        found[threshold] = np.unique(pairs)
        index = fpq.MinHashIndex(float(threshold), **options)
        seconds[f"index {threshold}"], _ = timed(lambda index=index: index.add((indptr, indices)).search([[1]], 1))
        queries = (indptr[: len(texts) // 10 + 1], indices[: indptr[len(texts) // 10]])
        seconds[f"search for a tenth {threshold}"], _ = timed(lambda index=index, q=queries: index.search(q, 10))
    return seconds, found


def run_rensa(texts: list[str], indptr: Any, indices: Any, threads: int) -> tuple[dict[str, float], Any]:
    from rensa import RMinHash, RMinHashLSH

    seconds, found = {}, {}
    seconds["texts to sets"], tokens = timed(
        lambda: [[f"{a} {b}" for a, b in pairwise(w)] for w in map(str.split, texts)]
    )
    seconds["sets of strings to signatures"], _ = timed(
        lambda: RMinHash.digest_matrix_from_token_sets(tokens, num_perm=HASHES, seed=42)
    )
    offsets = indptr.astype(np.uint64)
    seconds["signatures"], matrix = timed(
        lambda: RMinHash.digest_matrix_from_flat_token_hashes(indices, offsets, num_perm=HASHES, seed=42)
    )
    seconds["signatures of 8 bits"] = seconds["signatures"]  # rensa has those of 32 bits only
    for threshold, (n_bands, _) in BANDS.items():
        lsh = RMinHashLSH(threshold=float(threshold), num_perm=HASHES, num_bands=n_bands)
        name = f"near-duplicates {threshold}"
        spent, flags = timed(lambda lsh=lsh: lsh.query_duplicate_flags_matrix_one_shot(matrix))
        seconds[name], found[threshold] = seconds["signatures"] + spent, np.flatnonzero(flags)
        seconds[f"index {threshold}"], _ = timed(lambda lsh=lsh: lsh.insert_matrix(matrix, 0))
    return seconds, found


def run_datasketch(texts: list[str], indptr: Any, indices: Any, threads: int) -> tuple[dict[str, float], Any]:
    from datasketch import MinHash, MinHashLSH

    seconds, found = {}, {}
    rows = range(len(indptr) // PART)
    items = [indices[indptr[i] : indptr[i + 1]].tolist() for i in rows]
    seconds["signatures"], signatures = timed(
        lambda: list(MinHash.generator(items, num_perm=HASHES, hashfunc=lambda item: item >> 32))
    )
    for threshold, shape in BANDS.items():
        lsh = MinHashLSH(threshold=float(threshold), num_perm=HASHES, params=tuple(shape))
        name = f"near-duplicates {threshold}"

        def search(lsh: Any = lsh) -> list[list[int]]:
            for i, signature in enumerate(signatures):
                lsh.insert(i, signature)
            return [lsh.query(signature) for signature in signatures]

        spent, _ = timed(search)
        seconds[name] = seconds["signatures"] + spent
    return {name: PART * each for name, each in seconds.items()}, found


RUNS = {"fpq": run_fpq, "rensa": run_rensa, "datasketch": run_datasketch}


def work(name: str, folder: Path, threads: int) -> None:
    """One run of one library."""
    lines = (folder / "texts.txt").read_text(encoding="utf-8").split("\n")
    indptr, indices = np.load(folder / "indptr.npy"), np.load(folder / "indices.npy")
    seconds, found = RUNS[name](lines, indptr, indices, threads)
    for threshold, rows in found.items():
        np.save(folder / f"{name}-{threshold}.npy", rows)
    print(json.dumps(seconds))


# ---- the truth ----


def truth(indptr: Any, indices: Any, rows: Any) -> Any:
    """The largest exact similarity of each of some texts to another text."""
    from scipy.sparse import csr_matrix

    _, columns = np.unique(indices, return_inverse=True)
    matrix = csr_matrix((np.ones(len(columns), np.int32), columns, indptr))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    sizes, transposed = np.diff(matrix.indptr), matrix.T.tocsr()
    best = np.zeros(len(rows))
    for at, row in enumerate(rows):
        shared = (matrix[row] @ transposed).tocoo()
        others = shared.col != row
        if others.any():
            both = shared.data[others]
            best[at] = (both / (sizes[shared.col[others]] + sizes[row] - both)).max()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="a Python with rensa and datasketch")
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="2,1")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work[0], Path(args.work[1]), int(args.work[2]))
        return
    import fpq

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = texts(args.texts, args.wordnet)
        (folder / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
        indptr, indices = fpq.minhash.shingles(lines, 2)
        np.save(folder / "indptr.npy", indptr)
        np.save(folder / "indices.npy", indices)
        print(f"{len(indices) / len(lines):.1f} bigrams each")
        report: dict[str, Any] = {"texts": len(lines), "bigrams": len(indices), "seconds": {}}
        for threads in map(int, args.threads.split(",")):
            seconds: dict[str, list[dict[str, float]]] = {}
            for turn in range(args.rounds):
                for library in RUNS if turn == 0 else ("fpq", "rensa"):
                    python = sys.executable if library == "fpq" else args.python
                    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
                    done = subprocess.run(
                        [python, __file__, "--work", library, name, str(threads)],
                        env={**os.environ, **limits},
                        stdout=subprocess.PIPE, check=True,
                    )  # fmt: skip
                    seconds.setdefault(library, []).append(json.loads(done.stdout))
            report["seconds"][threads] = seconds
            show(seconds, threads)
        rows = np.random.default_rng(1).choice(len(lines), min(SAMPLE, len(lines)), replace=False)
        best = truth(indptr, indices, rows)
        for threshold in BANDS:
            right = best >= float(threshold)
            for library in ("fpq", "rensa"):
                found = np.isin(rows, np.load(folder / f"{library}-{threshold}.npy"))
                recall, precision = (found & right).sum() / right.sum(), (found & right).sum() / max(1, found.sum())
                report[f"{library} {threshold}"] = {"recall": recall, "precision": precision}
                print(f"{library} {threshold}: recall {recall:.4f}, precision {precision:.4f} of {right.sum()} texts")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def show(seconds: dict[str, list[dict[str, float]]], threads: int) -> None:
    """Print medians, and ratios to fpq."""
    print(f"\n{threads} thread(s), seconds")
    for name in dict.fromkeys(name for runs in seconds.values() for name in runs[0]):
        cells = []
        for library, runs in seconds.items():
            if name not in runs[0]:
                continue
            each = [run[name] for run in runs]
            cell = f"{library} {statistics.median(each):.2f}"
            if library != "fpq" and name in seconds["fpq"][0]:
                ours = [run[name] for run in seconds["fpq"]]
                by_round = [a / b for a, b in zip(each, ours, strict=False)]
                cell += f" = {statistics.median(each) / statistics.median(ours):.1f} x"
                cell += f" ({min(by_round):.1f} to {max(by_round):.1f})" if len(each) > 1 else ""
            cells.append(cell)
        print(f"{name:32} {'; '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
