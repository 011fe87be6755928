"""fpq beside other libraries that start threads, in one process: imported and used in many orders.

    pip install faiss-cpu scikit-learn torch numba xgboost lightgbm
    python bench/import_orders.py

Each library trains or computes on two threads. With four libraries or fewer, every order is taken; else every ordered
pair, followed by the others, and random orders. fpq must give the same answers in all of them. Libraries that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import faults
import test_threads

LIBRARIES = ("fpq", "faiss", "sklearn.cluster", "numpy", "torch", "numba", "xgboost", "lightgbm")


def orders(libraries: list[str], n_random: int) -> list[tuple[str, ...]]:
    if len(libraries) <= 4:
        return list(itertools.permutations(libraries))
    draw = random.Random(0)
    chosen = []
    for first in [*itertools.permutations(libraries, 2), *[()] * n_random]:
        others = [name for name in libraries if name not in first]
        chosen.append((*first, *draw.sample(others, len(others))))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES)
    parser.add_argument("--random", type=int, default=20, help="random orders, of more than four libraries")
    arguments = parser.parse_args()
    libraries = [name for name in arguments.libraries if importlib.util.find_spec(name.split(".")[0])]
    taken = orders(libraries, arguments.random)
    answers = set()
    for order in taken:
        process = faults.run(test_threads.BESIDE, *order)
        answers.update(process.communicate(timeout=300)[0].split())
        assert process.returncode == 0, order
    assert len(answers) == 1
    print(f"{len(taken)} orders of {', '.join(libraries)}: no crash, no hang, the same answers")


if __name__ == "__main__":
    main()
