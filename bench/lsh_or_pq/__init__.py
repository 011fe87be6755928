"""LSH, product quantization and RaBitQ by speed, recall and bytes: ``python -m bench.lsh_or_pq --help``."""
