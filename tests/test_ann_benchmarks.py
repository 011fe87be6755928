"""The module for ann-benchmarks (bench/ann_benchmarks) through that project's interface."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))  # at the end: fpq is the installed one

pytest.importorskip("yaml", reason="config.yml needs PyYAML")
run = pytest.importorskip("bench.ann_benchmarks.run", reason="no bench/ beside the tests")


@pytest.fixture(scope="module")
def data() -> Any:
    data = run.random_data()
    return data._replace(query=data.query[:20], groundtruth=data.groundtruth[:20])


@pytest.mark.parametrize("name", list(run.algorithms()))
@pytest.mark.parametrize("metric", ["euclidean", "angular"])
def test_20_dimensions(name: str, metric: str, data: Any) -> None:
    entry = run.algorithms()[name]
    group = next(iter(entry["run_groups"].values()))
    algorithm = getattr(run.load_module(), entry["constructor"])(metric, *run.combinations(group["args"])[0])
    algorithm.fit(data.base)
    index = run.fpq.FlatIndex("l2" if metric == "euclidean" else "cosine").add(data.base)
    data = data._replace(groundtruth=index.search(data.query, 10).ids)
    algorithm.set_query_arguments(*run.combinations(group["query_args"])[-1])
    recall, _ = run.measure(algorithm, data, metric, runs=1)
    assert recall > 0.8
    algorithm.batch_query(data.query, 10)
    for query, ids in zip(data.query, algorithm.get_batch_results(), strict=True):
        assert (ids == algorithm.query(query, 10)).all()
    assert str(algorithm).startswith("FPQ")


def test_missing_results_are_left_out() -> None:
    algorithm = run.load_module().FPQIVF("euclidean", 8, 1, 4, False)
    algorithm.fit(np.arange(24, dtype=np.float32)[:, None])
    algorithm.set_query_arguments(1, 2)
    ids = algorithm.query(np.float32([3]), 10)
    assert 0 < len(ids) < 10 and ids.min() >= 0


def test_every_setting_of_the_configuration_is_taken() -> None:
    module = run.load_module()
    for entry in run.algorithms().values():
        for group in entry["run_groups"].values():
            for arguments in run.combinations(group["args"]):
                algorithm = getattr(module, entry["constructor"])("angular", *arguments)
                for settings in run.combinations(group["query_args"]):
                    algorithm.set_query_arguments(*settings)
                assert algorithm._make(10_000, 20).metric == "cosine"


def test_other_metrics_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="hamming"):
        run.load_module().FPQFlat("hamming", 4, None)
