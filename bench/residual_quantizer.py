"""Residual quantization beside OPQ, at equal bytes in inverted lists: ``python bench/residual_quantizer.py --beam 5``.

faiss encodes: ``RQ15x8_Nqint8``, 15 codes of a byte and the norm in a byte, of the residuals to 1,024 lists of
sift500k, with a beam. fpq has 16 bytes with OPQ. Recall@10 with 32 probes; microseconds of CPU time to encode a row.
"""

from __future__ import annotations

import argparse
import time

import faiss
import numpy as np

import fpq
from fpq import metrics

LISTS, BYTES, PROBES, K, TRAINING_ROWS = 1024, 16, 32, 10, 1 << 17


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beam", type=int, default=5)
    beam = parser.parse_args().beam
    data = fpq.datasets.load("sift500k")
    x, queries = np.asarray(data.base, np.float32), np.asarray(data.query, np.float32)
    truth = data.groundtruth[:, :K]
    sample = np.sort(np.random.default_rng(0).choice(len(x), TRAINING_ROWS, replace=False))
    rq = faiss.index_factory(x.shape[1], f"IVF{LISTS},RQ{BYTES - 1}x8_Nqint8")
    rq.rq.max_beam_size, rq.nprobe = beam, PROBES
    rq.train(x[sample])
    opq = fpq.IVFPQIndex(LISTS, BYTES, rotation="opq").fit(x)
    for name, index in ((f"RQ, beam {beam}", rq), ("OPQ", opq)):
        start = time.process_time()
        index.add(x)
        took = (time.process_time() - start) / len(x) * 1e6
        ids = rq.search(queries, K)[1] if index is rq else opq.search(queries, K, n_probe=PROBES).ids
        print(f"{name}: recall@10 {metrics.recall_at_k(ids, truth, K):.3f}, {took:.1f} us per row")


if __name__ == "__main__":
    main()
