"""What the package promises as a whole: names, docstrings, layers, instruction sets, threads, fork, version."""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.metadata
import inspect
import os
import pickle
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import fpq
from fpq import _native, threads

PACKAGE = Path(fpq.__file__).parent
CHECKOUT = Path(__file__).parent.parent
FRONT_DOORS = {"fpq.cli", "fpq.demo", "fpq.sklearn", "fpq.dask", "fpq.__main__"}
needs_openmp = pytest.mark.skipif(not _native.has_openmp(), reason="built for one thread")


def module_names() -> list[str]:
    return [info.name for info in pkgutil.walk_packages(fpq.__path__, "fpq.") if info.name != "fpq.__main__"]


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program's run from another folder, so that the installed package is the one that is tested."""
    paths = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    clean = {name: value for name, value in os.environ.items() if name not in ("FPQ_ISA", "OMP_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**clean, "PYTHONPATH": paths, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


# ---- names and docstrings ----


def public_things() -> Iterator[tuple[str, Any]]:
    """Modules, and the public functions, classes, methods and properties that are defined in them."""
    yield "fpq", fpq
    for name in ["fpq", *module_names()]:
        try:
            module = importlib.import_module(name)
        except ImportError:  # an extra that is not installed here
            continue
        yield name, module
        for thing_name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == name and (inspect.isclass(thing) or callable(thing))
            if thing_name.startswith("_") or not own or not hasattr(thing, "__name__"):
                continue
            yield f"{name}.{thing_name}", thing
            for member_name, member in vars(thing).items() if inspect.isclass(thing) else ():
                if not member_name.startswith("_") and (
                    callable(member) or isinstance(member, (property, classmethod))
                ):
                    yield f"{name}.{thing_name}.{member_name}", member


def test_all_names_exist() -> None:
    assert sorted(fpq.__all__) == sorted(set(fpq.__all__))
    for name in fpq.__all__:
        assert hasattr(fpq, name), name
    public = {name for name in vars(fpq) if not name.startswith("_")}
    modules = {name.split(".")[1] for name in module_names()}
    assert public - modules <= set(fpq.__all__)  # nothing leaks
    namespace: dict[str, Any] = {}
    exec("from fpq import *", namespace)
    assert set(fpq.__all__) <= namespace.keys()


def test_everything_public_has_a_docstring() -> None:
    things = dict(public_things())
    assert "fpq.indexes.pq.PQIndex.search" in things
    assert "fpq.learning.kmeans.KMeans.predict" in things
    missing = [name for name, thing in things.items() if not (inspect.getdoc(thing) or "").strip()]
    assert missing == []


def test_docstrings_name_every_parameter() -> None:
    """Of constructors, and of the calls that all indexes share."""
    calls = [
        getattr(index, name)
        for index in (fpq.PQIndex, fpq.IVFPQIndex, fpq.FlatIndex, fpq.E2LSHIndex, fpq.C2LSHIndex, fpq.PMLSHIndex)
        for name in ("add", "search", "range_search")
    ]
    things = [getattr(fpq, name) for name in fpq.__all__]
    for thing in [*calls, *(thing for thing in things if callable(thing) and thing is not fpq.FormatError)]:
        doc = inspect.getdoc(thing) or ""
        for parameter in inspect.signature(thing).parameters.keys() - {"self", "_cls"}:
            assert re.search(rf"^ *(\w+, )*{parameter}\b.*$", doc, re.M), f"{thing.__qualname__}: {parameter}"


# ---- layers ----


def imports(file: Path) -> set[str]:
    """The modules of fpq that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "fpq"}


def files(*patterns: str) -> list[Path]:
    found = sorted(path for pattern in patterns for path in PACKAGE.glob(pattern))
    assert found
    return found


def test_indexes_import_no_front_door() -> None:
    for file in files("indexes/*.py", "indexes/parts/*.py", "learning/*.py", "sharding/*.py", "[!_]*.py"):
        if f"fpq.{file.stem}" not in FRONT_DOORS:
            assert not imports(file) & FRONT_DOORS, file


def test_executors_of_shards_know_no_sharded_index() -> None:
    for file in files("sharding/[!_]*.py", "dask/*.py"):
        assert file.name == "index.py" or "fpq.sharding.index" not in imports(file), file


def test_learning_knows_no_index() -> None:
    for file in files("_arrays.py", "_checks.py", "metric.py", "scaling.py", "threads.py", "learning/*.py"):
        assert not {name for name in imports(file) if name.startswith("fpq.indexes")}, file
    for file in files("_checks.py", "_arrays.py"):
        types = {f"fpq._checks.{name}" for name in ("Array", "Float32", "Int64")}
        assert imports(file) <= {
            "fpq",
            *(f"fpq._{name}" for name in ("native", "checks", "inputs", "bfloat16")),
            *types,
        }, file


def test_the_compiled_module_imports_nothing_of_fpq() -> None:
    source = CHECKOUT / "src" / "fpq" / "_native.pyx"
    if not source.exists():
        pytest.skip("no sources here")
    lines = [line.split() for line in source.read_text(encoding="utf-8").splitlines()]
    imported = [line[1] for line in lines if line[:1] in (["import"], ["from"], ["cimport"])]
    assert imported == ["cython", "cpython.buffer", "libc.stdint", "fpq._fpq"]


def test_c_does_without_python() -> None:
    sources = [path for path in CHECKOUT.glob("csrc/**/*") if path.suffix in (".c", ".h", ".inc")]
    if not sources:
        pytest.skip("no sources here")
    for path in sources:
        included = re.findall(r'#include [<"](\S+)[>"]', path.read_text(encoding="utf-8"))
        assert not {"Python.h", "numpy/arrayobject.h"} & set(included), path
        if path.parent.name != "isa":
            assert not {"immintrin.h", "arm_neon.h"} & set(included), path
        if path.name != "parallel.c":
            assert "omp.h" not in included, path


# ---- instruction sets ----


@pytest.mark.parametrize("name", _native.isas())
def test_the_environment_forces_an_instruction_set(name: str, tmp_path: Path) -> None:
    done = python("import fpq; print(fpq.cpu_info()['isa'])", tmp_path, FPQ_ISA=name)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}\n", "")


def test_an_unknown_instruction_set(tmp_path: Path) -> None:
    done = python("import fpq", tmp_path, FPQ_ISA="mmx")
    assert done.returncode == 1
    expected = f"ValueError: FPQ_ISA: 'mmx' does not run here; there are {', '.join(_native.isas())}"
    assert done.stderr.splitlines()[-1] == expected
    before = _native.isa()
    with pytest.raises(ValueError, match=r"^FPQ_ISA: 'mmx'"):
        _native.use_isa("mmx")
    assert _native.isa() == before
    assert python("import fpq", tmp_path, FPQ_ISA="").returncode == 0


def test_cpu_info() -> None:
    info = fpq.cpu_info()
    assert info["isa"] in info["isas"]
    assert info["isas"][0] == "scalar"
    assert len(set(info["isas"])) == len(info["isas"])
    for feature in ("avx2", "avxvnni", "avx512", "vbmi", "vnni", "neon", "openmp"):
        assert isinstance(info[feature], bool)
    assert ("avx2" in info["isas"]) == info["avx2"]
    assert ("avxvnni" in info["isas"]) == info["avxvnni"]
    assert ("avx512" in info["isas"]) == (info["vbmi"] and info["vnni"])
    assert info["threads"] == threads.resolve(None)


# ---- threads ----

SHOW_THREADS = "import fpq; print(fpq.cpu_info()['threads'])"


@needs_openmp
def test_omp_num_threads(tmp_path: Path) -> None:
    quota = threads._cgroup_cpus()
    for number in (1, 2, 7):
        assert int(python(SHOW_THREADS, tmp_path, OMP_NUM_THREADS=str(number)).stdout) == min(number, quota)


@needs_openmp
def test_threadpoolctl() -> None:
    before = threads.resolve(None)
    with threadpool_limits(1):
        assert fpq.cpu_info()["threads"] == 1
        assert threads.resolve(3) == 3  # what the caller says counts
        assert fpq.FlatIndex(n_threads=10**12).add(np.eye(3)).search(np.eye(3), 1).ids.ravel().tolist() == [0, 1, 2]
    assert threads.resolve(None) == before


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity(tmp_path: Path) -> None:
    pin = "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1]); "
    assert python(pin + SHOW_THREADS, tmp_path).stdout == "1\n"


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, threads.NO_QUOTA),
        ({"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, threads.NO_QUOTA),
        ({}, threads.NO_QUOTA),
    ],
)
def test_quota_of_the_control_group(quota: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(path: Path) -> str:
        if path.name not in quota:
            raise FileNotFoundError(path)
        return quota[path.name]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", read_text)
        cpus = threads._cgroup_cpus.__wrapped__()
    assert cpus == expected
    monkeypatch.setattr(threads, "_cgroup_cpus", lambda: cpus)
    monkeypatch.setattr(_native, "max_threads", lambda: 3)
    assert threads.resolve(None) == min(3, expected)


def test_blas_decompose(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.diag([3.0, 1.0, 2.0])
    here = threads.blas_decompose(np.linalg.eigvalsh, matrix)
    np.testing.assert_allclose(here, [1, 2, 3])
    monkeypatch.setattr(threads, "SMALL_MATRIX", 2)
    np.testing.assert_array_equal(threads.blas_decompose(np.linalg.eigvalsh, matrix), here)  # on another thread


@pytest.mark.parametrize("n_threads", [1, 3])
def test_blas_map(n_threads: int) -> None:
    assert threads.parallel_map(lambda i: i * i, range(20), n_threads) == [i * i for i in range(20)]
    assert threads.parallel_map(lambda i: i, [], n_threads) == []
    with pytest.raises(ZeroDivisionError):
        threads.parallel_map(lambda i: 1 // i, range(3), n_threads)


FORK = """
import os, sys
import numpy as np
import fpq

X = np.random.default_rng(0).normal(size=(6000, 24)).astype(np.float32)

def work():
    index = fpq.PQIndex(6, nbits=6, rotation="opq", open_indexing=1.2, keep_vectors=True, n_threads=2).fit(X).add(X)
    lists = fpq.IVFPQIndex(9, 6, nbits=6, n_threads=2).fit(X).add(X)
    hashed = fpq.E2LSHIndex(n_tables=2, n_threads=2).fit(X).add(X)
    flat = fpq.FlatIndex(n_threads=2).add(X)
    return b"".join(a.tobytes() for q in (X[:3], X[:200]) for i in (index, lists, hashed, flat) for a in i.search(q, 5))

before = work()
child = os.fork()
if child == 0:
    same, tasks = work() == before, len(os.listdir("/proc/self/task")) if os.path.isdir("/proc") else 3
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(0 if work() == before else 4)
    os._exit(3 if not same or tasks < 3 else os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), work() == before)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_after_use(tmp_path: Path) -> None:
    done = python(FORK, tmp_path)
    assert done.stdout == "0 True\n", done.stderr


# ---- the rest ----


def test_version() -> None:
    assert fpq.__version__ == importlib.metadata.version("fpq-ann")


def test_import_in_the_checkout() -> None:
    assert python("import fpq; fpq.FlatIndex()", CHECKOUT).stderr == ""


def sources(folder: Path) -> Path:
    """A copy of the package without its compiled module."""
    shutil.copytree(PACKAGE, folder / "fpq", ignore=shutil.ignore_patterns("_native.c*", "*.so", "*.pyd"))
    return folder


def test_import_of_the_sources_says_what_to_do(tmp_path: Path) -> None:
    done = python("import fpq", sources(tmp_path), PYTHONPATH="")
    assert "ImportError: fpq: the compiled module is missing" in done.stderr
    assert "pip install ." in done.stderr


def test_the_other_package_of_this_name(tmp_path: Path) -> None:
    for module in PACKAGE.glob("_native*"):
        shutil.copy(module, sources(tmp_path) / "fpq" if not (tmp_path / "fpq").exists() else tmp_path / "fpq")
    libraries = PACKAGE.with_name("fpq_ann.libs")  # where a wheel has the OpenMP runtime
    if libraries.exists():
        shutil.copytree(libraries, tmp_path / libraries.name)
    (tmp_path / "fpq" / "quaternion.py").touch()
    done = python("import fpq", tmp_path, PYTHONPATH="")
    assert "pip uninstall fpq fpq-ann" in done.stderr


def test_import_is_quiet_and_light(tmp_path: Path) -> None:
    names = "{'matplotlib', 'sklearn', 'scipy', 'dask', 'pandas', 'faiss', 'urllib.request', 'importlib.metadata'}"
    heavy = f"import sys, fpq; print({names} & set(sys.modules))"
    done = python(heavy, tmp_path)
    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies(duplicate: Any) -> None:
    x = np.random.default_rng(0).normal(size=(900, 12)).astype(np.float32)
    for index in (
        fpq.PQIndex(4, nbits=8, rotation="opq", open_indexing=1.5, keep_vectors=True).fit(x).add(x),
        fpq.PQIndex(4, nbits=5, metric="cosine"),
        fpq.FlatIndex("ip").add(x, np.arange(900) * 2),
        fpq.IVFPQIndex(6, 4, nbits=5, list_capacity=1.5, keep_vectors=True).fit(x).add(x),
        fpq.E2LSHIndex(n_tables=3).fit(x).add(x, np.arange(900) * 2),
        fpq.C2LSHIndex(n_hashes=20, metric="cosine").fit(x).add(x),
        fpq.PMLSHIndex().fit(x).add(x),
    ):
        twin = duplicate(index)
        assert repr(twin) == repr(index)
        if not index.is_trained:
            continue
        for ours, other in zip(twin.search(x[:9], 5), index.search(x[:9], 5), strict=True):
            np.testing.assert_array_equal(ours, other)
        if duplicate is not copy.copy:
            twin.remove(index.ids[:100])
            twin.add(x[:3])
            assert len(index) == 900
            assert len(twin) == 803
    for thing in (fpq.KMeans(3).fit(x), fpq.ProductQuantizer(3, nbits=4).fit(x)):
        function = "predict" if isinstance(thing, fpq.KMeans) else "encode"
        np.testing.assert_array_equal(getattr(duplicate(thing), function)(x), getattr(thing, function)(x))
    assert duplicate(fpq.OpenIndexing(1.25)) == fpq.OpenIndexing(1.25)
