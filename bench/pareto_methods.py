"""The indexes of the benchmark, each built and searched in a process of its own; needs NumPy and its library alone.

`python pareto_methods.py PIPE METHOD SET FOLDER THREADS` is started by `pareto.py`. The process reads `base.npy` and
`query.npy` in FOLDER, builds the index, and then searches with each setting that arrives by the file descriptor PIPE.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

K = 10
Search = Callable[[np.ndarray, int, int], np.ndarray]  # queries, effort, candidates per neighbour -> ids
Save = Callable[[Path], Any]  # writes the index to a file or folder


class Set(NamedTuple):
    """A data set: the metric of fpq, and the parameters of inverted lists."""

    metric: str
    lists: int  # of fpq; more or fewer, by factors of 2, were not faster at a recall of 0.95
    peer_lists: int  # of the others
    m: int  # subquantizers of 8 bits of fpq
    peer_m: int  # of the others
    scann_block: int  # dimensions of a 4-bit code of ScaNN


SETS = {
    "sift500k": Set("l2", 1024, 2048, 16, 16, 4),
    "minilm": Set("cosine", 100, 200, 32, 32, 4),
    "glove50": Set("ip", 1024, 1024, 17, 25, 2),
}
PROBES = (2, 4, 8, 16, 24, 32, 48, 64, 96, 160, 256)
EF = (10, 16, 24, 32, 48, 64, 96, 150, 250, 400, 640)
RERANKS = (4, 8, 16, 32)


def fpq_index(of: Set, base: np.ndarray, threads: int, **parameters: Any) -> tuple[Search, Save]:
    """IVFPQIndex of fpq."""
    import fpq
    from fpq.recommendation import fewer_bits

    m = of.m * 3 // 2 if parameters.get("refine") == "sq4" else of.m  # what 4 bits refine must be small
    m = fewer_bits(m, base.shape[1]) if parameters.get("nbits") == 4 else m
    index = fpq.IVFPQIndex(of.lists, m, metric=of.metric, n_threads=threads, **parameters).fit(base).add(base)

    def search(queries: np.ndarray, effort: int, rerank: int) -> np.ndarray:
        count = threads if len(queries) > 1 else 1
        return index.search(queries, K, n_probe=effort, rerank=rerank or None, n_threads=count).ids

    return search, index.save


def faiss_index(of: Set, base: np.ndarray, threads: int, factory: str, parameter: str) -> tuple[Search, Save]:
    """An index of faiss's factory; the effort goes into `parameter`, candidates per neighbour into `k_factor_rf`."""
    import faiss

    metric = faiss.METRIC_L2 if of.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(
        base.shape[1], factory.format(lists=of.peer_lists, m=of.peer_m, nibbles=2 * of.peer_m), metric
    )
    if parameter == "efSearch":
        index.hnsw.efConstruction = 100
    if factory.startswith("IVF{lists},PQ{m}"):
        index.do_polysemous_training = False  # minutes of work, which helps only searches by Hamming distance
    vectors = base.astype(np.float32)
    faiss.omp_set_num_threads(1)  # with more, the many short steps of PQ training stall on busy cores
    index.train(vectors)
    faiss.omp_set_num_threads(threads)
    index.add(vectors)
    space = faiss.ParameterSpace()

    def search(queries: np.ndarray, effort: int, rerank: int) -> np.ndarray:
        faiss.omp_set_num_threads(threads if len(queries) > 1 else 1)
        space.set_index_parameter(index, parameter, effort)
        if rerank:
            space.set_index_parameter(index, "k_factor_rf", rerank)
        return np.asarray(index.search(queries, K)[1])

    return search, lambda path: faiss.write_index(index, str(path))


def scann_index(of: Set, base: np.ndarray, threads: int, reorder: str) -> tuple[Search, Save]:
    """ScaNN: a tree, asymmetric hashing, re-ordering by vectors of type `reorder`."""
    import scann
    from scann.scann_ops.py.scann_builder import ReorderType

    index = (
        scann.scann_ops_pybind.builder(
            base.astype(np.float32),
            K,
            "squared_l2" if of.metric == "l2" else "dot_product",
        )
        .set_n_training_threads(threads)
        .tree(of.peer_lists, 32, training_sample_size=250_000)
        .score_ah(of.scann_block, anisotropic_quantization_threshold=0.2)
        .reorder(100, ReorderType[reorder])
        .build()
    )
    index.set_num_threads(threads)

    def search(queries: np.ndarray, effort: int, rerank: int) -> np.ndarray:
        if len(queries) == 1:
            return np.asarray(index.search(queries[0], K, rerank * K, effort)[0][None])
        return np.asarray(index.search_batched_parallel(queries, K, rerank * K, effort)[0])

    def save(path: Path) -> None:
        path.mkdir()
        index.serialize(str(path))

    return search, save


def symphony_index(of: Set, base: np.ndarray, threads: int, **parameters: Any) -> tuple[Search, Save]:
    """SymphonyQG of rabitqlib, degree 32."""
    import rabitqlib

    index = rabitqlib.SymqgIndex(base.shape[1], 32, metric="l2" if of.metric == "l2" else "ip", **parameters)
    index.build(base.astype(np.float32), 200, num_threads=threads)

    def search(queries: np.ndarray, effort: int, _: int) -> np.ndarray:
        if len(queries) == 1:
            return np.asarray(index.search(queries, K, effort)[0]).reshape(1, -1)
        return np.asarray(index.search_batch(queries, K, effort, num_threads=threads)[0])

    return search, lambda path: index.save(str(path))


def rabitq_index(of: Set, base: np.ndarray, threads: int, bits: int) -> tuple[Search, Save]:
    """Inverted lists with RaBitQ codes, of rabitqlib; faiss trains the centroids."""
    import faiss
    import rabitqlib

    faiss.omp_set_num_threads(threads)
    vectors = base.astype(np.float32)
    kmeans = faiss.Kmeans(base.shape[1], of.peer_lists, niter=10, spherical=of.metric != "l2")
    kmeans.train(vectors)
    lists = kmeans.index.search(vectors, 1)[1].ravel().astype(np.uint32)
    index = rabitqlib.IvfIndex(
        base.shape[1],
        len(base),
        of.peer_lists,
        bits,
        metric="l2" if of.metric == "l2" else "ip",
    )
    index.build(vectors, kmeans.centroids, lists, num_threads=threads)

    def search(queries: np.ndarray, effort: int, _: int) -> np.ndarray:
        count = threads if len(queries) > 1 else 1
        return np.asarray(index.search(queries, K, effort, num_threads=count)[0]).reshape(len(queries), -1)

    return search, lambda path: index.save(str(path))


def svs_index(of: Set, base: np.ndarray, threads: int, primary: int, residual: int) -> tuple[Search, Save]:
    """Vamana of SVS, degree 32, over LVQ codes."""
    import svs

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "base.fvecs")
        svs.write_vecs(base.astype(np.float32), path)
        vectors = svs.VectorDataLoader(path, svs.DataType.float32, dims=base.shape[1])
        index = svs.Vamana.build(
            svs.VamanaBuildParameters(
                alpha=1.2 if of.metric == "l2" else 0.95,
                graph_max_degree=32,
                window_size=100,
            ),
            svs.LVQLoader(vectors, primary=primary, residual=residual),
            svs.DistanceType.L2 if of.metric == "l2" else svs.DistanceType.MIP,
            num_threads=threads,
        )

    def search(queries: np.ndarray, effort: int, _: int) -> np.ndarray:
        index.num_threads = threads if len(queries) > 1 else 1
        index.search_window_size = effort
        return np.asarray(index.search(queries, K)[0])

    def save(path: Path) -> None:
        path.mkdir()
        index.save(*(str(path / part) for part in ("config", "graph", "data")))

    return search, save


def usearch_index(of: Set, base: np.ndarray, threads: int) -> tuple[Search, Save]:
    """The graph of usearch over int8 vectors; uint8 vectors are moved by 128, which keeps their distances."""
    from usearch.index import Index

    def cast(x: np.ndarray) -> np.ndarray:
        return (x - 128).astype(np.int8) if of.metric == "l2" else x

    metric = "l2sq" if of.metric == "l2" else "cos"
    index = Index(
        ndim=base.shape[1],
        metric=metric,
        dtype="i8",
        connectivity=16,
        expansion_add=100,
    )
    index.add(np.arange(len(base)), cast(base.astype(np.float32)), threads=threads)

    def search(queries: np.ndarray, effort: int, _: int) -> np.ndarray:
        index.expansion_search = effort
        count = threads if len(queries) > 1 else 1
        return np.asarray(index.search(cast(queries), K, threads=count).keys).reshape(len(queries), -1).astype(np.int64)

    return search, lambda path: index.save(str(path))


def glass_index(of: Set, base: np.ndarray, threads: int) -> tuple[Search, None]:
    """HNSW of Glass, built over 8-bit codes, searched over 4-bit codes and re-ranked by 8-bit codes."""
    import glass

    metric = "L2" if of.metric == "l2" else "IP"
    vectors = base.astype(np.float32)
    graph = glass.Index("HNSW", metric, "SQ8U", R=32, L=100).build(vectors)
    searcher = glass.Searcher(graph, vectors, metric, "SQ4U", "SQ8U")

    def search(queries: np.ndarray, effort: int, _: int) -> np.ndarray:
        searcher.set_ef(effort)
        if len(queries) == 1:
            return np.asarray(searcher.search(queries[0], K)).reshape(-1, K)[:1]
        found = searcher.batch_search(queries, K, threads)
        return np.asarray(found[0] if isinstance(found, tuple) else found).reshape(len(queries), K)

    return search, None


def qann_index(of: Set, base: np.ndarray, threads: int, graph: bool) -> tuple[Search, Save]:
    """qann: HNSW over 8-bit codes, or inverted lists of 4-bit PQ codes with the vectors for re-ranking."""
    import qann

    qann.set_num_threads(threads)
    metric = {
        "l2": qann.Metric.L2,
        "ip": qann.Metric.InnerProduct,
        "cosine": qann.Metric.Cosine,
    }[of.metric]
    vectors, index = base.astype(np.float32), None
    if graph:
        index = part = qann.HNSWIndex(base.shape[1], 16, 100, metric=metric)
        part.enable_sq(8)
        part.train(vectors)
    else:
        part = qann.IVFIndex(base.shape[1], of.peer_lists, metric=metric)
        part.enable_pq(2 * of.peer_m, fast_scan=True)
        part.train(vectors)
        index = qann.RefineIndex(part)
    index.add(vectors)

    def search(queries: np.ndarray, effort: int, rerank: int) -> np.ndarray:
        if graph:
            part.ef_search = effort
        else:
            part.nprobe, index.k_factor = effort, rerank
        return np.asarray(index.batch_query(queries, K)[0])

    return search, lambda path: index.save(str(path))


def turbovec_index(of: Set, base: np.ndarray, threads: int) -> tuple[Search, Save]:
    """The exhaustive scan of turbovec over 4-bit codes; its threads are those of RAYON_NUM_THREADS."""
    import turbovec

    if of.metric == "l2":
        raise ValueError("turbovec compares by inner product alone")
    index = turbovec.TurboQuantIndex(dim=base.shape[1], bit_width=4)
    index.add(base)
    return lambda q, _, __: np.asarray(index.search(q, k=K)[1]), lambda path: index.write(str(path))


class Method(NamedTuple):
    """An index: its library (which names the interpreter), builder and parameters, and the settings of a search."""

    library: str
    build: Callable[..., tuple[Search, Save]]
    parameters: dict[str, Any]
    efforts: tuple[int, ...]
    reranks: tuple[int, ...] = (0,)


def fpq_methods() -> dict[str, Method]:
    """Plain and residual codes of fpq, each with the vectors and with refinement codes."""
    codes: dict[str, dict[str, Any]] = {
        "plain": {"residual": False},
        "4-bit": {"residual": False, "nbits": 4},
        "residual": {"residual": True},
    }
    rankings: dict[str, dict[str, Any]] = {
        "vectors": {"keep_vectors": True}, "sq4": {"refine": "sq4"}, "sq8": {"refine": "sq8"}
    }  # fmt: skip
    return {
        f"fpq {code} + {ranking}": Method("fpq", fpq_index, codes[code] | rankings[ranking], PROBES, RERANKS)
        for code in codes
        for ranking in rankings
    }


METHODS = {
    **fpq_methods(),
    "SymphonyQG": Method("rabitqlib", symphony_index, {}, EF),
    "SymphonyQG 4-bit": Method("rabitqlib", symphony_index, {"quantization_bits": 4}, EF),
    "scann-core int8": Method("scann-core", scann_index, {"reorder": "INT8"}, PROBES, RERANKS),
    "scann-core float32": Method("scann-core", scann_index, {"reorder": "FLOAT32"}, PROBES, RERANKS),
    "scann wheel int8": Method("scann", scann_index, {"reorder": "INT8"}, PROBES, RERANKS),
    "scann wheel float32": Method("scann", scann_index, {"reorder": "FLOAT32"}, PROBES, RERANKS),
    "faiss HNSW16_SQ8": Method("faiss", faiss_index, {"factory": "HNSW16_SQ8", "parameter": "efSearch"}, EF),
    "faiss HNSW16": Method("faiss", faiss_index, {"factory": "HNSW16", "parameter": "efSearch"}, EF),
    "faiss IVFPQ": Method("faiss", faiss_index, {"factory": "IVF{lists},PQ{m}", "parameter": "nprobe"}, PROBES),
    "faiss IVFPQfs + SQ8": Method(
        "faiss", faiss_index, {"factory": "IVF{lists},PQ{nibbles}x4fs,Refine(SQ8)", "parameter": "nprobe"}, PROBES,
        RERANKS,
    ),
    "SVS LVQ8": Method("svs", svs_index, {"primary": 8, "residual": 0}, EF),
    "SVS LVQ4x8": Method("svs", svs_index, {"primary": 4, "residual": 8}, EF),
    "usearch i8": Method("usearch", usearch_index, {}, EF),
    "Glass SQ4U + SQ8U": Method("glass", glass_index, {}, EF),
    "qann HNSW16 SQ8": Method("qann", qann_index, {"graph": True}, EF),
    "qann IVFPQfs + float32": Method("qann", qann_index, {"graph": False}, PROBES, RERANKS),
    "turbovec 4 bits": Method("turbovec", turbovec_index, {}, (0,)),
    "RaBitQ IVF 4 bits": Method("rabitqlib", rabitq_index, {"bits": 4}, PROBES),
    "RaBitQ IVF 5 bits": Method("rabitqlib", rabitq_index, {"bits": 5}, PROBES),
    "RaBitQ IVF 7 bits": Method("rabitqlib", rabitq_index, {"bits": 7}, PROBES),
}  # fmt: skip


def resident() -> int:
    """Memory of the process in bytes, after freed memory is given back; Linux only."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def saved_bytes(save: Save) -> int:
    """Size of the saved index, all its files together."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "index")
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def main(descriptor: int, name: str, data: str, folder: str, threads: int) -> None:
    """Build, send (seconds, bytes, their kind), then answer (queries, effort, rerank, single) with (seconds, ids)."""
    with Connection(descriptor) as pipe:
        base, queries = (np.load(Path(folder) / f"{part}.npy") for part in ("base", "query"))
        method, before, start = METHODS[name], resident(), time.perf_counter()
        try:
            search, save = method.build(SETS[data], base, threads, **method.parameters)
            seconds = time.perf_counter() - start
            size = (saved_bytes(save), "file") if save else (resident() - before, "process")
            pipe.send((seconds, *size))
        except Exception as error:  # the parent leaves the method out and says why
            pipe.send(f"{type(error).__name__}: {error}"[:300])
            return
        for count, effort, rerank, single in iter(pipe.recv, None):
            calls = [queries[i : i + 1] for i in range(count)] if single else [queries[:count]]
            start = time.perf_counter()
            ids = [search(call, effort, rerank) for call in calls]
            pipe.send((time.perf_counter() - start, np.concatenate(ids)))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5]))
