"""The paper's experiment in one command, each system in a process of its own.

    python -m bench.paper                         # some minutes; writes docs/paper and docs/data/paper
    python -m bench.paper --data fashion-mnist
    python -m bench.paper --tune                  # how the recommended settings were chosen
    python -m bench.paper --draw                  # only the figures, from the JSON file of an earlier run
    python -m bench.paper --quick --out FOLDER --json FOLDER    # a small run, to see that all works

The paper: Z. He, Hashing-based Approximate Nearest-Neighbor Search for Large-scale Image Retrieval.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from bench.paper import data, figures, survey, table, tune
from bench.paper.measure import VOTES, Row, Task, available_threads, in_own_process, rows
from bench.paper.systems import GROWTH, SYSTEMS
from fpq import __version__, cpu_info

PARTS = ("table", "openindexing", "growth")


class Size(NamedTuple):
    """How much is done."""

    n_train: int
    n_test: int
    growth: tuple[int, ...]


WHOLE = Size(50_000, 5_000, (10_000, 20_000, 40_000, 60_000))
QUICK = Size(1_000, 100, (500, 1_000))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and write; 0 when all was done."""
    parser = argparse.ArgumentParser(
        "python -m bench.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=data.HOW_TO_GET, default="mnist")
    parser.add_argument("--out", type=Path, default=Path("docs", "paper"), help="folder of tables and figures")
    parser.add_argument("--json", type=Path, default=Path("docs", "data", "paper"), help="folder of the numbers")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be given several times")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME",
                        help=f"rows of the table: {', '.join(SYSTEMS)}")  # fmt: skip
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.n_train} training and {QUICK.n_test} test rows")
    parser.add_argument("--tune", action="store_true", help="try settings on held-out training rows, nothing else")
    parser.add_argument("--draw", action="store_true", help="measure nothing, draw the figures of an earlier run")
    options = parser.parse_args(arguments)
    if options.draw:
        results = json.loads((options.json / f"{options.data}.json").read_text())
        effects = [survey.Effect(**effect) for effect in results["openindexing"]]
        _draw(effects, [Row(**row) for row in results["growth"]], options.data, options.out)
        return 0
    data.load(options.data)
    for folder in (options.out, options.json):
        folder.mkdir(parents=True, exist_ok=True)
    size = QUICK if options.quick else WHOLE
    task = Task("fpq", options.data, size.n_train, size.n_test, options.threads)
    if options.tune:
        text = f"# Settings on held-out training rows of {options.data}\n\n{_tune(task)}"
        _write(options.out / f"{options.data}-tuning.md", text)
        return 0
    _run(options, size, task)
    return 0


def _tune(task: Task) -> str:
    (trials,) = in_own_process(tune.trials, [task])
    return table.tuning(trials)


def _run(options: argparse.Namespace, size: Size, task: Task) -> None:
    start, parts = time.perf_counter(), options.only or PARTS
    name, load = options.data, _load()
    measured: list[Row] = []
    grown: list[Row] = []
    effects: list[survey.Effect] = []
    if "table" in parts:
        systems = [key for key in options.systems if _installed(key)]
        measured = list(rows([task._replace(system=key) for key in systems], _say))
    if "openindexing" in parts:
        (effects,) = in_own_process(survey.effects, [task])
    if "growth" in parts:
        systems = [key for key in GROWTH if _installed(key)]
        tasks = [task._replace(system=key, n_train=n, unseen=True, depth=VOTES) for n in size.growth for key in systems]
        grown = list(rows(tasks, _say))
    seconds = time.perf_counter() - start
    facts = {
        "data": name, "n_train": size.n_train, "n_test": size.n_test, "threads": options.threads, "load_before": load,
        "load_after": _load(), "seconds": seconds, "fpq": __version__, "isa": cpu_info()["isa"],
    }  # fmt: skip
    results = {"facts": facts, "table": measured, "openindexing": effects, "growth": grown}
    (options.json / f"{name}.json").write_text(json.dumps(results, default=asdict, indent=1) + "\n")
    _write(options.out / f"{name}.md", _report(facts, measured, effects, grown))
    _draw(effects, grown, name, options.out)


def _report(facts: dict[str, object], measured: list[Row], effects: list[survey.Effect], grown: list[Row]) -> str:
    text = [
        f"# {facts['data']}: {facts['n_train']:,} training rows, {facts['n_test']:,} test rows\n",
        f"fpq {facts['fpq']}, {facts['isa']}, {facts['threads']} threads; {facts['seconds']:.0f} s in all; load of "
        f"the machine: {facts['load_before']} before, {facts['load_after']} after.\n",
    ]
    if measured:
        text += [table.costs(measured), table.digit_zero(measured), table.targets(measured), table.PAPER]
    if effects:
        text += ["## OpenIndexing\n", table.open_indexing(effects)]
    if grown:
        text += ["## Growing training sets, the data set's own test file\n"]
        for n in dict.fromkeys(row.n_train for row in grown):
            text += [f"{n:,} training rows:\n", table.costs([row for row in grown if row.n_train == n])]
    return "\n".join(text)


def _draw(effects: list[survey.Effect], grown: list[Row], name: str, folder: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        _say("no figures: matplotlib is not installed")
        return
    written = [figures.open_indexing(effects, name, folder)] if effects else []
    written += figures.growth(grown, name, folder) if grown else []
    for path in written:
        _say(str(path))


def _installed(key: str) -> bool:
    missing = SYSTEMS[key].missing
    if missing:
        _say(f"{SYSTEMS[key].title}: left out, {', '.join(missing)} is not installed")
    return not missing


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    print(text, flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
