"""Which workers hold which shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from fpq.sharding.manifest import Shard


def placed(shards: Iterable[Shard], workers: Sequence[str], replicas: int) -> dict[Shard, list[str]]:
    """The workers of each shard, `replicas` of them or all.

    A shard takes the workers that come first in an order of its own, made by hashing (rendezvous hashing), without
    those that hold their part of the rows already. All processes therefore place shards alike, and few shards move
    when a worker or a shard comes or goes.

    Raises
    ------
    ConnectionError
        If there are no workers.
    """
    if not workers:
        raise ConnectionError("the Dask cluster has no workers")
    in_order = sorted(shards, key=lambda shard: (-shard.n, shard.first))
    part = sum(shard.n for shard in in_order) * min(replicas, len(workers)) / len(workers)
    load = dict.fromkeys(workers, 0)
    found = {}
    for shard in in_order:
        place = {worker: (load[worker] >= part, _hash(shard, worker)) for worker in workers}
        found[shard] = sorted(workers, key=place.__getitem__)[:replicas]
        for worker in found[shard]:
            load[worker] += shard.n
    return found


def _hash(shard: Shard, worker: str) -> bytes:
    return blake2b(f"{shard.digest} {shard.first} {worker}".encode(), digest_size=8).digest()
