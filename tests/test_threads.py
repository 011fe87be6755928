"""Many threads, forked and spawned processes, other libraries in the same process."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import fpq
from fpq import threads
from fpq.indexes.parts.lock import Lock, reads, writes

X = np.random.default_rng(0).normal(size=(4000, 16)).astype(np.float32)
Q = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)
INDEXES = {
    "flat": lambda: fpq.FlatIndex().add(X),
    "pq": lambda: fpq.PQIndex(4, keep_vectors=True).fit(X).add(X, ids=np.arange(4000) * 3),
    "ivfpq": lambda: fpq.IVFPQIndex(20, 4, nbits=6, keep_vectors=True).fit(X).add(X, ids=np.arange(4000) * 3),
    "e2lsh": lambda: fpq.E2LSHIndex(n_tables=4).fit(X).add(X, ids=np.arange(4000) * 3),
    "c2lsh": lambda: fpq.C2LSHIndex(n_hashes=40).fit(X).add(X),
    "pmlsh": lambda: fpq.PMLSHIndex().fit(X).add(X),
}


@pytest.fixture(params=INDEXES)
def index(request: pytest.FixtureRequest) -> Any:
    return INDEXES[request.param]()


def test_thousands_of_mixed_calls_from_many_threads(index: Any) -> None:
    reranked = {"rerank": 3} if isinstance(index, (fpq.PQIndex, fpq.IVFPQIndex)) else {}
    calls = [
        lambda: index.search(Q[0], k=5),
        lambda: index.search(Q, k=3, n_threads=2),
        lambda: index.search(Q[:7], k=4, allowed=np.arange(0, 4000, 6)),
        lambda: index.search(Q[:3], k=4, **reranked),
        lambda: index.range_search(Q[:2], 6.0),
        lambda: [index.reconstruct([3, 30, 300])],
        lambda: [index.ids, np.array([len(index), index.nbytes])],
    ]
    expected = [call() for call in calls]

    def work(number: int) -> None:
        for at in np.random.default_rng(number).integers(len(calls), size=250):
            for a, b in zip(calls[at](), expected[at], strict=True):
                np.testing.assert_array_equal(a, b)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


@pytest.mark.parametrize("kind", ["pq", "ivfpq"])
def test_single_queries_beside_an_add_see_one_state(kind: str) -> None:
    """Each batch brings a nearer neighbour of every query: the answers are those after one of the additions."""
    index = INDEXES[kind]()
    batches = [Q + np.float32(2.0**-step) for step in range(6)]
    states = [index.copy()]
    for step, batch in enumerate(batches):
        states.append(states[-1].copy().add(batch, ids=20_000 + 100 * step + np.arange(len(batch))))
    expected = [[tuple(state.search(q, 5).ids) for q in Q] for state in states]
    done = threading.Event()

    def search(number: int) -> None:
        last = [0] * len(Q)
        while not done.is_set():
            for i in range(number, len(Q), 7):
                ids = tuple(index.search(Q[i], 5).ids)
                seen = [at for at in range(last[i], len(states)) if expected[at][i] == ids]
                assert seen, f"query {i}: {ids}"
                last[i] = seen[0]

    with ThreadPoolExecutor(3) as pool:
        searching = [pool.submit(search, number) for number in range(3)]
        try:
            for step, batch in enumerate(batches):
                index.add(batch, ids=20_000 + 100 * step + np.arange(len(batch)))
        finally:
            done.set()
        for each in searching:
            each.result()
    for i, q in enumerate(Q):
        assert tuple(index.search(q, 5).ids) == expected[-1][i]


def test_changes_wait_for_searches_and_searches_for_changes(index: Any) -> None:
    """Every search sees the index before or after each change, never in between."""
    far = X + 1000
    sizes = {len(index) + n * 50 for n in range(41)}
    done = threading.Event()

    def change() -> None:
        for n in range(20):
            index.add(far[:50], ids=np.arange(50) + 1_000_000 + 50 * n)
        for n in range(10):
            index.remove(np.arange(50) + 1_000_000 + 50 * n)
        done.set()

    def search() -> int:
        calls = 0
        while not done.is_set() or calls < 20:
            found = index.search(far[0], k=1100)
            assert np.isin(found.ids[found.ids >= 1_000_000].size, range(0, 1001, 50))
            assert len(index) in sizes
            calls += 1
        return calls

    with ThreadPoolExecutor(5) as pool:
        searches = [pool.submit(search) for _ in range(4)]
        pool.submit(change).result()
        assert sum(each.result() for each in searches) >= 80
    assert len(index) == 4500
    assert len(np.unique(index.ids)) == 4500


class Guarded:
    """What the decorators see of an index."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.inside: list[str] = []
        self.wrong: list[str] = []

    def _require_writable(self) -> None:
        pass

    @reads
    def read(self, inner: Any = None) -> None:
        self.inside.append("r")
        if "w" in self.inside:
            self.wrong.append("".join(self.inside))
        if inner:
            inner()
        self.inside.remove("r")

    @writes
    def write(self, inner: Any = None) -> None:
        self.inside.append("w")
        if self.inside != ["w"]:
            self.wrong.append("".join(self.inside))
        if inner:
            inner()
        self.inside.remove("w")
        raise KeyError


def test_lock_excludes_and_goes_on_after_errors() -> None:
    guarded = Guarded()

    def work(number: int) -> None:
        for turn in range(200):
            if (turn + number) % 7:
                with guarded._lock.reading():
                    guarded.read()
            else:
                with pytest.raises(KeyError):
                    guarded.write()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert not guarded.wrong and not guarded.inside
    with pytest.raises(RuntimeError, match="within a search"):
        guarded.read(guarded.write)
    guarded.inside.clear()
    with pytest.raises(KeyError):
        guarded.write()
    with pytest.raises(KeyError):
        Guarded().write(lambda: Guarded().read())


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes(index: Any, method: str) -> None:
    context = multiprocessing.get_context(method)
    expected = index.search(Q, k=5, n_threads=2).ids  # the thread pool is in use
    out = context.Queue()
    process = context.Process(target=faults.search_in_process, args=(index, Q, out))
    process.start()
    np.testing.assert_array_equal(out.get(timeout=60), expected)
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_training_and_changing_in_a_forked_child() -> None:
    """GNU OpenMP hangs in a child forked after a region of several threads, on the thread that forked."""
    code = """
import os, threading, numpy as np, fpq
rng = np.random.default_rng(0)
X = rng.normal(size=(5000, 32)).astype(np.float32)
index = fpq.PQIndex(8, rotation="opq", n_threads=4).fit(X).add(X)
expected = index.search(X, k=3).ids
stop = threading.Event()
def search():
    while not stop.is_set():
        index.search(X[:50], k=3)
searching = [threading.Thread(target=search) for _ in range(3)]
for thread in searching:
    thread.start()
for _ in range(5):  # while other threads hold the index
    child = os.fork()
    if child == 0:
        same = (index.search(X, k=3).ids == expected).all()
        again = fpq.PQIndex(8, rotation="opq", n_threads=4).fit(X).add(X)
        same &= (again.search(X, k=3).ids == expected).all()
        os._exit(0 if same and len(index.add(X)) == 10000 else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in searching:
    thread.join()
print((index.search(X, k=3).ids == expected).all())
"""
    assert faults.run(code).communicate(timeout=120)[0] == "True\n"


FEW = """
import os, resource, sys, threading, numpy as np, fpq
X = np.random.default_rng(0).normal(size=(50_000, 16)).astype(np.float32)
flat, pq = fpq.FlatIndex().add(X), fpq.PQIndex(4, nbits=6).fit(X).add(X)
near = flat.search(X[:200], 3).ids
coded = pq.search(X[:200], 3).ids
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
def work():
    for n_threads in (2, 1000, 3, 20, 1, 10**9):
        try:
            assert (flat.search(X[:200], 3, n_threads=n_threads).ids == near).all()
            assert (pq.search(X[:200], 3, n_threads=n_threads).ids == coded).all()
            flat.range_search(X[:2], 0.1, n_threads=n_threads)
            fpq.KMeans(50, n_threads=n_threads).fit(X)
            fpq.FlatIndex("cosine", n_threads=n_threads).add(X)
        except MemoryError:
            pass
others = [threading.Thread(target=work) for _ in range(2)] if sys.argv[2] == "True" else []
for thread in others:
    thread.start()
work()
for thread in others:
    thread.join()
print("alive")
"""


@pytest.mark.skipif(not faults.can_limit_memory(), reason="no RLIMIT_AS")
@pytest.mark.parametrize(
    ("spare", "beside"), [(60 << 20, False), (400 << 20, False), (3 << 30, False), (1 << 30, True)]
)
def test_a_system_that_gives_few_threads(spare: int, beside: bool) -> None:
    """GNU's OpenMP ends the process when it cannot start a thread."""
    process = faults.run(FEW, spare, beside, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "alive\n"), err


def test_more_threads_than_make_sense() -> None:
    assert threads.resolve(10**9) == threads.MOST_THREADS == max(32, 4 * (os.cpu_count() or 1))


LATE = """
import atexit, copy, os, pathlib, pickle, sys, tempfile, threading, time
import numpy as np, fpq, fpq.dask
X = np.random.default_rng(0).normal(size=(3000, 16)).astype("f4")
WIDE = np.hstack([X, X])  # wide enough for sketches
folder = pathlib.Path(tempfile.mkdtemp())
flat = fpq.FlatIndex(n_threads=2).add(X)
flat.save(folder / "there")
trained = fpq.PQIndex(4, nbits=4, keep_vectors=True, n_threads=2).fit(X)
kinds = [
    fpq.FlatIndex("cosine", n_threads=2),
    fpq.PQIndex(4, nbits=4, rotation="opq", open_indexing=1.5, keep_vectors=True, n_threads=2),
    fpq.IVFPQIndex(6, 4, nbits=4, keep_vectors=True, n_threads=2),
    fpq.E2LSHIndex(n_tables=3, n_threads=2),
    fpq.C2LSHIndex(n_hashes=20, n_threads=2),
    fpq.PMLSHIndex(n_threads=2),
]

def everything():
    flat.save(folder / "a")
    assert fpq.load(folder / "there").search(X[:2], 1).ids.ravel().tolist() == [0, 1]
    fpq.load(folder / "there", mmap=True).verify()
    assert len(pickle.loads(pickle.dumps(flat))) == len(copy.deepcopy(flat)) == 3000
    for index in kinds:
        rows = WIDE if "LSH" in type(index).__name__ else X
        index.fit(rows).add(rows[:2000]).add(rows[2000:])
        assert index.remove(np.arange(10, 20)) == 10
        assert index.search(rows[:9], 3).ids.shape == (9, 3)
        assert len(index.range_search(rows[:2], 0.5).lims) == 3
        index.save(folder / "b")
        if hasattr(index, "tune"):
            index.tune(rows[:20] + 0.1, 3, 0.5)
    fpq.KMeans(5, n_threads=2).fit(X).predict(X)
    manifest = fpq.dask.build(trained, [X[:1000], X[1000:]], folder / "shards")
    assert fpq.ShardedIndex(manifest).search(X[:3], 1, rerank=20).ids.ravel().tolist() == [0, 1, 2]
    print("done", flush=True)

def later():
    time.sleep(0.5)
    everything()
"""
MOMENTS = {
    "handler of atexit": "atexit.register(everything)",
    "thread after the main thread": "threading.Thread(target=later).start()",
    "thread of such a thread": "threading.Thread(target=lambda: threading.Thread(target=later).start()).start()",
    "when threads are joined": "threading._register_atexit(everything)",
    "after pools have ended": "threading._register_atexit(everything); import concurrent.futures.thread",
    "before pools end": "import concurrent.futures.thread; threading._register_atexit(everything)",
    "daemon, while atexit waits": (
        "thread = threading.Thread(target=later, daemon=True); thread.start(); atexit.register(thread.join)"
    ),
    "deletion at the end": """
class Last:
    def __del__(self, flat=flat, folder=folder, X=X):  # pickle, and parts of NumPy, do not work any more
        flat.save(folder / "a")
        assert flat.search(X[:2], 1).ids.ravel().tolist() == [0, 1]
        print("done", flush=True)
last = Last()
""",
    "forked child": "child = os.fork(); child or atexit.register(everything); child and os.waitpid(child, 0)",
    "finalizer of a process": """
import multiprocessing, multiprocessing.util
def start():
    multiprocessing.util.Finalize(None, everything, exitpriority=1)
process = multiprocessing.get_context("fork").Process(target=start)
process.start()
process.join()
""",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_all_calls_work_while_the_interpreter_ends(moment: str) -> None:
    if "fork" in MOMENTS[moment] and not hasattr(os, "fork"):
        pytest.skip("no fork here")
    if moment == "deletion at the end" and sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("free-threaded CPython deletes the last objects later: pathlib and imports do not work any more")
    process = faults.run(LATE + MOMENTS[moment], stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert out == "done\n", err


def test_workers_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives some threads or none, all calls are made."""
    start = threading.Thread.start

    for given in (0, 1, 3):
        left = [given]

        def limited(thread: threading.Thread, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("can't start new thread")
            start(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", limited)
            assert threads.parallel_map(lambda i: i * i, range(50), 20) == [i * i for i in range(50)]
            with pytest.raises(ZeroDivisionError):
                threads.parallel_map(lambda i: 1 // i, range(3), 5)
            with threads.Workers(7) as workers:
                found = [workers.submit(divmod, i, 7) for i in range(100)]
                assert [each.result() for each in found] == [divmod(i, 7) for i in range(100)]


def test_workers_drop_calls_that_have_not_begun() -> None:
    begun, go = threading.Event(), threading.Event()
    made = []

    def call(number: int) -> None:
        made.append(number)
        begun.set()
        go.wait(60)

    workers = threads.Workers(1)
    for number in range(5):
        workers.submit(call, number)
    begun.wait(60)
    workers.close(wait=False)
    go.set()
    workers.close()
    assert made == [0]


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib_workers(index: Any, backend: str) -> None:
    joblib = pytest.importorskip("joblib")
    found = joblib.Parallel(n_jobs=2, backend=backend)(
        joblib.delayed(faults.search_in_process)(index, Q) for _ in range(4)
    )
    for ids in found:
        np.testing.assert_array_equal(ids, index.search(Q, k=5).ids)


def test_mapped_index_in_several_processes(index: Any, tmp_path: Path) -> None:
    index.save(tmp_path / "a")
    code = """
import sys, numpy as np, fpq
index = fpq.load(sys.argv[1], mmap=True)
print(index.search(np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32), k=5).ids.tolist())
"""
    processes = [faults.run(code, tmp_path / "a") for _ in range(2)]
    for process in processes:
        assert json.loads(process.communicate(timeout=60)[0]) == index.search(Q, k=5).ids.tolist()


BESIDE = """
import importlib, sys
X = None
def use(name):
    module = importlib.import_module(name)
    import numpy as np
    X = np.random.default_rng(0).normal(size=(3000, 16)).astype("f4")
    if name == "fpq":
        index = module.PQIndex(4, rotation="opq", n_threads=2).fit(X).add(X)
        print(index.search(X, k=3, n_threads=2).ids.sum())
    elif name == "faiss":
        module.omp_set_num_threads(2)
        index = module.IndexPQ(16, 4, 4)
        index.train(X)
        index.add(X)
        index.search(X, 3)
    elif name == "sklearn.cluster":
        module.KMeans(5, n_init=1).fit(X)
    elif name == "torch":
        module.set_num_threads(2)
        layer = module.nn.Linear(16, 3)
        layer(module.from_numpy(X)).square().sum().backward()
        module.linalg.svd(module.from_numpy(X))
    elif name == "numba":
        module.set_num_threads(2)
        module.njit(parallel=True)(lambda x: (x + x * x).sum())(X)
    elif name == "xgboost":
        module.XGBRegressor(n_estimators=3, n_jobs=2).fit(X, X[:, 0]).predict(X)
    elif name == "lightgbm":
        module.LGBMRegressor(n_estimators=3, n_jobs=2, verbose=-1).fit(X, X[:, 0]).predict(X)
    else:
        np.linalg.svd(X)
for name in sys.argv[1:]:
    use(name)
use("fpq")
"""


LIBRARIES = ["fpq", "faiss", "sklearn.cluster", "numpy"]


@pytest.mark.parametrize("order", [*itertools.permutations(LIBRARIES)][::5])  # bench/import_orders.py takes all 24
def test_beside_other_libraries(order: tuple[str, ...]) -> None:
    for name in order:
        pytest.importorskip(name)
    process = faults.run(BESIDE, *order, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len(set(out.split())) == 1


@pytest.mark.skipif(not fpq.cpu_info()["openmp"], reason="one thread")
def test_limits_are_obeyed() -> None:
    with threadpool_limits(1):
        assert threads.resolve(None) == 1
    code = "import fpq; print(fpq.cpu_info()['threads'])"
    for number in (1, 2):
        process = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OMP_NUM_THREADS": str(number), "PYTHONPATH": str(Path(fpq.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(process.stdout) == min(number, threads._cgroup_cpus())


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, threads.NO_QUOTA),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, threads.NO_QUOTA),
        ({"cpu.max": "nonsense"}, threads.NO_QUOTA),
        ({}, threads.NO_QUOTA),
    ],
)
def test_quota_of_the_control_group(
    files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "Path", lambda _: tmp_path)
    assert threads._cgroup_cpus.__wrapped__() == cpus


@pytest.mark.parametrize("change", [False, True])
def test_an_interrupt_while_the_lock_is_given_up(change: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    index = fpq.FlatIndex().add(np.eye(3))
    end = Lock.end
    calls = []

    def interrupted_once(self: Lock, me: int) -> None:
        calls.append(me)
        if len(calls) == 1:
            raise KeyboardInterrupt
        end(self, me)

    monkeypatch.setattr(Lock, "end", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        index.add(np.eye(3)) if change else index.search(np.ones(3), 1)
    assert len(calls) == 2 and len(index) == (6 if change else 3)
    with ThreadPoolExecutor(1) as pool:  # another thread need not wait
        assert pool.submit(index.remove, [0]).result(timeout=10) == 1
