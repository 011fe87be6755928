"""LSH or PQ? Queries per second on one thread against recall, with bytes per vector, beside faiss's RaBitQ.

    python -m bench.lsh_or_pq [--sets mnist,sift500k] [--rounds 3] [--queries 500] [--out docs/lsh-or-pq]
                              [--json docs/data/lsh-or-pq]
    python -m bench.lsh_or_pq --draw              # only the figures and tables, from the JSON files of an earlier run

Each index lives in a process of its own, built with all threads; then all queries are searched in one call on one
thread, and the rounds alternate over all indexes and settings: a rate is the median of its rounds. recall@10 is the
share of the ten true neighbours among the ten found. Bytes are all that the index holds, vectors and ids included, over
the number of vectors: `nbytes` of fpq, the size of the serialized index of faiss.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from bench.lsh_or_pq import report
from bench.lsh_or_pq.measure import run


def main() -> None:
    """Measure, write JSON, tables and figures."""
    parser = argparse.ArgumentParser(
        "python -m bench.lsh_or_pq", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default="mnist,sift500k")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs", "lsh-or-pq"), help="folder of the figures")
    parser.add_argument("--json", type=Path, default=Path("docs", "data", "lsh-or-pq"), help="folder of the numbers")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    options = parser.parse_args()
    for folder in (options.out, options.json):
        folder.mkdir(parents=True, exist_ok=True)
    for name in options.sets.split(","):
        file = options.json / f"{name}.json"
        if not options.draw:
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
            result = run(name, options.queries, options.rounds) | {"load_before": load}
            file.write_text(json.dumps(result, indent=1) + "\n")
        result = json.loads(file.read_text())
        print(f"{name}\n\n{report.table(result)}")
        report.draw(result, options.out / name)


if __name__ == "__main__":
    main()
