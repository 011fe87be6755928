"""Indexes in several files (shards): ShardedIndex, the manifest, executors, and the merge of results."""
