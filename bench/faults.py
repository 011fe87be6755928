"""Puts faults on saving, adding and training, many times over, and counts what is found after them.

    python bench/faults.py [--kills 200] [--interrupts 10]

A full and a read-only disk are small tmpfs mounts, which need root on Linux; without they are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fpq

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import faults

WORK = ("kmeans", "capacity", "k-means++", "pq", "opq", "add", "flat add", "search")


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path | None]:
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
        if sys.platform != "linux" or subprocess.run(mount, check=False, capture_output=True).returncode:
            yield None
            return
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def kills(n: int) -> None:
    rng = np.random.default_rng(0)
    for rows, longest in ((2_000, 0.02), (100_000, 0.5)):  # 0.5 MB, and 26 MB that take some tenths of a second
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on a disk
            found = faults.kill_while_saving(Path(folder, "a"), rows, rng.random(n // 2) * longest)
        print(f"kill -9 while saving {rows} rows, {n // 2} times: always whole; {found}")


def disks() -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 32)).astype(np.float32)
    index = fpq.FlatIndex().add(rows)
    with small_disk(1) as folder:
        if folder is None:
            print("full and read-only disk: left out, mounting a tmpfs is not permitted")
            return
        path = folder / "a"
        fpq.FlatIndex("ip").save(path)
        for state in ("full", "read-only"):
            if state == "read-only":
                subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
            try:
                index.save(path)
                raise AssertionError(f"{state} disk: no error")
            except OSError as error:
                print(f"{state} disk: {error}; {[each.name for each in folder.iterdir()]} left", end="; ")
            assert fpq.load(path).metric == "ip" and index.search(rows[:1], k=1).ids[0, 0] == 0
            print("the old file is whole, the index answers")


def interrupts(n: int) -> None:
    for what in WORK:
        ends = [faults.interrupted(what, after) for after in np.linspace(0.2, 2.0, n)]
        assert all(unchanged for _, unchanged in ends)
        print(f"Ctrl-C in {what}, {n} times: as before, back within {max(took for took, _ in ends):.3f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--interrupts", type=int, default=10)
    args = parser.parse_args()
    disks()
    interrupts(args.interrupts)
    kills(args.kills)
