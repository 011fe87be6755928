"""Find near-duplicates of a picture in a folder, and draw a contact sheet.

    pip install '.[examples]'               # in a checkout of fpq
    python examples/image_search.py ~/Pictures --query holiday.jpg --out sheet.png
    python examples/image_search.py ~/Pictures --query holiday.jpg --keep descriptions.npz
    python examples/image_search.py ~/Pictures --evaluate

The search compares SIFT descriptors of small patches (Lowe 2004; their square roots, Arandjelovic and Zisserman 2012).
It finds pictures of the same thing: copies, crops, scaled and recompressed versions, other views of one building. It
does not find pictures of the same kind, such as other beaches; see below. Two methods:

votes   Each descriptor of all pictures is a 16-byte code in an fpq.PQIndex. Each descriptor of the query votes for the
        pictures of its nearest codes, as in Jegou, Douze, Schmid 2011. Also finds parts of pictures.
vlad    Each picture is one vector: sums of residuals to the words of an fpq.KMeans (Jegou et al. 2010), 4 kB here, in
        an fpq.FlatIndex. Less accurate, but suited to millions of pictures.

A copy has a score of about 0.8 (votes) or 1 (vlad). Pictures below --threshold are not shown, nor is the query itself.
--keep stores the descriptors, so that the next run describes only new pictures. --evaluate adds near-duplicates of each
picture (cropped, scaled, recompressed) and measures whether a search finds them.

To search some hundred photos by content, compare embeddings of a neural network such as CLIP instead, exactly and by
cosine similarity. With sentence-transformers, which also embeds words:

    model = SentenceTransformer("clip-ViT-B-32")
    photos = sorted(Path("photos").glob("*.jpg"))
    index = fpq.FlatIndex("cosine").add(model.encode([Image.open(photo) for photo in photos]))
    similarities, ids = index.search(model.encode(["a dog on a beach"]), k=10)
    found = [photos[i] for i in ids[0] if i >= 0]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import fpq

Array = np.ndarray[Any, Any]
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
SIDE, FEATURES = 480, 400  # longest side in pixels, descriptors of a picture
WORDS, TRAIN_ROWS = 64, 100_000
NEIGHBOURS = 20  # codes that a descriptor votes for
SHOWN = 11
# In a folder of 55 pictures of all kinds, 90 % of the scores of other pictures are below 0.01 (votes) and 0.09 (vlad).
THRESHOLDS = {"votes": 0.1, "vlad": 0.2}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path, help="searched with its subfolders")
    arguments.add_argument("--query", type=Path, help="picture to look for (default: the first one of the folder)")
    arguments.add_argument("--method", choices=list(METHODS), default="votes", help="default: %(default)s")
    arguments.add_argument("--threshold", type=float, help=f"least score of a match (default: {THRESHOLDS})")
    arguments.add_argument("--out", default="contact-sheet.png", help="picture to write (default: %(default)s)")
    arguments.add_argument("--keep", type=Path, metavar="FILE", help="npz file that keeps descriptors between runs")
    arguments.add_argument(
        "--evaluate", action="store_true", help="print the mean average precision on near-duplicates"
    )
    args = arguments.parse_args()
    files = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if args.evaluate:
        evaluate([picture for path in files if (picture := read(path)) is not None])
        return
    described = described_files(files, args.keep)
    if not described:
        sys.exit(f"{args.folder}: no pictures")
    wanted = args.query or next(iter(described))
    query = read(wanted)
    if query is None:
        sys.exit(f"{wanted}: not a picture")
    paths = list(described)
    order, scores = METHODS[args.method](list(described.values()))(describe([query])[0])
    order = [i for i in order if not paths[i].samefile(wanted)]
    threshold = THRESHOLDS[args.method] if args.threshold is None else args.threshold
    matches = [(paths[i], scores[i]) for i in order if scores[i] >= threshold]
    print(f"{wanted}: {len(matches)} of {len(order)} pictures have a score of at least {threshold:g}")
    for path, score in matches[:SHOWN]:
        print(f"{score:.2f}  {path}")
    if matches:
        draw(query, matches[:SHOWN], args.out)
        print(f"Contact sheet: {args.out}")
    elif order:
        print(f"The best score is {scores[order[0]]:.2f}, of {paths[order[0]]}")


def described_files(files: list[Path], keep: Path | None) -> dict[Path, Array]:
    """The descriptors of the pictures among the files; those in the file `keep` are not computed again."""
    kept = dict(np.load(keep)) if keep is not None and keep.exists() else {}
    names = {}
    for path in files:
        stat = path.stat()
        names[path] = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    new = {path: picture for path in files if names[path] not in kept and (picture := read(path)) is not None}
    for path, found in zip(new, describe(list(new.values())), strict=True):
        kept[names[path]] = found
    if keep is not None and new:
        np.savez(keep, **{name: kept[name] for name in names.values() if name in kept})
    return {path: kept[name] for path, name in names.items() if name in kept}


def read(path: Path) -> Array | None:
    """A picture in colour, its longest side at most SIDE, on white where it is transparent; None if it is none."""
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if picture is None:
        return None
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    if picture.shape[2] == 4:
        opaque = picture[:, :, 3:] / 255
        picture = (picture[:, :, :3] * opaque + 255 * (1 - opaque)).astype(np.uint8)
    return resize(picture, min(1, SIDE / max(picture.shape[:2])))


def resize(picture: Array, factor: float) -> Array:
    size = [max(1, round(side * factor)) for side in picture.shape[1::-1]]
    return picture if factor == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def describe(pictures: list[Array]) -> list[Array]:
    """The descriptors of each picture, float32 (n, 128)."""

    def one(picture: Array) -> Array:
        _, found = cv2.SIFT_create(nfeatures=FEATURES).detectAndCompute(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), None)
        if found is None:
            return np.zeros((1, 128), np.float32)  # nothing to see, such as one colour
        return np.sqrt(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-6))

    with ThreadPoolExecutor(fpq.cpu_info()["threads"]) as threads:
        return list(threads.map(one, pictures))


def votes(described: list[Array]) -> Any:
    """A function from the descriptors of a query to the order of the pictures and their scores, at most about 1."""
    picture_of = np.repeat(np.arange(len(described)), [len(found) for found in described])
    index = fpq.PQIndex(m=16, rotation="opq").fit(np.concatenate(described)).add(np.concatenate(described))
    norms = np.sqrt([len(found) for found in described])

    def search(query: Array) -> tuple[Array, Array]:
        distances, rows = index.search(query, min(NEIGHBOURS, len(picture_of)))
        weights = np.maximum(distances[:, -1:] - distances, 0)  # nothing for the farthest
        best = np.zeros((len(query), len(described)))  # a descriptor has one vote a picture
        np.maximum.at(best, (np.arange(len(query))[:, None], picture_of[rows]), weights)
        full = np.maximum(distances[:, -1], 1e-9).sum() / np.sqrt(len(query))  # if all distances to a picture are 0
        scores = best.sum(axis=0) / norms / full
        return np.argsort(-scores, kind="stable"), scores

    return search


def vlad(described: list[Array]) -> Any:
    """As `votes`."""
    rows = np.concatenate(described)
    words = fpq.KMeans(min(WORDS, len(rows))).fit(rows[:: max(1, len(rows) // TRAIN_ROWS)])
    pca = fpq.ProductQuantizer(m=1, nbits=1, rotation="pca").fit(rows).rotation_matrix[:, :16]

    def vector(found: Array) -> Array:
        sums = np.zeros((words.n_clusters, 16))
        labels = words.predict(found)
        np.add.at(sums, labels, (found - words.centroids[labels]) @ pca)
        sums = np.sign(sums) * np.sqrt(np.abs(sums))
        return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)).ravel()

    index = fpq.FlatIndex("cosine").add(np.array([vector(found) for found in described]))

    def search(query: Array) -> tuple[Array, Array]:
        similarities, order = index.search(vector(query), len(described))
        return order, similarities[np.argsort(order)]

    return search


METHODS = {"votes": votes, "vlad": vlad}


def near_duplicates(picture: Array) -> list[Array]:
    """Cropped to a half of the area, scaled to 40 %, recompressed at quality 10, and all three."""
    h, w = picture.shape[:2]

    def recompressed(x: Array) -> Array:
        return cv2.imdecode(cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, 10])[1], cv2.IMREAD_COLOR)

    cropped = picture[h // 10 : h // 10 + round(0.7 * h), w // 5 : w // 5 + round(0.7 * w)]
    return [cropped, resize(picture, 0.4), recompressed(picture), recompressed(resize(cropped, 0.6))]


def evaluate(pictures: list[Array]) -> None:
    """Print the mean average precision of each method and kind of near-duplicate."""
    kinds = ["cropped", "scaled", "recompressed", "all three"]
    described = describe([x for picture in pictures for x in (picture, *near_duplicates(picture))])
    each = len(kinds) + 1
    print(f"{len(pictures)} pictures with {len(kinds)} near-duplicates each, {sum(map(len, described)):,} descriptors")
    print(f"{'':8}{'mAP':>7}{'ms/query':>10}   rank 1-{len(kinds)}: " + "".join(f"{kind:>14}" for kind in kinds))
    for name, method in METHODS.items():
        search = method(described)
        precision, first, seconds = [], np.zeros(len(kinds)), 0.0
        for query in range(0, len(described), each):
            start = time.perf_counter()
            order, _ = search(described[query])
            seconds += time.perf_counter() - start
            ranks = ranks_of(order, query, each)
            precision.append(np.mean(np.arange(1, each) / np.sort(ranks)))
            first += ranks <= len(kinds)
        shares = "".join(f"{share:>14.1%}" for share in first / len(pictures))
        print(f"{name:8}{np.mean(precision):7.3f}{1000 * seconds / len(pictures):10.1f}{'':13}{shares}")


def ranks_of(order: Array, query: int, each: int) -> Array:
    """Ranks, from 1, of the near-duplicates of a query when it is left out itself."""
    others = order[order != query]
    rank = np.empty(len(order), int)
    rank[others] = np.arange(1, len(others) + 1)
    return rank[query + 1 : query + each]


def draw(query: Array, matches: list[tuple[Path, float]], out: str) -> None:
    """The query and the matches, best first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained", facecolor="white")
    grid = figure.subplots(3, 4).ravel()
    titles = ["query", *(f"{i}. {name(path)}\nscore {score:.2f}" for i, (path, score) in enumerate(matches, 1))]
    for axes in grid:
        axes.set_axis_off()
    for axes, picture, title in zip(grid, [query, *(read(path) for path, _ in matches)], titles, strict=False):
        axes.imshow(picture[:, :, ::-1])
        axes.set_title(title, fontsize=11, weight="bold" if title == "query" else "normal")
    figure.savefig(out, dpi=110)


def name(path: Path) -> str:
    return path.stem if len(path.stem) <= 24 else path.stem[:23] + "…"


if __name__ == "__main__":
    main()
