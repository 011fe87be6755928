"""fpq beside faiss, scikit-learn and numpy's BLAS in one process: imported and used in every order.

python bench/import_orders.py
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import faults
import test_threads

answers = set()
orders = list(itertools.permutations(test_threads.LIBRARIES))
for order in orders:
    process = faults.run(test_threads.BESIDE, *order)
    answers.update(process.communicate(timeout=300)[0].split())
    assert process.returncode == 0, order
assert len(answers) == 1
print(f"{len(orders)} orders of {', '.join(test_threads.LIBRARIES)}: no crash, no hang, the same answers")
