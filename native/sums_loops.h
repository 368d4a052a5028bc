/* Sums of powers over the paths of a tile, for values of type REAL; included by sums.c for float and for double.

   Where all paths are alive, sums run in REAL over blocks of BLOCK paths and in double over the blocks. A value that is
   not finite shows in the sums; only then, or where a path was lost before, each path is asked. */
typedef REAL TYPED(reals) __attribute__((vector_size(64), aligned(sizeof(REAL))));

/* Sums over a block, LANES partial sums each, added to `sum`. */
static void TYPED(add_block)(const REAL *values, REAL shift, REAL per_unit, double sum[4][16]) {
    enum { LANES = 64 / sizeof(REAL) };
    TYPED(reals) block[2][4] = {};
    for (int p = 0; p < BLOCK; p += 2 * LANES)
        for (int half = 0; half < 2; half++) {
            TYPED(reals) d = (*(const TYPED(reals) *)(values + p + half * LANES) - shift) * per_unit, square = d * d;
            block[half][0] += d, block[half][1] += square, block[half][2] += square * d, block[half][3] += square * square;
        }
    for (int i = 0; i < 4; i++)
        for (int lane = 0; lane < LANES; lane++) sum[i][lane] += (double)block[0][i][lane] + (double)block[1][i][lane];
}

/* About which value, and in which unit: those of the first paths that are alive. */
static void TYPED(choose_unit)(const REAL *values, size_t paths, const int8_t *alive, double *shift, double *unit) {
    *shift = 0, *unit = 0;
    int seen = 0;
    for (size_t p = 0; p < paths && seen < SAMPLE; p++) {
        if (!alive[p]) continue;
        if (!seen++) *shift = values[p];
        double distance = fabs((double)values[p] - *shift);
        if (distance > *unit) *unit = distance;
    }
    if (!(*unit > 0 && *unit <= DBL_MAX)) *unit = 1;
}

static void TYPED(sums_of_living)(const REAL *values, size_t paths, const int8_t *alive, double *out) {
    double shift, unit, sum[4] = {}, count = 0;
    TYPED(choose_unit)(values, paths, alive, &shift, &unit);
    for (size_t p = 0; p < paths; p++) {
        if (!alive[p]) continue;
        double d = ((double)values[p] - shift) / unit, square = d * d;
        count += 1, sum[0] += d, sum[1] += square, sum[2] += square * d, sum[3] += square * square;
    }
    out[0] = count, out[1] = shift, out[2] = unit;
    memcpy(out + 3, sum, sizeof sum);
}

/* The sums of one observable, all paths being alive; whether they are finite. */
static bool TYPED(sums_of_all)(const REAL *values, size_t paths, const int8_t *alive, double *out) {
    double shift, unit, sum[4][16] = {};
    TYPED(choose_unit)(values, paths, alive, &shift, &unit);
    for (size_t p = 0; p < paths; p += BLOCK) TYPED(add_block)(values + p, shift, 1 / unit, sum);
    out[0] = paths, out[1] = shift, out[2] = unit;
    bool finite = true;
    for (int i = 0; i < 4; i++) {
        out[3 + i] = total(sum[i]);
        finite = finite && fabs(out[3 + i]) <= DBL_MAX;
    }
    return finite;
}

static void TYPED(sums)(const REAL *values, size_t observables, size_t paths, int8_t *alive, double *out) {
    bool whole = paths % BLOCK == 0 && !memchr(alive, 0, paths);
    for (size_t i = 0; i < observables && whole; i++)
        whole = TYPED(sums_of_all)(values + i * paths, paths, alive, out + i * SUMS);
    if (whole) return;
    for (size_t i = 0; i < observables; i++)
        for (size_t p = 0; p < paths; p++) alive[p] = alive[p] && fabs((double)values[i * paths + p]) <= DBL_MAX;
    for (size_t i = 0; i < observables; i++)
        TYPED(sums_of_living)(values + i * paths, paths, alive, out + i * SUMS);
}
#undef REAL
#undef TYPED
