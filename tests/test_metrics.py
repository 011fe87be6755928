"""Metrics against hand-made values and plain Python."""

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpq import metrics

IDS = [[7, 3, 5, -1], [2, 9, 4, 6]]
TRUE_IDS = [[3, 7, 8, 9], [1, 2, 9, 4]]


@st.composite
def id_tables(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], int]:
    """Two tables of ids, with -1 and repeated ids, and a k."""
    rows, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    row = st.lists(st.integers(-1, 8), min_size=width, max_size=width)
    table = st.lists(row, min_size=rows, max_size=rows)
    return draw(table), draw(table), draw(st.integers(1, width))


@given(id_tables())
def test_one_recall_at_k_is_the_loop(case: tuple[list[list[int]], list[list[int]], int]) -> None:
    ids, true_ids, k = case
    hits = sum(t[0] >= 0 and t[0] in row[:k] for row, t in zip(ids, true_ids, strict=True))
    assert metrics.one_recall_at_k(ids, true_ids, k) == pytest.approx(hits / len(ids))


@given(id_tables())
def test_recall_at_k_is_the_loop(case: tuple[list[list[int]], list[list[int]], int]) -> None:
    ids, true_ids, k = case
    shared = [len((set(row[:k]) & set(t[:k])) - {-1}) / k for row, t in zip(ids, true_ids, strict=True)]
    assert metrics.recall_at_k(ids, true_ids, k) == pytest.approx(sum(shared) / len(ids))


@given(st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=6))
def test_vote_is_the_loop(labels: list[list[int]]) -> None:
    expected = [max(row, key=lambda label: (row.count(label), -row.index(label))) for row in labels]
    assert metrics.vote(labels).tolist() == expected


def test_the_two_recalls_differ() -> None:
    assert metrics.one_recall_at_k(IDS, TRUE_IDS) == 0.5
    assert metrics.one_recall_at_k(IDS, TRUE_IDS, k=1) == 0.0
    assert metrics.recall_at_k(IDS, TRUE_IDS) == (2 / 4 + 3 / 4) / 2
    assert metrics.recall_at_k(IDS, TRUE_IDS, k=2) == (2 / 2 + 1 / 2) / 2


def test_true_ids_of_one_axis() -> None:
    assert metrics.one_recall_at_k(IDS, [3, 4], k=3) == 1.0


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
def test_integer_types_mix(dtype: Any) -> None:
    ids = np.array([[1, 2], [3, 4]], dtype)
    assert metrics.one_recall_at_k(ids, np.array([1, 9])) == 0.5
    assert metrics.recall_at_k(ids, np.array([[2, 1], [4, 9]], np.int32)) == 0.75


def test_inputs_are_left_alone() -> None:
    ids, true_ids = np.array([[5, 1, 5]]), np.array([[9, 5, 1]])
    metrics.recall_at_k(ids, true_ids)
    assert ids.tolist() == [[5, 1, 5]]
    assert true_ids.tolist() == [[9, 5, 1]]


def test_large_input_is_fast() -> None:
    rng = np.random.default_rng(0)
    ids, true_ids = rng.integers(0, 10**6, (2, 10_000, 100))
    start = time.perf_counter()
    metrics.one_recall_at_k(ids, true_ids)
    metrics.recall_at_k(ids, true_ids)
    metrics.vote(ids % 10)
    assert time.perf_counter() - start < 5  # about 0.3 s; loops in Python take longer than this


@pytest.mark.parametrize("function", [metrics.one_recall_at_k, metrics.recall_at_k])
@pytest.mark.parametrize(
    ("ids", "true_ids", "k", "error", "match"),
    [
        (IDS, TRUE_IDS, 0, ValueError, "k: expected 1 to 4"),
        (IDS, TRUE_IDS, 5, ValueError, "k: expected 1 to 4"),
        (IDS, TRUE_IDS, 1.5, TypeError, "k: expected an integer"),
        (IDS, TRUE_IDS[:1], None, ValueError, "2 and 1 rows"),
        ([1, 2], TRUE_IDS, None, ValueError, "ids: expected a 2-d array"),
        ([], TRUE_IDS, None, ValueError, "ids: expected a 2-d array that is not empty"),
        (IDS, [[[1]]], None, ValueError, "true_ids: expected a 2-d array"),
        (np.array(IDS, float), TRUE_IDS, None, TypeError, "ids: expected integers"),
        (IDS, np.array(TRUE_IDS, float), None, TypeError, "true_ids: expected integers"),
    ],
)
def test_bad_ids(function: Any, ids: Any, true_ids: Any, k: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        function(ids, true_ids, k)


def test_recall_needs_k_true_neighbours() -> None:
    with pytest.raises(ValueError, match="true_ids: expected at least k=4 columns, got 3"):
        metrics.recall_at_k(IDS, np.array(TRUE_IDS)[:, :3])


def test_vote_ties_go_to_the_nearest() -> None:
    assert metrics.vote([[2, 1, 1, 2], [3, 1, 2, 0], [0, 5, 5, 0]]).tolist() == [2, 3, 0]


def test_vote_keeps_the_kind_of_label() -> None:
    assert metrics.vote(np.array([["b", "a", "a"]])).tolist() == ["a"]
    assert metrics.vote(np.array([[1], [2]], np.uint8)).dtype == np.uint8
    assert metrics.vote(np.empty((0, 3), int)).shape == (0,)


@pytest.mark.parametrize("labels", [[1, 2], [[], []], 3])
def test_vote_bad_shape(labels: Any) -> None:
    with pytest.raises(ValueError, match="labels: expected shape"):
        metrics.vote(labels)


def test_label_metrics() -> None:
    truth = [0, 0, 0, 1, 1, 2, 2, 2, 2, 0]
    guess = [0, 0, 1, 0, 1, 2, 0, 2, 2, 0]
    assert metrics.accuracy(guess, truth) == 0.7
    assert metrics.confusion(guess, truth, 0) == metrics.Confusion(tp=3, fp=2, fn=1, tn=4)
    assert metrics.recall(guess, truth, 0) == 3 / 4
    assert metrics.precision(guess, truth, 0) == 3 / 5
    assert metrics.fallout(guess, truth, 0) == 2 / 6


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))), st.integers(0, 3))
def test_confusion_is_the_loop(pairs: list[tuple[int, int]], positive: int) -> None:
    guess, truth = [p for p, _ in pairs], [t for _, t in pairs]
    seen = [(p == positive, t == positive) for p, t in pairs]
    expected = [(True, True), (True, False), (False, True), (False, False)]
    assert metrics.confusion(guess, truth, positive) == tuple(seen.count(e) for e in expected)


def test_labels_may_be_words() -> None:
    words = np.array(["cat", "dog", "cat"])
    assert metrics.recall(words, words[::-1], "cat") == 1.0


def test_nothing_to_divide_by_gives_nan() -> None:
    assert math.isnan(metrics.recall([0, 0], [0, 0], 1))
    assert math.isnan(metrics.precision([0, 0], [1, 1], 1))
    assert math.isnan(metrics.fallout([1, 0], [1, 1], 1))
    assert math.isnan(metrics.accuracy([], []))


@pytest.mark.parametrize("guess", [[1, 2], [[1, 2, 3]], 1])
def test_labels_must_fit(guess: Any) -> None:
    with pytest.raises(ValueError, match="predicted, truth: expected 1-d arrays"):
        metrics.accuracy(guess, [1, 2, 3])
    with pytest.raises(ValueError, match="predicted, truth: expected 1-d arrays"):
        metrics.recall(guess, [1, 2, 3], 1)


def test_positive_must_be_one_label() -> None:
    with pytest.raises(ValueError, match="positive: expected one label"):
        metrics.confusion([1, 2], [1, 2], [1, 2])


def test_approximation_ratio() -> None:
    assert metrics.approximation_ratio([[1, 4], [9, 16]], [[1, 1], [1, 16]]) == (1 + 2 + 3 + 1) / 4
    assert metrics.approximation_ratio([[0.0, 4.0]], [[0.0, 1.0]]) == 1.5


@pytest.mark.filterwarnings("error")
def test_approximation_ratio_is_infinite() -> None:
    assert metrics.approximation_ratio([[1.0]], [[0.0]]) == math.inf
    assert metrics.approximation_ratio([[1.0, math.inf]], [[1.0, 2.0]]) == math.inf
    assert metrics.approximation_ratio([[math.inf]], [[0.0]]) == math.inf


@given(st.lists(st.integers(0, 2**40), min_size=1), st.floats(0.5, 2))
def test_scaled_distances_give_the_scale(values: list[int], c: float) -> None:
    true = np.array([values])
    expected = np.where(true > 0, c, 1.0).mean()
    assert metrics.approximation_ratio(true * c * c, true) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("distances", "true_distances", "match"),
    [
        ([[1.0]], [[1.0, 2.0]], r"one shape .* got \(1, 1\) and \(1, 2\)"),
        ([1.0], [1.0], "one shape"),
        ([[]], [[]], "not empty"),
        ([[-1.0]], [[1.0]], "^distances: expected squared"),
        ([[math.nan]], [[1.0]], "^distances: expected squared"),
        ([[1.0]], [[-1.0]], "true_distances: expected finite"),
        ([[1.0]], [[math.inf]], "true_distances: expected finite"),
        ([[1.0]], [[math.nan]], "true_distances: expected finite"),
    ],
)
def test_bad_distances(distances: Any, true_distances: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        metrics.approximation_ratio(distances, true_distances)


BIG = 1 << 63


@pytest.mark.parametrize("function", [metrics.one_recall_at_k, metrics.recall_at_k])
@pytest.mark.parametrize("big", [np.array([[BIG + 5]], np.uint64), [[BIG]], [[BIG, -1]], [[1 << 64]], [[-(1 << 64)]]])
def test_ids_from_2_to_the_63_are_refused(function: Any, big: Any) -> None:
    with pytest.raises(ValueError, match=r"^ids: expected ids below 2\*\*63"):
        function(big, [[1, 2]], 1)
    with pytest.raises(ValueError, match=r"^true_ids: expected ids below 2\*\*63"):
        function([[1, 2]], big, 1)


def test_the_largest_id_counts() -> None:
    largest = np.array([[BIG - 1]], np.uint64)
    assert metrics.one_recall_at_k(largest, [[BIG - 1]]) == metrics.recall_at_k(largest, [[BIG - 1]]) == 1.0


@pytest.mark.parametrize("kind", [list, lambda labels: np.array(labels, np.uint64)])
def test_large_labels_stay_apart(kind: Any) -> None:
    labels, others = kind([BIG, BIG + 1, 5]), kind([BIG + 1, BIG + 1, 5])
    assert metrics.accuracy(labels, others) == 2 / 3
    assert metrics.confusion(labels, others, BIG + 1) == metrics.Confusion(tp=1, fp=0, fn=1, tn=1)
    assert metrics.vote([labels, others]).tolist() == [BIG, BIG + 1]


def test_labels_that_fit_into_no_one_type_stay_apart() -> None:
    assert metrics.accuracy([BIG, -1], [BIG + 1, -1]) == 0.5
    assert metrics.vote([[-1, BIG, BIG + 1, BIG + 1]]).tolist() == [BIG + 1]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("ids", lambda x: metrics.one_recall_at_k(x[None], [[1]])),
        ("true_ids", lambda x: metrics.one_recall_at_k([[1]] * 3, x)),
        ("true_ids", lambda x: metrics.recall_at_k([[1, 2, 3]], x[None])),
        ("labels", lambda x: metrics.vote(x[None])),
        ("predicted", lambda x: metrics.accuracy(x, [1, 2, 3])),
        ("truth", lambda x: metrics.confusion([1, 2, 3], x, 1)),
        ("predicted", lambda x: metrics.recall(x, x, 1)),
        ("distances", lambda x: metrics.approximation_ratio(x[None], [[1.0, 1.0, 1.0]])),
        ("true_distances", lambda x: metrics.approximation_ratio([[9.0, 9.0, 9.0]], [x])),
    ],
)
def test_masked_entries_are_refused(name: str, call: Any) -> None:
    call(np.ma.masked_array([1, 2, 3], mask=False))
    with pytest.raises(ValueError, match=rf"^{name}: expected an array without masked entries, got 1 of 3 masked"):
        call(np.ma.masked_array([1, 2, 3], mask=[False, True, False]))
    with pytest.raises(ValueError, match="positive: expected one label"):
        metrics.confusion([1], [1], np.ma.masked)


@pytest.mark.parametrize("bad", [[[1j]], [["1.0"]], [[None]]])
def test_distances_are_real_numbers(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"^distances: expected real numbers"):
        metrics.approximation_ratio(bad, [[1.0]])
