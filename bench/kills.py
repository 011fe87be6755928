"""Kill a worker with signal 9 during fit, as the sample is drawn and after each of nine iterations, and during build.

python bench/kills.py [TIMES]
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import dask.array as da
import distributed
import numpy as np

import fpq
import fpq.dask
from fpq.dask import training

X = np.random.default_rng(0).normal(size=(3000, 12)).astype(np.float32)


def kill_once(block: np.ndarray, marker: str, block_info: Any = None) -> np.ndarray:
    if block_info[0]["chunk-location"][0] == 3 and not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return block


def kill_after(iterations: int, client: Any, marker: Path) -> None:
    """Have a worker die after so many iterations of k-means."""
    step, steps = training.ClusterSteps.sums, []

    def sums(*arguments: Any) -> Any:
        steps.append(step(*arguments))
        if len(steps) == iterations:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
            marker.touch()
            training.ClusterSteps.sums = step  # type: ignore[method-assign]
        return steps[-1]

    training.ClusterSteps.sums = sums  # type: ignore[method-assign]


def once(during: str, time: int, folder: Path) -> bool:
    """Whether all is as if no worker had died."""
    marker = folder / "marker"
    x = da.from_array(X, chunks=(200, 12))
    if during == "build" or time == 0:
        x = x.map_blocks(kill_once, marker=str(marker), dtype=X.dtype)
    expected = fpq.IVFPQIndex(8, 4, nbits=4).fit(X)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        if during == "fit":
            if time:
                kill_after(time, client, marker)
            learned = fpq.dask.fit(fpq.IVFPQIndex(8, 4, nbits=4), x, client=client)
            same = np.array_equal(learned.quantizer.codebooks, expected.quantizer.codebooks)
            same = same and np.array_equal(learned.centroids, expected.centroids)
        else:
            many = fpq.ShardedIndex(fpq.dask.build(expected, x, folder, client=client))
            many.verify()
            pairs = zip(many.search(X[:50], 9), expected.add(X).search(X[:50], 9), strict=True)
            same = len(many) == len(X) and len(list(folder.glob("shard-*"))) == 15
            same = same and all(np.array_equal(a, b) for a, b in pairs)
    return same and marker.exists()


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    for during in ("fit", "build"):
        good = 0
        for time in range(times):
            with tempfile.TemporaryDirectory() as folder:
                good += once(during, time, Path(folder))
        print(f"a worker killed during {during}: the same {good} of {times} times", flush=True)


if __name__ == "__main__":
    main()
