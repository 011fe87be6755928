"""The paper's split of a data set: training rows, and test rows that follow them in the same file."""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np

from fpq import datasets

HOW_TO_GET = {
    "mnist": "fpq.datasets.fetch_mnist() downloads it; a checkout has it in bench/data/mnist.",
    "fashion-mnist": (
        "On Debian and Ubuntu: apt-get install dataset-fashion-mnist\n"
        "or without root: apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DIR, then set\n"
        "FPQ_DATA=DIR/usr/share/datasets. Elsewhere put the four .gz files of the data set's home page,\n"
        "https://github.com/zalandoresearch/fashion-mnist, into DIR/fashion-mnist and set FPQ_DATA=DIR."
    ),
}


class Split(NamedTuple):
    """Images as the files have them, uint8 (n, 784), and their labels."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def load(name: str) -> datasets.Dataset:
    """A labelled data set, or an exit that says how to get it."""
    try:
        data = datasets.load(name)
    except FileNotFoundError as error:
        sys.exit(f"{error}\n{HOW_TO_GET[name]}")
    if data.base_labels is None or data.query_labels is None:
        sys.exit(f"{name}: found without labels, expected the four idx files")
    return data


def split(name: str, n_train: int, n_test: int, *, unseen: bool = False) -> Split:
    """The first `n_train` rows, and the `n_test` rows after them or, if `unseen`, of the data set's own test file."""
    data = load(name)
    needed = (n_train, n_test) if unseen else (n_train + n_test, 0)
    if (len(data.base), len(data.query)) < needed or len(data.query) < needed[1]:
        sys.exit(f"{name}: has {len(data.base)} rows and {len(data.query)} test rows, expected {needed} at least")
    rest, labels = (data.query, data.query_labels) if unseen else (data.base[n_train:], data.base_labels[n_train:])
    parts = data.base[:n_train], data.base_labels[:n_train], rest[:n_test], labels[:n_test]
    return Split(*(np.array(part) for part in parts))
