/* SGD on softmax regression, batches with replacement, from W = 0: one run at a time, its weights in the first cache.

       W ← W + (η/B) Σ_{i in batch} a_i (e_label(i) − softmax(Wᵀ a_i))ᵀ

   Weights are (feature, class), ten classes in a vector of sixteen. Returns sums over runs of |W|² and |W|⁴.
   `dim` is the number p of features; coefficients: η, then the features (N, p). */
#include "lanes.h"

enum { CLASSES = 10, TOGETHER = 8, ROWS = 16, MAX_BATCH = 64 };

/* exp x for x <= 0, at least exp −87: a power of two and a series in the rest. */
INLINE floats exponential(floats x) {
    floats t = _mm512_mul_ps(_mm512_max_ps(x, all(-87)), all(1.44269504f));
    floats whole = _mm512_roundscale_ps(t, 0), rest = _mm512_sub_ps(t, whole), p = all(EXP2_SERIES[6]);
#pragma GCC unroll 6
    for (int power = 5; power >= 0; power--) p = fma_(p, rest, all(EXP2_SERIES[power]));
    return _mm512_scalef_ps(p, whole);
}

/* Rows row, …, row+rows−1 of W += Σ_i a_i e_iᵀ, the sums in registers. */
INLINE void add_outer_products(float *w, const float *const *a, int row, int batch, const float (*e)[LANES],
                               const int rows) {
    floats sum[ROWS + 1];
    w += row * LANES;
#pragma GCC unroll 24
    for (int j = 0; j < rows; j++) sum[j] = _mm512_load_ps(w + j * LANES);
    for (int i = 0; i < batch; i++) {
        const floats error = _mm512_load_ps(e[i]);
        const float *feature = a[i] + row;
#pragma GCC unroll 24
        for (int j = 0; j < rows; j++) sum[j] = fma_(all(feature[j]), error, sum[j]);
    }
#pragma GCC unroll 24
    for (int j = 0; j < rows; j++) _mm512_store_ps(w + j * LANES, sum[j]);
}

/* `steps` steps; `random` is the state of the run's generator. */
static void train(const run *r, uint64_t *random, int steps, int examples, int batch, const int *labels, float *w) {
    const __mmask16 classes = (1 << CLASSES) - 1;
    const int p = r->dim;
    const float rate = r->coefficients[0], *features = r->coefficients + 1;
    float e[MAX_BATCH][LANES] __attribute__((aligned(64)));
    const float *a[MAX_BATCH];
    int label[MAX_BATCH];
    for (int k = 0; k < steps; k++) {
        for (int i = 0; i < batch; i += 2) { /* two indices a word of 64 bits */
            const uint64_t word = splitmix64(random), half[2] = {word & 0xffffffff, word >> 32};
            for (int u = 0; u < 2; u++) {
                const uint64_t chosen = (half[u] * (uint64_t)examples) >> 32;
                a[i + u] = features + chosen * p;
                label[i + u] = labels[chosen];
            }
        }
        for (int i = 0; i < batch; i += TOGETHER) {
            floats logits[TOGETHER];
            const float *b[TOGETHER];
            for (int u = 0; u < TOGETHER; u++) logits[u] = all(0), b[u] = a[i + u];
            for (int j = 0; j < p; j++) {
                const floats row = _mm512_load_ps(w + j * LANES);
#pragma GCC unroll 8
                for (int u = 0; u < TOGETHER; u++) logits[u] = fma_(all(b[u][j]), row, logits[u]);
            }
            for (int u = 0; u < TOGETHER; u++) {
                const floats top = all(_mm512_mask_reduce_max_ps(classes, logits[u]));
                floats share = _mm512_maskz_mov_ps(classes, exponential(_mm512_sub_ps(logits[u], top)));
                share = _mm512_mul_ps(share, all(-rate / (batch * _mm512_reduce_add_ps(share))));
                share = _mm512_mask_add_ps(share, 1 << label[i + u], share, all(rate / batch));
                _mm512_store_ps(e[i + u], share);
            }
        }
        int row = 0;
        for (; row + ROWS <= p && row + ROWS + 1 != p; row += ROWS) add_outer_products(w, a, row, batch, e, ROWS);
        if (row + ROWS + 1 == p) { /* with the column of ones: no tile of a single row */
            add_outer_products(w, a, row, batch, e, ROWS + 1);
            row = p;
        }
        for (; row < p; row++) add_outer_products(w, a, row, batch, e, 1);
    }
}

/* `batch` is a multiple of 8, at most 64. */
void softmax_sgd(const run *r, long first, long count, int examples, int batch, const int *labels, double *moments) {
    const size_t bytes = (size_t)r->dim * LANES * sizeof(float);
    float *w = aligned_alloc(64, bytes);
    for (long i = first; i < first + count; i++) {
        uint64_t random = r->seed;
        random = splitmix64(&random) ^ (uint64_t)i;
        memset(w, 0, bytes);
        for (int s = 0; s < r->saves; s++) {
            train(r, &random, r->steps_per_save, examples, batch, labels, w);
            floats squares = all(0);
            for (int j = 0; j < r->dim; j++) {
                const floats row = _mm512_load_ps(w + j * LANES);
                squares = fma_(row, row, squares);
            }
            const double norm = sum_of_lanes(squares);
            moments[5 * s] += norm;
            moments[5 * s + 2] += norm * norm;
        }
    }
    free(w);
}
