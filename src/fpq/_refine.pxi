# Refinement codes: the part of _native.pyx for csrc/refine. Planes uint8 (rows, bytes), gains (rows), norms (rows,
# planes); None where codes have no second plane or no gains.

def plane_bytes(int w, int bits, int plane):
    """Bytes per row of plane 0 or 1 of codes of w dimensions; 0 if there is no such plane."""
    return fpq_refinement_plane_bytes(w, bits, plane)


@cython.final
cdef class Refinement(_Held):
    """Scalar codes of `bits` bits of what product quantization leaves over, in steps (w).

    levels (64) of 4 bits; table (256) of their gains, or None.
    """
    cdef fpq_refinement c

    def __cinit__(self, int bits, const float[::1] steps, const uint8_t[::1] levels, const float[::1] table):
        self.c = fpq_refinement(<int>steps.shape[0], bits, &steps[0], NULL, NULL)
        if levels is not None: self.c.levels = &levels[0]
        if table is not None: self.c.gains = &table[0]

    def encode(self, const float[:, ::1] residuals, const float[:, ::1] decoded, float scale, const float[::1] centre,
               uint8_t[:, ::1] first, uint8_t[:, ::1] second, uint8_t[::1] gains, float[:, ::1] norms, int threads):
        """Codes of scale * residuals (n, w) of the vectors scale * decoded - centre."""
        cdef uint8_t *b = NULL if second is None else &second[0, 0]
        cdef uint8_t *of_rows = NULL if gains is None else &gains[0]
        with nogil:
            _done(fpq_refinement_encode(&self.c, &residuals[0, 0], &decoded[0, 0], scale, &centre[0],
                                        residuals.shape[0], &first[0, 0], b, of_rows, &norms[0, 0], threads))

    def decode(self, const uint8_t[:, ::1] first, const uint8_t[:, ::1] second, const uint8_t[::1] gains,
               float[:, ::1] out):
        """The residuals (n, w) that codes stand for."""
        cdef const uint8_t *b = NULL
        if second is not None: b = &second[0, 0]
        cdef const uint8_t *of_rows = NULL
        if gains is not None: of_rows = &gains[0]
        with nogil: fpq_refinement_decode(&self.c, &first[0, 0], b, of_rows, out.shape[0], &out[0, 0])


@cython.final
cdef class Refined:
    """Rows with refinement codes, as searches by `metric` read them.

    ids of the n rows, or None: row numbers. table of the ids, for searches whose candidates are ids; None: rows.
    query_scale, unit: what queries are multiplied by, and the distance that 1 then stands for.
    """
    cdef fpq_refined c
    cdef fpq_id_table table
    cdef tuple arrays

    def __cinit__(self, Refinement refinement, const uint8_t[:, ::1] first, const uint8_t[:, ::1] second,
                  const uint8_t[::1] gains, const float[:, ::1] norms, int64_t n, tuple table, ids, fpq_metric metric,
                  const float[::1] centre, double query_scale, double unit):
        self.arrays = refinement, first, second, gains, norms, table, ids, centre
        self.c.codes, self.c.metric, self.c.query_scale, self.c.unit = refinement.c, metric, query_scale, unit
        self.c.a, self.c.norms, self.c.n = &first[0, 0], &norms[0, 0], n
        if metric != FPQ_IP: self.c.centre = &centre[0]
        if second is not None: self.c.b = &second[0, 0]
        if gains is not None: self.c.gain_codes = &gains[0]
        if ids is not None: self.c.ids = _ids(ids)
        if table is not None:
            self.table = _id_table(table, ids)
            self.c.rows = &self.table
