"""Indexes in many files (shards): their manifest, their executors, the merge of their answers, ShardedIndex."""
