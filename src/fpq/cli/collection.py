"""The commands of a collection: create, upsert, search, delete, stats, export."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fpq import Collection, _checks, datasets, progress
from fpq._checks import Array
from fpq.cli import files, outputs, rows, tables
from fpq.cli.report import Commands, UsageError, add_command, add_shared, facts, positive, print_json
from fpq.cli.tables import Table
from fpq.collection import folding, metadata, values
from fpq.metric import METRICS

ROWS = "CSV, JSON lines (.jsonl, .ndjson) or Parquet"


def add_commands(commands: Commands) -> None:
    """Add the parsers of the commands."""
    group = commands.add_parser(
        "collection",
        help="store and search vectors with keys and metadata",
        description="Make and search collections: vectors with keys and metadata in a folder.",
    )
    inner = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = add_command(
        inner, "create", _create, "make a collection, of the rows of a file if one is given",
        f"Make a collection in a new or empty folder. With ROWS, a file of {ROWS}, insert its rows, as fpq collection "
        "upsert does.",
        "fpq collection create articles articles.jsonl",
        "fpq collection create articles articles.csv --key id --vectors embeddings.npy",
        "fpq collection create articles --dim 384 --column year=int --indexed year",
    )  # fmt: skip
    create.add_argument("collection", metavar="COLLECTION", help="folder to make")
    create.add_argument("rows", metavar="ROWS", nargs="?", help="file of rows")
    create.add_argument("--dim", type=positive, metavar="D", help="dimensions (default: those of the first vectors)")
    create.add_argument("--metric", choices=list(METRICS), default="cosine", help="default: %(default)s")
    create.add_argument("--dtype", choices=values.TYPES, default="float32", help="default: %(default)s")
    create.add_argument(
        "--column", action="append", type=_declaration, default=[], metavar="NAME=TYPE",
        help=f"type of a column of metadata: {', '.join(metadata.DECLARED)}; may be repeated",
    )  # fmt: skip
    create.add_argument(
        "--indexed", action="append", default=[], metavar="NAME", help="column with an SQL index; needs --column"
    )
    _add_rows(create)
    add_shared(create)

    upsert = add_command(
        inner, "upsert", _upsert, "insert or replace the rows of a file",
        f"Insert the rows of a file of {ROWS}, or replace the rows with their keys. A row has a key, a vector, and "
        "metadata in all other columns. The file is read in batches, each of which is stored as a whole.",
        "fpq collection upsert articles new.jsonl",
        "fpq collection upsert articles new.csv --key id --vectors new.npy",
    )  # fmt: skip
    upsert.add_argument("collection", metavar="COLLECTION", help="folder of the collection")
    upsert.add_argument("rows", metavar="ROWS", help="file of rows")
    _add_rows(upsert)
    add_shared(upsert)

    search = add_command(
        inner, "search", _search, "find the nearest rows of queries",
        "Find the nearest rows of the queries in a file. Prints lines of query, rank, key, distance and metadata, "
        "separated by tabs. Distances are squared for l2 and similarities for ip and cosine.",
        "fpq collection search articles --query query.npy -k 5",
        """fpq collection search articles --query query.json --where "year >= ? AND lang = 'de'" --param 2003""",
    )  # fmt: skip
    search.add_argument("collection", metavar="COLLECTION", help="folder of the collection")
    search.add_argument(
        "--query", dest="queries", metavar="FILE", required=True,
        help=f"file of one or more vectors ({files.FORMATS}), or a .json file with a list",
    )  # fmt: skip
    search.add_argument("-k", type=positive, default=10, metavar="K", help="rows per query (default: %(default)s)")
    _add_where(search)
    add_shared(search)

    delete = add_command(
        inner, "delete", _delete, "delete rows by key or by a condition",
        "Delete the rows with these keys, with the keys in a file, or all rows that fulfil a condition. Keys that are "
        "not in the collection are ignored.",
        "fpq collection delete articles 'article 1' 'article 2'",
        "fpq collection delete articles --keys old.csv --key id",
        "fpq collection delete articles --where 'year < ?' --param 2005",
    )  # fmt: skip
    delete.add_argument("collection", metavar="COLLECTION", help="folder of the collection")
    delete.add_argument("given", metavar="KEY", nargs="*", help="key of a row")
    delete.add_argument("--keys", metavar="FILE", help=f"file of {ROWS} with a column of keys")
    delete.add_argument("--key", default="key", metavar="NAME", help="column of keys of FILE (default: %(default)s)")
    _add_where(delete)
    add_shared(delete)

    stats = add_command(
        inner, "stats", _stats, "show the number of rows, the index and the size of a collection",
        "Show the number of rows, the index, and the bytes in memory and on the disk.",
        "fpq collection stats articles --recall-sample 100",
    )  # fmt: skip
    stats.add_argument("collection", metavar="COLLECTION", help="folder of the collection")
    stats.add_argument("--recall-sample", type=positive, default=0, metavar="N", help="measure recall@10 on N rows")
    add_shared(stats)

    export = add_command(
        inner, "export", _export, "write all rows to a file",
        f"Write the keys, vectors and metadata of all rows to a file of {ROWS}, as its ending says. The file is "
        "written atomically. An existing file is replaced only with --force, a file of the collection never.",
        "fpq collection export articles articles.parquet",
    )  # fmt: skip
    export.add_argument("collection", metavar="COLLECTION", help="folder of the collection")
    export.add_argument("out", metavar="FILE", help="file to write")
    export.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    add_shared(export)


def _add_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", default="key", metavar="NAME", help="column of keys (default: %(default)s)")
    parser.add_argument("--vector", metavar="NAME", help="column of vectors, as lists (default: vector)")
    parser.add_argument("--vectors", metavar="FILE", help=f"file of the vectors, one per row ({files.FORMATS})")


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--where", metavar="SQL", help="condition over the columns of metadata and key")
    parser.add_argument(
        "--param", action="append", default=[], metavar="VALUE",
        help="value of ? in the condition, or NAME=VALUE for :NAME; may be repeated",
    )  # fmt: skip


def _declaration(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals or kind not in metadata.DECLARED:
        raise argparse.ArgumentTypeError(
            f"expected NAME=TYPE with a type of {', '.join(metadata.DECLARED)}, got {text}"
        )
    return name, kind


def _opened(args: argparse.Namespace, *, read_only: bool) -> Collection:
    return Collection.open(args.collection, read_only, background=False, n_threads=args.threads)


def _create(args: argparse.Namespace) -> None:
    given: dict[str, Any] = {
        "dim": args.dim, "metric": args.metric, "dtype": args.dtype, "columns": dict(args.column),
        "indexed": args.indexed, "background": False, "n_threads": args.threads,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        source = None
        if args.rows is not None:
            source = stack.enter_context(rows.opened(args, dict(args.column), None))
            if not Path(args.collection).exists():
                # Most errors are found by a trial, so that a failed command leaves no collection behind.
                with Collection.create(":memory:", **given) as trial:
                    for n, batch in source.batches(None):
                        with source.naming(0, n):
                            trial.upsert(*batch)
                        break
        elif args.vector or args.vectors:
            raise UsageError("--vector, --vectors: expected ROWS, a file of rows")
        collection = stack.enter_context(Collection.create(args.collection, **given))
        n = 0 if source is None else _load(collection, source, args)
        _report(args, {"collection": args.collection, "upserted": n, "rows": len(collection), "dim": collection.dim})


def _upsert(args: argparse.Namespace) -> None:
    with _opened(args, read_only=False) as collection:
        settings = collection._present()
        with rows.opened(args, json.loads(settings.types), settings.keys) as source:
            n = _load(collection, source, args)
        _report(args, {"collection": args.collection, "upserted": n, "rows": len(collection), "dim": collection.dim})


def _report(args: argparse.Namespace, report: dict[str, Any]) -> None:
    print_json(report) if args.json else facts(report)


def _load(collection: Collection, source: rows.Source, args: argparse.Namespace) -> int:
    """Insert all rows, and update the index if it is time; the number of rows."""
    done = 0
    with progress.call("fpq collection", not args.quiet):
        with progress.stage("rows", source.table.n, "rows") as advance:
            try:
                for n, batch in source.batches(collection._present().keys):
                    with source.naming(done, n):
                        collection.upsert(*batch)
                    done += n
                    advance(n)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{error}; the first {done} rows are stored" if done else str(error)) from None
        if folding.is_due(collection._present(), collection.stats().tail):
            collection.optimize()
    return done


def _condition(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments `where` and `params` of the collection."""
    if args.where is None:
        if args.param:
            raise UsageError("--param: expected --where")
        return {}
    if not args.param:
        return {"where": args.where}
    parts = [re.fullmatch(r"(\w+)=(.*)", each, re.DOTALL) for each in args.param]
    named = [part is not None and re.search(rf":{part[1]}\b", args.where) is not None for part in parts]
    if any(named) and not all(named):
        raise UsageError("--param: expected NAME=VALUE for all values or for none")
    if all(named):
        return {"where": args.where, "params": {part[1]: _value(part[2]) for part in parts if part}}
    return {"where": args.where, "params": [_value(each) for each in args.param]}


def _value(text: str) -> Any:
    """A value from the command line: a JSON number, true, false, null or string; anything else is text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(found, (dict, list)) else found


def _search(args: argparse.Namespace) -> None:
    condition = _condition(args)
    queries = _queries(args.queries)
    with _opened(args, read_only=True) as collection:
        hits = collection.search(queries, args.k, **condition)
    if args.json:
        found = [[{"key": hit.key, "distance": hit.distance, "metadata": hit.metadata} for hit in row] for row in hits]
        print_json({"queries": len(hits), "k": args.k, "hits": found})
        return
    for i, row in enumerate(hits):
        for rank, hit in enumerate(row):
            print(i, rank, hit.key, f"{hit.distance:.7g}", json.dumps(hit.metadata, default=str), sep="\t")


def _queries(file: str) -> Array:
    """The queries in a file, as a matrix."""
    if Path(file).suffix.lower() == ".json":
        try:
            given = json.loads(Path(file).read_text("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: expected a JSON list, got an error: {error}") from None
        if not isinstance(given, list):
            raise ValueError(f"{file}: expected a JSON list of numbers or of lists, got {type(given).__name__}")
        return np.atleast_2d(_checks.numbers(file, given))
    if Path(file).suffix.lower() == ".npy":
        return np.atleast_2d(np.array(datasets.read_vectors(file)))
    with files.opened(file, files.QUERIES) as queries:
        return queries.all()


def _delete(args: argparse.Namespace) -> None:
    condition = _condition(args)
    if (len(args.given) > 0) + (args.keys is not None) + (args.where is not None) != 1:
        raise UsageError("expected one of KEY, --keys FILE and --where SQL")
    with _opened(args, read_only=False) as collection:
        kind = collection._present().keys
        if args.where is not None:
            deleted = collection.delete(**condition)
        elif args.keys is None:
            deleted = collection.delete(rows.keys(args.given, kind))
        else:
            table = Table(args.keys, {args.key} if kind == "str" else ())
            table.require(args.key, "--key")
            deleted = sum(
                collection.delete(rows.keys(rows.taken(each, args.key, "--key"), kind)) for each in table.batches()
            )
        _report(args, {"collection": args.collection, "deleted": deleted, "rows": len(collection)})


def _stats(args: argparse.Namespace) -> None:
    with _opened(args, read_only=True) as collection:
        report = {"dim": collection.dim, "metric": collection.metric, "columns": collection.columns}
        report = {"collection": args.collection, **report, **asdict(collection.stats(args.recall_sample))}
    _report(args, report if args.json else {name: each for name, each in report.items() if each is not None})


def _export(args: argparse.Namespace) -> None:
    tables.ending_of(args.out)
    folder = Path(args.collection)
    outputs.check(args.out, folder.iterdir() if folder.is_dir() else (), lambda path: True, force=args.force)
    if Path(args.out).exists() and not args.force:
        raise FileExistsError(f"{args.out}: the file exists; --force overwrites it")
    n = 0
    with _opened(args, read_only=True) as collection, progress.call("fpq collection", not args.quiet):
        if "vector" in collection.columns:
            raise ValueError(
                f"{args.collection}: expected metadata with other names than 'vector', the column of vectors"
            )
        with tables.writer(args.out, collection.columns, lambda: _exported(collection)) as write:
            with progress.stage("rows", len(collection), "rows") as advance:
                for some in _exported(collection):
                    write(some)
                    n += len(some)
                    advance(len(some))
    _report(args, {"out": args.out, "rows": n, "bytes": Path(args.out).stat().st_size})


def _exported(collection: Collection) -> Iterator[list[Any]]:
    """All rows in batches, without those that a writer deletes meanwhile."""
    for keys in tables.batched(collection):
        try:
            yield collection.get(keys)
        except KeyError:
            found = []
            for key in keys:
                with contextlib.suppress(KeyError):
                    found.append(collection.get(key))
            yield found
