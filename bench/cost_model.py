"""The cost model of docs/scale.md: core seconds of fit, build and search, fitted to measurements of bench/scale.py.

A point is a measurement: n rows in shards, with lists, and for each number of probes the seconds of a query, of
many at once, and the rows that it scans.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

ROWS_PER_LIST = 128  # that fit learns from, from 8,192 lists on


def assigned_in_two_levels(lists: int) -> float:
    """The centroids that a row is compared with on the second of two levels; 0 with one level."""
    from fpq.indexes.parts import two_level

    return two_level.ASSIGN_CELLS * math.sqrt(lists) if lists >= two_level.LEAST_LISTS else 0


def probed_in_two_levels(lists: int, probes: int) -> float:
    """The centroids that a query is compared with on the second of two levels; 0 with one level."""
    from fpq.indexes.parts import coarse, two_level

    cells = math.sqrt(lists)
    searched = two_level.PROBE_CELLS + two_level.PROBE_FACTOR * probes / cells
    return searched * cells if lists >= coarse.TWO_LEVEL_PROBES else 0


def fit_terms(point: dict[str, Any]) -> list[float]:
    """Fit seconds of two levels = a * training rows * sqrt(lists)."""
    return [min(point["n"], ROWS_PER_LIST * point["lists"]) * math.sqrt(point["lists"])]


def build_terms(point: dict[str, Any]) -> list[float]:
    """Build seconds = a * shards * lists + n * (b + c * centroids), the centroids that a row meets in two levels."""
    n, lists = point["n"], point["lists"]
    return [point["shards"] * lists, n, n * assigned_in_two_levels(lists)]


def read(lists: int, probes: int, queries: int) -> float:
    """The lists that a query of a batch reads from memory: those that several queries probe are read once."""
    return lists * (1 - math.exp(-queries * probes / lists)) / queries


def search_terms(point: dict[str, Any], probes: int) -> list[float]:
    """Seconds a query = a + shards * (b + c * lists read) + d * scanned rows + e * centroids, as for build."""
    shards, lists = point["shards"], point["lists"]
    fetched = read(lists, probes, point["queries"])
    return [1.0, shards, shards * fetched, point["scanned"][probes], probed_in_two_levels(lists, probes)]


def fitted(terms: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Coefficients of at least 0 with the least squared relative errors: drop the most negative until none is left."""
    keep = list(range(terms.shape[1]))
    while True:
        scaled = terms[:, keep] / seconds[:, None]
        found = np.linalg.lstsq(scaled, np.ones(len(seconds)), rcond=None)[0]
        if (found >= 0).all():
            whole = np.zeros(terms.shape[1])
            whole[keep] = found
            return whole
        keep.pop(int(np.argmin(found * scaled.max(axis=0))))


def model_of(points: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The coefficients of `fit_terms`, `build_terms` and `search_terms`."""
    two_levels = [point for point in points if assigned_in_two_levels(point["lists"])]
    pairs = [(point, probes) for point in points for probes in point["search s"]]
    terms = {
        "fit": ([fit_terms(point) for point in two_levels], [point["fit s"] for point in two_levels]),
        "build": ([build_terms(point) for point in points], [point["build s"] for point in points]),
        "search": ([search_terms(*pair) for pair in pairs], [point["search s"][probes] for point, probes in pairs]),
    }
    return {name: fitted(np.array(rows), np.array(seconds)).tolist() for name, (rows, seconds) in terms.items()}


def errors_of(model: dict[str, list[float]], points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print the model and its errors at these points."""
    (fit,), (a, b, c) = model["fit"], model["build"]
    print(f"\nfit core s = {fit:.3g} rows sqrt(lists)")
    print(f"build core s = {a:.3g} shards lists + n ({b:.3g} + {c:.3g} centroids)")
    a, b, c, d, e = model["search"]
    print(f"core s per query = {a:.3g} + shards ({b:.3g} + {c:.3g} read) + {d:.3g} scanned + {e:.3g} centroids\n")
    print("| lists | n | what | measured | predicted | error |\n|---|---|---|---|---|---|")
    errors = []
    for point in points:
        rows = [("build core s", point["build s"], np.dot(model["build"], build_terms(point)))]
        if assigned_in_two_levels(point["lists"]):
            rows.insert(0, ("fit core s", point["fit s"], np.dot(model["fit"], fit_terms(point))))
        for probes, seconds in point["search s"].items():
            predicted = np.dot(model["search"], search_terms(point, probes))
            rows.append((f"core us per query, {probes} probes", seconds * 1e6, predicted * 1e6))
        for what, measured, predicted in rows:
            of = {"lists": point["lists"], "n": point["n"], "what": what}
            errors.append({**of, "measured": measured, "predicted": float(predicted)})
            cells = (*of.values(), f"{measured:.4g}", f"{predicted:.4g}", f"{predicted / measured - 1:+.0%}")
            print("| " + " | ".join(map(str, cells)) + " |")
    return errors
