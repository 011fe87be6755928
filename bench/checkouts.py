"""Two installations of fpq on the same work, alternating, each in its own process.

    python bench/checkouts.py PYTHON_BEFORE PYTHON_AFTER [--only train,encode,...] [--rounds 5] [--threads 1]

Both arguments are Python interpreters, each with its own fpq: the interpreters of two virtual environments, say. A
ratio is the least time of the first divided by the least time of the second: above 1 means that the second is faster.
The least of several times is what the machine's other work disturbs least. Times are CPU seconds with one thread, else
seconds.
The last column tells whether both gave the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Work = Callable[[], Any]


def digest(answer: Any) -> str:
    """A digest of arrays."""
    state = hashlib.blake2b(digest_size=8)
    for array in answer if isinstance(answer, tuple) else (answer,):
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def works(threads: int) -> Iterator[tuple[str, Callable[[], Work]]]:
    """The name of each piece of work, and what prepares it."""
    import fpq

    def data(name: str) -> Any:
        return fpq.datasets.load(name)

    def train(name: str, m: int, nbits: int) -> Work:
        x = np.ascontiguousarray(data(name).base[:50_000])
        return lambda: fpq.ProductQuantizer(m, nbits=nbits, n_threads=threads).fit(x).codebooks

    def encode(name: str, m: int) -> Work:
        x = np.ascontiguousarray(data(name).base[:60_000])
        pq = fpq.ProductQuantizer(m, n_iter=4, n_threads=threads).fit(x)
        return lambda: pq.encode(x)

    def kmeans(k: int, init: str) -> Work:
        x = np.asarray(data("sift500k").base[:100_000], np.float32)
        return lambda: fpq.KMeans(k, n_iter=10, init=init, n_threads=threads).fit(x).centroids

    def batch(index: Any, Q: Any, **options: Any) -> Work:
        return lambda: index.search(Q, **options)

    def single(index: Any, Q: Any, **options: Any) -> Work:
        return lambda: tuple(np.concatenate(a) for a in zip(*(index.search(q, **options) for q in Q), strict=True))

    made: dict[str, Any] = {}

    def index(name: str) -> Any:
        if name not in made:
            x = np.ascontiguousarray(data("sift500k").base[:200_000])
            make = {
                "flat": lambda: fpq.FlatIndex(n_threads=threads),
                "pq": lambda: fpq.PQIndex(16, n_threads=threads),
                "pq4": lambda: fpq.PQIndex(32, nbits=4, n_threads=threads),
                "ivf": lambda: fpq.IVFPQIndex(512, 16, keep_vectors=True, n_threads=threads),
                "ivf-plain": lambda: fpq.IVFPQIndex(512, 16, residual=False, n_threads=threads),
                "e2lsh": lambda: fpq.E2LSHIndex(n_threads=threads),
                "c2lsh": lambda: fpq.C2LSHIndex(n_threads=threads),
                "pmlsh": lambda: fpq.PMLSHIndex(n_threads=threads),
            }[name]
            made[name] = make().fit(x).add(x)
        return made[name]

    queries = np.asarray(data("sift500k").query, np.float32)
    yield "train mnist m=16", lambda: train("mnist", 16, 8)
    yield "train sift m=16", lambda: train("sift500k", 16, 8)
    yield "train sift m=32 4 bits", lambda: train("sift500k", 32, 4)
    yield "train k-means 1024", lambda: kmeans(1024, "random")
    yield "train k-means++ 256", lambda: kmeans(256, "k-means++")
    yield "encode mnist m=16", lambda: encode("mnist", 16)
    yield "encode mnist m=8", lambda: encode("mnist", 8)
    yield "encode sift m=16", lambda: encode("sift500k", 16)
    yield "flat batch", lambda: batch(index("flat"), queries[:500])
    yield "flat single", lambda: single(index("flat"), queries[:50])
    for name in ("pq", "pq4"):
        yield f"{name} batch", lambda name=name: batch(index(name), queries[:500])
        yield f"{name} batch k=100", lambda name=name: batch(index(name), queries[:500], k=100)
        yield f"{name} single", lambda name=name: single(index(name), queries[:100])
    for name in ("ivf", "ivf-plain"):
        for n_probe in (1, 8, 32):
            yield f"{name} batch {n_probe}", lambda name=name, p=n_probe: batch(index(name), queries[:5000], n_probe=p)
            yield f"{name} single {n_probe}", lambda name=name, p=n_probe: single(index(name), queries[:500], n_probe=p)
    yield "ivf rerank", lambda: batch(index("ivf"), queries[:5000], n_probe=16, rerank=10)
    for name in ("e2lsh", "c2lsh", "pmlsh"):
        yield f"{name} batch", lambda name=name: batch(index(name), queries[:200])


def serve(threads: int) -> None:
    """Do the work whose name comes in on each line: answer with seconds and a digest."""
    prepared: dict[str, Work] = {}
    makers = dict(works(threads))
    clock = time.process_time if threads == 1 else time.perf_counter
    for line in sys.stdin:
        name = line.strip()
        if name not in prepared:
            prepared.clear()
            prepared[name] = makers[name]()
            prepared[name]()
        start = clock()
        answer = prepared[name]()
        print(json.dumps([clock() - start, digest(answer)]), flush=True)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs=2)
    parser.add_argument("--only", default="", help="beginnings of names, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    command = [__file__, "--serve", str(arguments.threads)]
    sides = [
        subprocess.Popen([python, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for python in arguments.pythons
    ]

    def ask(side: subprocess.Popen[str], name: str) -> tuple[float, str]:
        assert side.stdin and side.stdout
        print(name, file=side.stdin, flush=True)
        seconds, found = json.loads(side.stdout.readline())
        return seconds, found

    wanted = tuple(arguments.only.split(","))
    print(f"{'work':<24} {'ratio':>6} {'before ms':>10} {'after ms':>10}  bits")
    for name, _ in works(arguments.threads):
        if not name.startswith(wanted):
            continue
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(arguments.rounds):
            answers = [ask(side, name) for side in sides]
            for seconds, (taken, _) in zip(times, answers, strict=True):
                seconds.append(taken)
        before, after = min(times[0]), min(times[1])
        same = "same" if answers[0][1] == answers[1][1] else "differ"
        print(f"{name:<24} {before / after:>6.3f} {before * 1e3:>10.2f} {after * 1e3:>10.2f}  {same}", flush=True)
    for side in sides:
        assert side.stdin
        side.stdin.close()
        side.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
    else:
        main()
