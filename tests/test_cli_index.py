"""The commands build, search, eval and tune, and the files they read."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
import fpq.dask
from fpq import cli
from fpq.cli import files

N, NQ, D = 2000, 20, 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base and query as npy, npz, vecs and idx; their true neighbours."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 250, (30, D))
    near = rng.integers(0, 30, N + NQ)
    x = np.clip(centres[near] + rng.normal(0, 12, (N + NQ, D)), 0, 255).astype(np.uint8)
    base, query = x[:N], x[N:]
    truth = fpq.FlatIndex().add(base).search(query, 100).ids
    np.save(folder / "base.npy", base)
    np.save(folder / "query.npy", query.astype(np.float64))
    np.save(folder / "truth.npy", truth)
    np.savez(folder / "all.npz", train=base, test=query, neighbors=truth)
    for name, rows, kind in (("base.bvecs", base, "u1"), ("base.fvecs", base, "<f4"), ("truth.ivecs", truth, "<i4")):
        lengths = np.full((len(rows), 1), rows.shape[1], "<i4").view(np.uint8)
        (folder / name).write_bytes(np.hstack([lengths, rows.astype(kind).view(np.uint8)]).tobytes())
    image = struct.pack(">BBBB3I", 0, 0, 8, 3, N, 4, 4) + base.tobytes()
    (folder / "base-images-idx3-ubyte").write_bytes(image)
    (folder / "base-images-idx3-ubyte.gz").write_bytes(gzip.compress(image))
    return folder


def run(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> tuple[str, str]:
    assert cli.main([str(arg) for arg in argv]) == code
    return capsys.readouterr()


@pytest.mark.parametrize(
    "name",
    ["base.npy", "base.bvecs", "base.fvecs", "all.npz", "all.npz:train", "base-images-idx3-ubyte",
     "base-images-idx3-ubyte.gz"],
)  # fmt: skip
def test_every_format_gives_the_same_index(data: Path, tmp_path: Path, capsys: Any, name: str) -> None:
    run(capsys, "build", data / name, tmp_path / "i.fpq", "--m", 4, "--nbits", 4)
    index = fpq.load(tmp_path / "i.fpq")
    same = fpq.PQIndex(m=4, nbits=4).fit(np.load(data / "base.npy")).add(np.load(data / "base.npy"))
    assert (index.codes == same.codes).all()


def test_hdf5(data: Path, tmp_path: Path, capsys: Any) -> None:
    h5py = pytest.importorskip("h5py")
    arrays = np.load(data / "all.npz")
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_group("about")
        for name in arrays:
            file.create_dataset(name, data=arrays[name], chunks=True)
    run(capsys, "build", tmp_path / "x.hdf5", tmp_path / "i.fpq", "--kind", "flat")
    out, _ = run(capsys, "eval", tmp_path / "i.fpq", tmp_path / "x.hdf5", tmp_path / "x.hdf5", "--json")
    assert json.loads(out)["recall@10"] == 1.0
    _, err = run(capsys, "build", tmp_path / "x.hdf5:about", tmp_path / "i.fpq", code=1)
    assert "expected an array 'about', got neighbors, test, train" in err


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("flat", []),
        ("pq", ["--m", "8", "--keep-vectors", "--rotation", "pca", "--rotation-dim", "12", "--train-rows", "1000"]),
        ("ivfpq", ["--lists", "8", "--m", "8", "--list-capacity", "1.5", "--no-residual"]),
        ("e2lsh", ["--tables", "4"]),
        ("c2lsh", ["--ratio", "2", "--metric", "cosine"]),
        ("pmlsh", ["--hashes", "12", "--ratio", "1.3"]),
    ],
)
def test_every_kind(data: Path, tmp_path: Path, capsys: Any, kind: str, options: list[str]) -> None:
    file = tmp_path / "i.fpq"
    out, err = run(capsys, "build", data / "base.npy", file, "--kind", kind, *options, "--json", "--threads", 1)
    report = json.loads(out)
    assert (report["n"], report["dim"], report["bytes"]) == (N, D, file.stat().st_size)
    assert report["kind"].lower().startswith(kind)
    assert all(" s" in line for line in err.splitlines())  # plain lines: standard error is no terminal
    out, err = run(capsys, "eval", file, data / "query.npy", data / "truth.ivecs", "--quiet", "--mmap")
    measured = dict(line.split() for line in out.splitlines())
    assert err == ""
    assert measured["queries"] == str(NQ)
    assert float(measured["R@10"]) > (0 if kind == "c2lsh" else 0.8)


def test_options_reach_the_index(data: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "i.fpq"
    run(capsys, "build", data / "base.npy", file, "--kind=ivfpq", "--lists=9", "--nbits=5", "--no-residual", "--seed=3",
        "--open-indexing=2", "--metric=ip")  # fmt: skip
    index = fpq.load(file)
    assert (index.n_lists, index.residual, index.metric) == (9, False, "ip")
    quantizer = index.quantizer
    assert (quantizer.m, quantizer.nbits, quantizer.seed, quantizer.open_indexing.c) == (16, 5, 3, 2.0)
    run(capsys, "build", data / "base.npy", file, "--metric=cosine", "--anisotropy=2.5")
    assert fpq.load(file).anisotropy == 2.5


def test_search_writes_and_prints(data: Path, tmp_path: Path, capsys: Any) -> None:
    file, found = tmp_path / "i.fpq", tmp_path / "found.npz"
    run(capsys, "build", data / "base.npy", file, "--m", 8, "--keep-vectors")
    search = ["search", file, data / "query.npy", "-k", 3, "--rerank", 20]
    out, _ = run(capsys, *search, "-o", found)
    assert out.splitlines()[0].split() == ["queries", str(NQ)]
    expected = fpq.load(file).search(np.load(data / "query.npy"), 3, rerank=20)
    arrays = np.load(found)
    assert (arrays["ids"] == expected.ids).all() and (arrays["distances"] == expected.distances).all()
    out, _ = run(capsys, *search)
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["query", "rank", "id", "distance"] and len(lines) == 1 + 3 * NQ
    assert [int(line[2]) for line in lines[1:]] == expected.ids.ravel().tolist()
    out, _ = run(capsys, *search, "--json")
    assert json.loads(out)["ids"] == expected.ids.tolist()
    run(capsys, "eval", file, data / "query.npy", found)  # what a search found serves as truth
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_missing_results_are_null(tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "x.npy", np.eye(3))
    run(capsys, "build", tmp_path / "x.npy", tmp_path / "i.fpq", "--kind", "flat")
    out, _ = run(capsys, "search", tmp_path / "i.fpq", tmp_path / "x.npy", "-k", 5, "--json")
    found = json.loads(out)
    assert found["ids"][0] == [0, 1, 2, -1, -1]
    assert found["distances"][0] == [0.0, 2.0, 2.0, None, None]


def test_tune_and_save(data: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "i.fpq"
    run(capsys, "build", data / "base.npy", file, "--kind", "e2lsh")
    before = fpq.load(file).n_probe
    out, _ = run(capsys, "tune", file, data / "query.npy", "--recall", 0.9)
    assert "chosen" in out and fpq.load(file).n_probe == before
    out, _ = run(capsys, "tune", file, data / "query.npy", "--recall", 0.9, "--save", "--json")
    best = json.loads(out)["best"]
    assert best["recall"] >= 0.9
    assert fpq.load(file).n_probe == best["setting"]["n_probe"]


def test_tune_with_vectors_or_neighbours_from_a_file(data: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "i.fpq"
    run(capsys, "build", data / "base.npy", file, "--m", 8)
    tune = ["tune", file, data / "query.npy", "-k", 5, "--recall", 0.2, "--json", "--quiet"]
    found = [json.loads(run(capsys, *tune, *known)[0])["best"] for known in (
        ["--base", data / "base.fvecs"], ["--base", data / "all.npz"], ["--truth", data / "truth.ivecs"],
        ["--truth", data / "all.npz"],
    )]  # fmt: skip
    index = fpq.load(file)
    best = index.tune(np.load(data / "query.npy"), 5, 0.2, X=np.load(data / "base.npy")).best
    assert {each["recall"] for each in found} == {best.recall}
    _, err = run(capsys, *tune, code=2)
    assert "i.fpq keeps no vectors: give the vectors" in err and "--base FILE" in err and "--truth FILE" in err
    _, err = run(capsys, *tune, "--truth", data / "query.npy", code=1)
    assert f"{data / 'query.npy'}: expected integer ids" in err
    _, err = run(capsys, *tune, "--base", data / "query.npy", code=1)
    assert f"{data / 'query.npy'}: expected the {N} vectors of the index, got {NQ}" in err
    with pytest.raises(SystemExit):
        cli.main([str(arg) for arg in [*tune, "--base", data / "base.npy", "--truth", data / "truth.npy"]])
    run(capsys, "build", data / "base.npy", file, "--kind", "c2lsh")
    _, err = run(capsys, *tune, "--base", data / "base.npy", code=2)
    assert "is a C2LSHIndex, which keeps its vectors" in err
    _, err = run(capsys, "tune", file, data / "query.npy", "--save", "--base", file, code=1)
    assert "expected another file to write to" in err


def test_more_neighbours_than_known(data: Path, tmp_path: Path, capsys: Any) -> None:
    run(capsys, "build", data / "base.npy", tmp_path / "i.fpq", "--kind", "flat")
    evaluate = ["eval", tmp_path / "i.fpq", data / "query.npy", data / "truth.npy", "-k", 200]
    out, err = run(capsys, *evaluate)
    shown = dict(line.split() for line in out.splitlines())
    assert (shown["true_neighbours"], shown["recall@100"], shown["R@200"]) == ("100", "1.0", "1.0")
    assert "recall@200" not in shown
    assert "has 100 true neighbours per query, fewer than -k 200" in err
    assert run(capsys, *evaluate, "--quiet")[1] == ""


def test_manifest(data: Path, tmp_path: Path, capsys: Any) -> None:
    base = np.load(data / "base.npy")
    manifest = fpq.dask.build(fpq.FlatIndex(), base, tmp_path, shard_rows=500)
    shown = json.loads(run(capsys, "info", manifest, "--json", "--verify")[0])
    assert (shown["kind"], shown["n"], shown["dim"]) == ("manifest of shards of FlatIndex", N, D)
    assert len(shown["files"]) == shown["shards"] == 4
    assert "metric" in run(capsys, "info", manifest)[0]
    _, err = run(capsys, "tune", manifest, data / "query.npy", code=1)
    assert "expected shards with search settings, got FlatIndex" in err
    codes = fpq.dask.build(fpq.PQIndex(4).fit(base), base, tmp_path / "codes", shard_rows=500)
    assert "expected X or neighbors" in run(capsys, "tune", codes, data / "query.npy", code=1)[1]
    argv = ["tune", codes, data / "query.npy", "--base", data / "base.npy", "--recall", "0.1"]
    assert json.loads(run(capsys, *argv, "--json")[0])["best"]["recall"] >= 0.1
    assert "--save: a manifest keeps no settings" in run(capsys, *argv, "--save", code=2)[1]
    other = tmp_path / "other.json"
    other.write_text("{}")
    for argv in (["info", other], ["tune", other, data / "query.npy"], ["search", other, data / "query.npy"]):
        assert "other.json: not a manifest of shards" in run(capsys, *argv, code=1)[1]
    assert "base.npy: not an fpq file (it looks like a .npy file)" in run(capsys, "info", data / "base.npy", code=1)[1]


def test_rows_that_are_not_finite_are_counted_in_the_file(
    data: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    base = np.load(data / "base.npy").astype(np.float64)
    base[1234, 5] = np.nan
    np.save(tmp_path / "nan.npy", base)
    monkeypatch.setattr(files, "BLOCK_BYTES", 100 * D)
    message = "expected numbers that are finite as float32, got NaN or infinity in row 1234"
    for options in ([], ["--kind", "flat"], ["--train-rows", 500], ["--kind", "e2lsh"]):
        _, err = run(capsys, "build", tmp_path / "nan.npy", tmp_path / "i.fpq", *options, "--quiet", code=1)
        assert err == f"fpq: {tmp_path / 'nan.npy'}: {message}\n"


def test_info_as_json(data: Path, tmp_path: Path, capsys: Any) -> None:
    run(capsys, "build", data / "base.npy", tmp_path / "i.fpq", "--kind", "flat")
    out, _ = run(capsys, "info", tmp_path / "i.fpq", "--json", "--verify")
    assert json.loads(out)["kind"] == "FlatIndex"
    assert json.loads(run(capsys, "info", "--json")[0])["version"] == fpq.__version__


def test_blocks_and_samples_of_a_mapped_file(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = np.load(data / "base.npy")
    monkeypatch.setattr(files, "BLOCK_BYTES", 100 * D)
    with files.opened(str(data / "base.bvecs"), files.BASE) as rows:
        assert [len(block) for block in rows.blocks()] == [100] * 20
        assert (np.concatenate(list(rows.blocks())) == base).all()
        sample = rows.sample(300, seed=1)
        chosen = np.sort(np.random.default_rng(1).choice(N, 300, replace=False))
        assert (sample == base[chosen]).all()
        assert (rows.sample(N, seed=1) == base).all()


def test_codes_do_not_depend_on_blocks(
    data: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ["build", data / "base.fvecs", "--kind", "ivfpq", "--lists", 8, "--m", 4]
    run(capsys, *build[:2], tmp_path / "a.fpq", *build[2:])
    monkeypatch.setattr(files, "BLOCK_BYTES", 333 * D)
    run(capsys, *build[:2], tmp_path / "b.fpq", *build[2:])
    query = np.load(data / "query.npy")
    a, b = (fpq.load(tmp_path / name).search(query, 10) for name in ("a.fpq", "b.fpq"))
    assert (a.ids == b.ids).all() and (a.distances == b.distances).all()


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["build", "{}/base.npy", "{}/x.fpq", "--kind", "flat", "--m", "8"], 2, "--m: not an option of --kind flat"),
        (["build", "{}/base.npy", "{}/x.fpq", "--lists", "8"], 2, "--lists: not an option of --kind pq"),
        (["build", "{}/base.npy", "{}/x.fpq", "--kind=e2lsh", "--train-rows=8"], 2, "--train-rows: not an option"),
        (["build", "{}/base.npy", "{}/no/x.fpq"], 1, "expected an existing folder"),
        (["build", "{}/none.npy", "{}/x.fpq"], 1, "No such file"),
        (["build", "{}/none.npz", "{}/x.fpq"], 1, "No such file"),
        (["build", "{}/base.npy:train", "{}/x.fpq"], 1, "expected a name that ends in"),
        (["build", "{}/all.npz:what", "{}/x.fpq"], 1, "expected an array 'what', got neighbors, test, train"),
        (["build", "{}/base.txt", "{}/x.fpq"], 1, "expected a name that ends in"),
        (
            ["build", "{}/base.npy", "{}/x.fpq", "--m", "99"],
            1,
            "--m: expected at most the 16 dimension(s) of {}/base.npy",
        ),
        (["build", "{}/x.parquet", "{}/x.fpq"], 1, ".npz, .hdf5, .h5; convert other formats to .npy"),
        (["build", "{}/base.npy", "{}/x.fpq", "--nbits", "9"], 1, "fpq: --nbits: expected 1 to 8"),
        (["tune", "{}/base.npy", "{}/query.npy"], 1, "base.npy: not an fpq file"),
        (["search", "{}/pq.fpq", "{}/query.npy", "--rerank", "3"], 2, "build the index with --keep-vectors"),
        (["search", "{}/base.npy", "{}/query.npy"], 1, "base.npy: not an fpq file (it looks like a .npy file)"),
        (["search", "{}/flat.fpq", "{}/query.npy", "-o", "found.npy"], 2, "ending in .npz"),
        (["search", "{}/flat.fpq", "{}/query.npy", "--n-probe", "4"], 2, "--n-probe: not an option of FlatIndex"),
        (["search", "{}/flat.fpq", "{}/truth.npy"], 1, "fpq: {}/truth.npy: expected vectors of dimension 16, got"),
        (["eval", "{}/flat.fpq", "{}/query.npy", "{}/base.npy"], 1, "expected 20 rows, one per query, got 2000"),
        (["tune", "{}/flat.fpq", "{}/query.npy"], 1, "expected an index with settings to tune, got a FlatIndex"),
        (["search", "{}/kmeans.fpq", "{}/query.npy"], 1, "expected an index, got a KMeans"),
    ],
)
def test_errors_are_one_line(data: Path, capsys: Any, argv: list[str], code: int, message: str) -> None:
    base = np.load(data / "base.npy")
    fpq.FlatIndex().add(base).save(data / "flat.fpq")
    fpq.KMeans(2).fit(base).save(data / "kmeans.fpq")
    fpq.PQIndex(4, nbits=4).fit(base).add(base).save(data / "pq.fpq")
    out, err = run(capsys, *(arg.format(data) for arg in argv), "--quiet", code=code)
    assert out == "" and err.startswith("fpq: ") and err.count("\n") == 1
    assert message.format(data) in err


@pytest.mark.parametrize("command", ["build", "search", "eval", "tune"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"fpq {command} " in capsys.readouterr().out.split("examples:")[1]
