"""The parts that indexes share: ids, vectors, inverted lists, the coarse quantizer, locks, streaming."""
