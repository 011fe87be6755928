"""Learning from vectors: k-means, rotations, product quantizers."""
