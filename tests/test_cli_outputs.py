"""Commands never write over what they read, nor, unless told to, over files of other programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from links import symlink

import fpq
from fpq import cli
from fpq.cli import outputs

X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
LINKS = ["same", "relative", "symlink", "hard link", "linked folder", "symlink to a symlink"]


def link(file: Path, how: str, ending: str) -> str:
    """Another name of a file, with that ending."""
    other = file.parent / "elsewhere" / f"other{ending}"
    other.parent.mkdir(exist_ok=True)
    if how == "relative":
        return os.path.relpath(file)
    if how == "symlink":
        symlink(other, file)
    elif how == "symlink to a symlink":
        symlink(file.parent / "first", file.name)
        symlink(other, file.parent / "first")
    elif how == "hard link":
        os.link(file, other)
    elif how == "linked folder":
        symlink(file.parent / "folder", file.parent)
        return str(file.parent / "folder" / file.name)
    else:
        return str(file)
    return str(other)


def refused(capsys: pytest.CaptureFixture[str], message: str, *argv: object) -> None:
    assert cli.main([str(arg) for arg in argv]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fpq: ") and err.count("\n") == 1
    assert message in err


def whole(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("how", LINKS)
@pytest.mark.parametrize("vectors", ["x.npy", "x.npz", "x.npz:X", "x.hdf5", "x.hdf5:X", "x.fvecs"])
@pytest.mark.parametrize("force", [False, True])
def test_build(
    vectors: str, how: str, force: bool, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", X=X)
    dims = np.full((300, 1), 8, "<i4").view("<f4")
    (tmp_path / "x.fvecs").write_bytes(np.hstack([dims, X]).tobytes())
    if "hdf5" in vectors:
        with pytest.importorskip("h5py").File(tmp_path / "x.hdf5", "w") as file:
            file["X"] = X
    monkeypatch.chdir(tmp_path)  # on Windows, another drive has no relative path
    out = link(tmp_path / vectors.split(":")[0], how, ".fpq")
    before = whole(tmp_path)
    build = ["build", tmp_path / vectors, out, "--kind", "flat", *(["--force"] if force else [])]
    refused(capsys, "expected another file to write to than the input", *build)
    assert whole(tmp_path) == before


@pytest.fixture
def index(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", X)
    fpq.PQIndex(2, nbits=3, keep_vectors=tmp_path / "x.npy").fit(X).add(X).save(tmp_path / "i.fpq")
    np.savez(tmp_path / "q.npz", Q=X[:5])
    return tmp_path / "i.fpq"


@pytest.mark.parametrize("how", ["symlink", "hard link", "symlink to a symlink"])
@pytest.mark.parametrize("target", ["q.npz", "i.fpq", "x.npy"])
@pytest.mark.parametrize("queries", ["q.npz", "q.npz:Q"])
def test_search(queries: str, target: str, how: str, index: Path, capsys: Any) -> None:
    folder = index.parent
    out = link(folder / target, how, ".npz")
    before = whole(folder)
    refused(capsys, f"than the input {folder / target}", "search", index, folder / queries, "-o", out, "--force")
    assert whole(folder) == before


@pytest.mark.parametrize("target", ["manifest.json", "0.fpq", "1.fpq", "x.npy"])
def test_search_of_shards(target: str, tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "x.npy", X)
    trained = fpq.PQIndex(2, nbits=3, keep_vectors=tmp_path / "x.npy").fit(X)
    for i in range(2):
        trained.remove(trained.ids)
        trained.add(X[i * 100 : i * 100 + 100], ids=np.arange(100) + i * 100).save(tmp_path / f"{i}.fpq")
    fpq.ShardedIndex.create(tmp_path / "manifest.json", [tmp_path / "0.fpq", tmp_path / "1.fpq"])
    out = link(tmp_path / target, "symlink", ".npz")
    before = whole(tmp_path)
    refused(capsys, "than the input", "search", tmp_path / "manifest.json", tmp_path / "x.npy", "-o", out, "--force")
    assert whole(tmp_path) == before


def test_tune_does_not_save_over_its_queries(tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "x.npy", X)
    refused(capsys, "than the input", "tune", tmp_path / "x.npy", tmp_path / "x.npy", "--save")


def test_build_replaces_an_index_but_nothing_else(tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "x.npy", X)
    fpq.KMeans(2).fit(X).save(tmp_path / "saved.fpq")
    build = ["build", str(tmp_path / "x.npy")]
    for _ in range(2):
        assert cli.main([*build, str(tmp_path / "saved.fpq"), "--kind", "flat", "--quiet"]) == 0
    capsys.readouterr()
    others = {"y.npy": X[:3].tobytes(), "notes.txt": b"precious", "empty": b"", "m.json": b"{}", "cut.fpq": b"\x40\0"}
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
        refused(capsys, "was not written by fpq; --force overwrites it", *build, tmp_path / name, "--kind", "flat")
        assert (tmp_path / name).read_bytes() == data
        assert cli.main([*build, str(tmp_path / name), "--kind", "flat", "--force", "--quiet"]) == 0
        assert len(fpq.load(tmp_path / name)) == 300
        capsys.readouterr()
    refused(capsys, "expected the name of a regular file", *build, tmp_path, "--force")
    refused(capsys, "expected an existing folder", *build, tmp_path / "no" / "i.fpq", "--force")


def test_search_replaces_results_but_nothing_else(index: Path, capsys: Any) -> None:
    search = ["search", str(index), str(index.parent / "q.npz"), "-k", "2", "--quiet", "-o"]
    out = index.parent / "found.npz"
    for _ in range(2):
        assert cli.main([*search, str(out)]) == 0
    with np.load(out) as found:
        assert sorted(found) == ["distances", "ids"] and found["ids"].shape == (5, 2)
    capsys.readouterr()
    np.savez(out, ids=X, distances=X)
    before = out.read_bytes()
    refused(capsys, "was not written by fpq; --force overwrites it", *search, out)
    assert out.read_bytes() == before
    assert cli.main([*search, str(out), "--force"]) == 0
    assert outputs.is_results(out)


def test_results_are_written_whole_or_not_at_all(index: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    search = ["search", str(index), str(index.parent / "q.npz"), "--quiet", "-o", str(index.parent / "found.npz")]
    assert cli.main(search) == 0
    before = whole(index.parent)

    def fail(*args: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    assert cli.main(search) == 1
    assert whole(index.parent) == before


def test_an_output_link_stays_a_link(index: Path, capsys: Any) -> None:
    link_of = index.parent / "link.npz"
    symlink(link_of, "real.npz")
    assert cli.main(["search", str(index), str(index.parent / "q.npz"), "--quiet", "-o", str(link_of)]) == 0
    assert link_of.is_symlink() and outputs.is_results(index.parent / "real.npz")


def test_demo_replaces_its_picture_but_nothing_else(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(cli.demo, "run", lambda *args, **options: calls.append(args))
    np.save(tmp_path / "base.npy", X)
    picture = tmp_path / "picture.png"
    demo = ["demo", "--data", str(tmp_path), "--out", str(picture)]
    os.link(tmp_path / "base.npy", picture)
    refused(capsys, "than the input", *demo, "--force")
    picture.unlink()
    picture.write_bytes(b"\x89PNG of somebody else")
    refused(capsys, "was not written by fpq", *demo)
    assert calls == []
    assert cli.main([*demo, "--force"]) == 0
    figure = pytest.importorskip("matplotlib.figure").Figure()
    figure.savefig(picture, metadata={"Software": "fpq 1"})
    assert cli.main(demo) == 0
    assert len(calls) == 2


@pytest.mark.parametrize("command", ["build", "search", "demo"])
def test_help_tells_of_force(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert "--force" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["info"], ["search"], ["eval"], ["tune"]])
def test_files_of_others_are_named(command: list[str], tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.txt").write_text("some words")
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    more = [tmp_path / "x.npy"] * {"info": 0, "search": 1, "eval": 2, "tune": 1}[command[0]]
    refused(capsys, "x.npy: not an fpq file (it looks like a .npy file)", *command, tmp_path / "x.npy", *more)
    refused(capsys, "x.txt: not an fpq file (it looks like text)", *command, tmp_path / "x.txt", *more)
