"""The indexes that are compared, one function each: from vectors to a search, with the settings to try."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

K = 10
LISTS = {"mnist": 256, "sift500k": 1024}
PROBES = (1, 2, 4, 8, 16, 32, 64, 128)
RERANKS = (1, 2, 5, 10, 20, 40)  # candidates a neighbour


class Built(NamedTuple):
    """An index, the settings to try, how to search it, and the bytes it holds."""

    settings: Iterable[Any]
    search: Callable[[np.ndarray, Any], np.ndarray]  # queries, setting -> ids
    nbytes: int


Build = Callable[[np.ndarray], Built]


def flat(base: np.ndarray) -> Built:
    """Exact search."""
    import fpq

    index = fpq.FlatIndex().add(base)
    return Built([None], lambda q, _: index.search(q, K, n_threads=1).ids, index.nbytes)


def lsh(kind: str, settings: Iterable[int], option: str) -> Build:
    """An LSH index with its defaults, `option` for the effort."""

    def build(base: np.ndarray) -> Built:
        import fpq

        index = getattr(fpq, kind)().fit(base).add(base)
        return Built(settings, lambda q, s: index.search(q, K, n_threads=1, **{option: s}).ids, index.nbytes)

    return build


def pq(m: int, reranks: Iterable[int | None] = (None,), **options: Any) -> Build:
    """PQIndex; with a number in `reranks` it keeps the vectors."""

    def build(base: np.ndarray) -> Built:
        import fpq

        index = fpq.PQIndex(m, keep_vectors=any(reranks), **options).fit(base).add(base)
        return Built(reranks, lambda q, r: index.search(q, K, rerank=r, n_threads=1).ids, index.nbytes)

    return build


def ivfpq(n_lists: int, m: int, rerank: bool = False, **options: Any) -> Build:
    """IVFPQIndex by the number of probes and, if it keeps the vectors, of candidates."""
    settings = list(itertools.product(PROBES, RERANKS if rerank else (None,)))

    def build(base: np.ndarray) -> Built:
        import fpq

        index = fpq.IVFPQIndex(n_lists, m, keep_vectors=rerank, **options).fit(base).add(base)

        def search(queries: np.ndarray, setting: tuple[int, int | None]) -> np.ndarray:
            return index.search(queries, K, n_probe=setting[0], rerank=setting[1], n_threads=1).ids

        return Built(settings, search, index.nbytes)

    return build


def faiss_index(factory: str, settings: Iterable[Any] = ((None, None),)) -> Build:
    """An index of faiss's factory; a setting is the number of probes and the factor of its re-ranking."""

    def build(base: np.ndarray) -> Built:
        import faiss

        vectors = base.astype(np.float32)
        index = faiss.index_factory(vectors.shape[1], factory)
        index.train(vectors)
        index.add(vectors)
        space, refined = faiss.ParameterSpace(), isinstance(index, faiss.IndexRefine)
        faiss.omp_set_num_threads(1)

        def search(queries: np.ndarray, setting: tuple[int | None, int | None]) -> np.ndarray:
            probes, factor = setting
            if probes is not None:
                space.set_index_parameter(index, "nprobe", probes)
            if refined:
                index.k_factor = factor
            return index.search(queries.astype(np.float32), K)[1]

        return Built(settings, search, len(faiss.serialize_index(index)))

    return build


def indexes(name: str) -> dict[str, Build]:
    """What is compared; numbers are bytes a code.

    RaBitQ takes 24 for 128 dimensions (all of SIFT, or MNIST's first principal ones), 106 for MNIST's 784, and 84 with
    four bits for each of 128 dimensions.
    """
    lists = LISTS[name]
    rotated = {"rotation": "pca", "rotation_dim": 128} if name == "mnist" else {}
    front = "PCAR128" if name == "mnist" else "RR"
    probes, refined = (list(itertools.product(PROBES, reranks)) for reranks in ((None,), RERANKS))
    found = {
        "FlatIndex, exact": flat,
        "E2LSHIndex": lsh("E2LSHIndex", (2, 8, 16, 32, 64, 128, 256, 512, 1024, 2048), "n_probe"),
        "C2LSHIndex": lsh("C2LSHIndex", (20, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800), "n_candidates"),
        "PQIndex 24": pq(24, **rotated),
        "PQIndex 16, rerank": pq(16, (*RERANKS, 80), **rotated),
        "IVFPQIndex 24": ivfpq(lists, 24, **rotated),
        "IVFPQIndex 16, rerank": ivfpq(lists, 16, True, residual=False, **rotated),
        "faiss RaBitQ 24": faiss_index(f"{front},RaBitQfs"),
        "faiss IVF RaBitQ 24": faiss_index(f"{front},IVF{lists},RaBitQfs", probes),
        "faiss IVF RaBitQ 24, rerank": faiss_index(f"{front},IVF{lists},RaBitQfs,Refine(SQ8_direct)", refined),
    }
    if name == "mnist":
        found["PQIndex 106"] = pq(106, rotation="pca", rotation_dim=212)
        found["faiss RaBitQ 106"] = faiss_index("RR,RaBitQfs")
    else:
        found["PQIndex 84"] = pq(84)
        found["faiss RaBitQ 84"] = faiss_index("RR,RaBitQfs4")
    return found
