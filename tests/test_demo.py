"""The demo on a few hundred made-up digits: its figures, its table and its picture."""

from __future__ import annotations

import gzip
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fpq import cli, datasets, demo

N_IMAGES, N_QUERIES = 400, 60


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Write the four MNIST files: ten random patterns and noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (10, 7, 7)).repeat(4, axis=1).repeat(4, axis=2) * 200
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, n in [("train", N_IMAGES), ("t10k", N_QUERIES)]:
        labels = np.arange(n) % 10
        images = patterns[labels] + rng.integers(0, 2, (n, 28, 28)) * 40
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images.astype(np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
    return folder


def test_table_and_picture(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "digits.png"
    assert cli.main(["demo", "--data", str(digits), "--out", str(picture)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert f"{N_QUERIES} queries, {N_IMAGES} images" in lines[0]
    assert [line[:9].strip() for line in lines[4:7]] == ["exact", "PQ m=8", "FPQ m=16"]
    assert "49x smaller" in out
    assert str(picture) in lines[-1]
    assert demo.RECALL in lines
    assert max(map(len, lines[:-1])) <= 104
    assert not any(line != line.rstrip() for line in lines)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 300_000


def test_figures(digits: Path, tmp_path: Path) -> None:
    report = demo.run(digits, tmp_path / "digits.png", n_threads=1)
    exact, pq, fpq = report["rows"]
    assert (report["n_images"], report["n_queries"], report["k"]) == (N_IMAGES, N_QUERIES, 100)
    assert report["threads"] == 1
    assert [row["bytes_per_image"] for row in report["rows"]] == [784, 8, 16]
    assert exact["fit_s"] is None
    assert pq["fit_s"] > 0
    assert exact["recall_at_1"] == exact["recall_at_10"] == exact["recall_at_100"] == 1
    assert all(0 < fpq[f"recall_at_{k}"] <= 1 for k in (1, 10, 100))
    assert min(row["accuracy_5nn"] for row in report["rows"]) == 1


def test_json(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "digits.png")
    assert cli.main(["demo", "--data", str(digits), "--out", out, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n_images"] == N_IMAGES
    assert [row["name"] for row in report["rows"]] == ["exact", "PQ m=8", "FPQ m=16"]
    assert report["rows"][0]["fit_s"] is None
    assert report["rows"][2]["bytes_per_image"] == 16


@pytest.mark.parametrize("as_json", [False, True])
def test_without_matplotlib(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_json: bool,
) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.patches"):
        monkeypatch.setitem(sys.modules, name, None)
    picture = tmp_path / "digits.png"
    report = demo.run(digits, picture, as_json=as_json)
    out, err = capsys.readouterr()
    assert report["picture"] is None
    assert not picture.exists()
    if as_json:
        assert json.loads(out)["picture"] is None
        assert "pip install matplotlib" in err
    else:
        assert "FPQ m=16" in out
        assert "pip install matplotlib" in out.splitlines()[-1]


def nothing_stored(name: str) -> datasets.Dataset:
    raise FileNotFoundError(name)


def test_offline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fetch_mnist() -> None:
        raise ConnectionError("no network:\n  put the four files into a folder")

    monkeypatch.setattr(datasets, "load", nothing_stored)
    monkeypatch.setattr(datasets, "fetch_mnist", fetch_mnist)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr() == ("", "fpq: no network:\n  put the four files into a folder\n")


def test_downloads_what_is_missing(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load", nothing_stored)
    monkeypatch.setattr(datasets, "fetch_mnist", lambda: digits)
    assert demo.run(out=tmp_path / "digits.png")["n_images"] == N_IMAGES


def test_finds_stored_digits(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPQ_DATA", str(digits.parent))
    assert demo.run(out=tmp_path / "digits.png")["n_images"] == N_IMAGES


def test_npy_files(digits: Path, tmp_path: Path) -> None:
    for npy, idx in zip(demo.NPY_FILES, demo.IDX_FILES, strict=True):
        np.save(tmp_path / npy, datasets.read_vectors(digits / idx)[:300])
    assert demo.run(tmp_path, tmp_path / "digits.png")["n_images"] == 300


def test_folder_without_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "digits.png")
    assert cli.main(["demo", "--data", str(tmp_path), "--out", out]) == 1
    err = capsys.readouterr().err
    assert err.startswith("fpq: ")
    assert demo.IDX_FILES[0] in err


def test_labels_that_do_not_fit(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_idx(digits / demo.IDX_FILES[1], np.zeros(N_IMAGES - 1, dtype=np.uint8))
    assert cli.main(["demo", "--data", str(digits)]) == 1
    assert "one label each" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["digits.jpg", "missing/digits.png"])
def test_picture_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str) -> None:
    assert cli.main(["demo", "--out", str(tmp_path / out)]) == 1
    message = "fpq: --out: expected" if out.endswith("jpg") else f"fpq: {tmp_path / out}: expected an existing folder"
    assert capsys.readouterr().err.startswith(message)


def test_choice_shows_every_digit_and_errors() -> None:
    labels = np.repeat(np.arange(10), 5)
    wrong = np.zeros((50, 10), dtype=bool)
    assert demo._choose(wrong, labels).tolist() == [*range(0, 50, 5), 1, 2]
    wrong[[13, 0, 49], 3] = True
    assert demo._choose(wrong, labels).tolist() == [*range(0, 50, 5), 13, 49]
    assert demo._choose(wrong[:3], labels[:3]).tolist() == [0, 1, 2]
