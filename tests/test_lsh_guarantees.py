"""What theory promises of the kinds of LSH, as statistical tests over random hash functions.

Seeds are fixed, so a test always gives the same outcome; a right implementation with other seeds would fail one with a
probability of at most ERROR, two-sided where a probability is known, one-sided where there is a bound.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import fpq
from fpq import _native
from fpq.indexes import c2lsh
from fpq.indexes.lsh import collision_probability

ERROR = 1e-5
D = 8
RNG = np.random.default_rng(3)


def tails(successes: int, trials: int, p: float) -> tuple[float, float]:
    """P(at most so many successes) and P(at least so many) of a binomial distribution."""
    p = min(max(p, 1e-300), 1 - 1e-16)
    logs = [
        math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1)
        + i * math.log(p) + (trials - i) * math.log1p(-p)
        for i in range(trials + 1)
    ]  # fmt: skip
    masses = np.exp(logs)
    return float(masses[: successes + 1].sum()), float(masses[successes:].sum())


def assert_probability(successes: int, trials: int, p: float) -> None:
    lower, upper = tails(successes, trials, p)
    assert min(lower, upper) >= ERROR / 2, f"{successes} of {trials}, expected {p * trials:.1f}"


def assert_at_least(successes: int, trials: int, p: float) -> None:
    assert tails(successes, trials, p)[0] >= ERROR, f"{successes} of {trials}, expected at least {p * trials:.1f}"


def assert_at_most(successes: int, trials: int, p: float) -> None:
    assert tails(successes, trials, p)[1] >= ERROR, f"{successes} of {trials}, expected at most {p * trials:.1f}"


def pair(distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Two vectors so far apart."""
    direction = RNG.normal(size=D)
    a = RNG.normal(size=D) * 5
    return a[None].astype(np.float32), (a + direction / np.linalg.norm(direction) * distance)[None].astype(np.float32)


@pytest.mark.parametrize("distance", [0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 10.0])
def test_a_hash_collides_as_its_closed_form_says(distance: float) -> None:
    a, b = pair(distance * 3)
    hashes = fpq.E2LSHIndex(n_tables=1024, n_hashes=32, width=3.0, seed=1).fit(a)._hashes
    assert hashes is not None
    values = np.empty((2, 1024 * 32), np.float32)
    hashes.values(np.vstack([a, b]), values, 1)
    same = int((np.floor(values[0]) == np.floor(values[1])).sum())
    expected = float(collision_probability(distance * 3, 3.0))
    assert_probability(same, 1024 * 32, expected)
    scale = distance or 1e-9  # the closed form against its integral (Datar et al. 2004, section 3.2)
    t = np.linspace(0, 1, 20001)
    density = 2 / scale * np.exp(-((t / scale) ** 2) / 2) / math.sqrt(2 * math.pi) * (1 - t)
    if distance:
        assert expected == pytest.approx(float(((density[1:] + density[:-1]) / 2).mean()), abs=1e-6)


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0])
def test_a_window_collides_as_its_closed_form_says(distance: float) -> None:
    """Distances in radii of the first level."""
    width, collided, trials = 7.0, 0, 0
    for seed in range(64):
        index = fpq.C2LSHIndex(n_hashes=255, width=width, seed=seed)
        assert index.radius is not None
        a, b = pair(distance * index.radius)
        hashes = index.fit(a)._hashes
        assert hashes is not None
        values, codes = np.empty((1, 255), np.float32), np.empty((1, 255), np.uint8)
        hashes.values(a, values, 1)
        hashes.buckets(b, codes, 1)
        low, high = np.floor(values - c2lsh.WINDOW), np.floor(values + c2lsh.WINDOW)
        collided += int(((codes - low) % 256 <= high - low).sum())
        trials += 255
    expected = collision_probability(distance * index.radius, width / (2 * c2lsh.WINDOW), c2lsh.WINDOW)
    assert_probability(collided, trials, float(expected))


@pytest.mark.parametrize("n_hashes", [1, 4, 10])
@pytest.mark.parametrize("times", [1.0, 2.0])
def test_e2lsh_shares_buckets_with_p1_at_r_and_p2_at_cr(n_hashes: int, times: float) -> None:
    radius, width, n_tables, same = 2.0, 8.0, 1000, 0
    for seed in range(3):
        a, b = pair(radius * times)
        index = fpq.E2LSHIndex(n_tables=n_tables, n_hashes=n_hashes, width=width, seed=seed).fit(a).add(b)
        index.search(a, 1, n_probe=n_tables)
        assert index.last_stats is not None
        same += int(index.last_stats.candidates[0])
    assert_probability(same, 3 * n_tables, float(collision_probability(radius * times, width)) ** n_hashes)


@pytest.mark.parametrize("times", [1.0, 2.0])
def test_e2lsh_finds_by_any_of_its_tables(times: float) -> None:
    radius, width, n_tables, n_hashes, found = 2.0, 6.0, 6, 5, 0
    for seed in range(400):
        a, b = pair(radius * times)
        index = fpq.E2LSHIndex(n_tables=n_tables, n_hashes=n_hashes, width=width, seed=seed).fit(a).add(b)
        found += int(index.search(a, 1, n_probe=n_tables).ids[0, 0] == 0)
    p = float(collision_probability(radius * times, width)) ** n_hashes
    assert_probability(found, 400, 1 - (1 - p) ** n_tables)


@pytest.mark.parametrize(("ratio", "delta", "beta"), [(2.0, 1 / math.e, 0.01), (2.0, 0.1, 0.02), (1.7, 0.3, 0.1)])
def test_c2lsh_misses_and_false_candidates(ratio: float, delta: float, beta: float) -> None:
    """At the first level: a row within the radius is missed, one beyond ratio times the radius taken, this seldom."""
    trials, near, far = 1000, 0, 0
    for seed in range(trials):
        index = fpq.C2LSHIndex(width=5.0, ratio=ratio, delta=delta, beta=beta, seed=seed)
        assert index.radius is not None
        for times in (1.0, ratio):
            a, b = pair(index.radius * times)
            again = fpq.C2LSHIndex(width=5.0, ratio=ratio, delta=delta, beta=beta, seed=seed).fit(a).add(b)
            again.search(a, 1)
            assert again.last_stats is not None
            at_once = int(again.last_stats.buckets[0] == 1)
            near += at_once if times == 1 else 0
            far += at_once if times == ratio else 0
    assert_at_most(trials - near, trials, delta)
    assert_at_most(far, trials, beta / 2)
    assert index.width is not None and index.radius is not None
    for count, times in ((near, 1.0), (far, ratio)):
        p = float(collision_probability(index.radius * times, index.width / (2 * c2lsh.WINDOW), c2lsh.WINDOW))
        assert_probability(count, trials, tails(index.threshold, index.n_hashes, p)[1])


@pytest.mark.parametrize("level", [0, 1, 2])
def test_c2lsh_finds_an_approximate_nearest_neighbour(level: int) -> None:
    """The nearest row at a level's radius: ratio-approximate; just beyond it: ratio^2. Both with 1/2 - delta."""
    ratio, delta, trials = 2.0, 0.15, 60
    within, within_squared = 0, 0
    for seed in range(trials):
        index = fpq.C2LSHIndex(width=2.0, ratio=ratio, delta=delta, beta=0.02, seed=seed)
        assert index.radius is not None
        radius = index.radius * ratio**level
        x = RNG.normal(size=(1000, D))
        x *= (radius * 3 * (1 + RNG.random((1000, 1)))) / np.linalg.norm(x, axis=1, keepdims=True)
        index.fit(x)
        for times in (0.999, 1.001):
            x[0] *= radius * times / np.linalg.norm(x[0])
            index.remove(index.ids)
            found = index.add(x).search(np.zeros((1, D)), 1).distances
            share = fpq.metrics.approximation_ratio(found, np.array([[(radius * times) ** 2]]))
            within += int(times < 1 and share <= ratio * 1.0001)
            within_squared += int(times > 1 and share <= ratio**2 * 1.0001)
    assert_at_least(within, trials, 0.5 - delta)
    assert_at_least(within_squared, trials, 0.5 - delta)


@pytest.mark.parametrize("n_hashes", [4, 16])
@pytest.mark.parametrize("width", [0.1, 1.0])
def test_projected_distances_have_the_chi_squared_distribution(n_hashes: int, width: float) -> None:
    """Of codes, to within the error that the stop rules allow for; the errors are in buckets."""
    trials, distance, ratios = 1000, 2.0, (0.5, 1.0, 1.5)
    within, surely = np.zeros(3, int), np.zeros(3, int)
    error = 0.6 * math.sqrt(n_hashes)
    for seed in range(trials):
        a, b = pair(distance)
        hashes = fpq.PMLSHIndex(n_hashes=n_hashes, width=width, seed=seed).fit(a)._hashes
        assert hashes is not None
        values, codes = np.empty((1, n_hashes), np.float32), np.empty((1, n_hashes), np.int8)
        hashes.values(a, values, 1)
        hashes.clipped_buckets(b, codes, 1)
        assert np.abs(codes).max() < 126
        projected = float(np.linalg.norm(values - codes - 0.5))
        for i, ratio in enumerate(ratios):
            reach = ratio * math.sqrt(n_hashes) * distance / width
            within[i] += projected <= reach + error
            surely[i] += projected <= reach - error
    for i, ratio in enumerate(ratios):
        p = _native.chi_squared(n_hashes * ratio**2, n_hashes)
        assert_at_least(int(within[i]), trials, p)
        assert_at_most(int(surely[i]), trials, p)


@pytest.mark.parametrize(("ratio", "delta"), [(1.0, 0.2), (1.2, 0.05), (1.5, 0.15), (2.0, 0.1)])
@pytest.mark.parametrize("far", [1.02, 3.0])
def test_pmlsh_finds_approximate_nearest_neighbours(ratio: float, delta: float, far: float) -> None:
    """The nearest with 1/2 - delta, the i-th with 1/2 - i delta; without a budget, 1 in place of 1/2."""
    trials, k, n = 120, 3, 3000
    near = np.zeros(k, int)
    exact = 0
    for seed in range(trials):
        index = fpq.PMLSHIndex(ratio=ratio, delta=delta, seed=seed)
        x = RNG.normal(size=(n, 2 * D))
        lengths = ratio * far * (1 + RNG.random((n, 1)))  # all beyond the ratio
        lengths[:k, 0] = (1.0, 1.005, 1.01)
        x *= lengths / np.linalg.norm(x, axis=1, keepdims=True)
        found = index.fit(x).add(x).search(np.zeros((1, 2 * D)), k)
        near += np.sqrt(found.distances[0]) <= lengths[:k, 0] * ratio * 1.0001
        exact += int(np.isin(np.arange(k), found.ids[0]).sum())
    certain = 1.0 if index.beta >= 1 else 0.5
    for i in range(k):
        assert_at_least(int(near[i]), trials, certain - (i + 1) * delta)
    if index.beta >= 1:
        assert exact >= trials * k * (index.beta / 2 - 0.1)  # the k are not independent
