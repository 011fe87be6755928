"""The paper's experiment (bench/paper) in its quick mode, on made-up images."""

from __future__ import annotations

import gzip
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from fpq.metrics import one_recall_at_k

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end: fpq is the installed one, for the processes of the systems too

paper = pytest.importorskip("bench.paper.__main__", reason="no bench/paper beside the tests")
measure = pytest.importorskip("bench.paper.measure")
plain = pytest.importorskip("bench.paper.plain")
data, survey, table, tune = paper.data, paper.survey, paper.table, paper.tune

N_IMAGES, N_TEST = 1_100, 100


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten patterns and noise, as the four files of a data set."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (10, 8, 8))
    folder = tmp_path / "data" / "fashion-mnist"
    folder.mkdir(parents=True)
    for part, n in (("train", N_IMAGES), ("t10k", N_TEST)):
        labels = rng.integers(0, 10, n)
        pixels = patterns[labels] + rng.integers(0, 50, (n, 8, 8))
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            packed = gzip.compress(head + array.astype(np.uint8).tobytes())
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(packed)
    monkeypatch.setenv("FPQ_DATA", str(folder.parent))


def run(out: Path, *more: str) -> dict:
    arguments = ["--quick", "--data", "fashion-mnist", "--threads", "1", "--out", str(out), "--json", str(out), *more]
    assert paper.main(arguments) == 0
    return json.loads((out / "fashion-mnist.json").read_text())


def test_table(images: None, tmp_path: Path) -> None:
    systems = ["fpq-flat", "plain-pq", "paper-shared-1.5", "fpq"]
    results = run(tmp_path / "out", "--only", "table", "--systems", *systems)
    assert [row["system"] for row in results["table"]] == systems
    for row in results["table"]:
        assert row["train_s"] >= 0 and row["test_s"] > 0
        assert row["peak_mb"] is None or row["peak_mb"] < 500
        assert row["quality"]["accuracy_1nn"] > 0.9
        recalls = [row["quality"][f"one_recall_at_{k}"] for k in (1, 10, 100)]
        assert recalls == sorted(recalls)
    exact = results["table"][0]
    assert exact["bytes_per_image"] == 64
    assert exact["quality"]["one_recall_at_1"] == 1.0
    text = (tmp_path / "out" / "fashion-mnist.md").read_text(encoding="utf-8")
    assert "2996.45" in text and "| fpq FlatIndex |" in text


@pytest.mark.parametrize("system", ["sklearn", "faiss-flat"])
def test_exact_systems_agree(images: None, tmp_path: Path, system: str) -> None:
    missing = paper.SYSTEMS[system].missing
    if missing:
        pytest.skip(f"{missing} not installed")
    (row,) = run(tmp_path, "--only", "table", "--systems", system)["table"]
    assert row["quality"]["one_recall_at_1"] == 1.0


def test_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    quality = {"accuracy_1nn": 0.9, "accuracy_5nn": 0.9}
    rows = [measure.Row(s, s, n, n / 100, 1.0, 1.0, 5.0, 8, quality) for s in paper.GROWTH for n in (100, 200)]
    effects = [
        survey.Effect("pixels", None if p is None else p.scope, p and p.candidates, p and p.c, *[0.5] * 7)
        for p in survey.POLICIES
    ]
    written = [*paper.figures.growth(rows, "toy", tmp_path), paper.figures.open_indexing(effects, "toy", tmp_path)]
    assert len(written) == 4
    assert all(path.read_bytes().startswith(b"<?xml") for path in written)
    assert table.open_indexing(effects).count("\n") == 2 + len(survey.POLICIES)


def test_survey(images: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "CODEBOOKS", {"pixels, m = 8": {"m": 8}})
    effects = survey.effects(measure.Task("fpq", "fashion-mnist", 1_000, N_TEST, 1))
    without = effects[0]
    for effect in effects[1:]:
        assert effect.squared_error >= without.squared_error * (1 - 1e-6)  # none is nearer than the nearest
        assert 0 <= effect.entropy_bits <= 8
        if (effect.scope, effect.candidates) == ("subspace", 256):
            limit = np.ceil(effect.c * 1_000 / 256)
            assert effect.largest <= limit / (1_000 / 256) + 1e-9


def test_the_choice_goes_by_accuracy_then_time_then_dimensions() -> None:
    found = [
        tune.Trial({"open_indexing": c, "rotation_dim": dim}, 0.9, accuracy, seconds)
        for c, dim, accuracy, seconds in (
            (1.5, 128, 0.9700, 9.0),  # slow
            (1.5, 32, 0.9698, 2.0),
            (1.5, 64, 0.9692, 2.2),
            (1.0, 64, 0.9695, 2.3),
            (1.5, 128, 0.9650, 0.1),  # not accurate
            (None, 64, 0.9720, 1.0),  # plain PQ
        )
    ]
    assert tune.choose(found) is found[3]


def test_plain_pq() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3_000, 10)).astype(np.float32)
    pq = plain.PlainPQ(x, 5)
    ids = pq.search(x[:50], 10)
    assert one_recall_at_k(ids, np.arange(50)) > 0.95
    parts = [c[codes] for c, codes in zip(pq.codebooks, pq.codes, strict=True)]
    distances = ((np.hstack(parts) - x[7]) ** 2).sum(1)
    np.testing.assert_allclose(pq.distances(x[7]), distances, rtol=1e-5)
    np.testing.assert_array_equal(plain.smallest(np.array([2.0, 1, 1, 0, 3]), 3), [3, 1, 2])


@pytest.mark.skipif(Path("/usr/share/datasets/fashion-mnist").exists(), reason="it is installed")
def test_a_missing_data_set_ends_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPQ_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="apt-get install dataset-fashion-mnist"):
        data.load("fashion-mnist")
