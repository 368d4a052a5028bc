/* SGD on softmax regression, batches with replacement, from W = 0: one run at a time, its weights in the first cache.

       W ← W + (η/B) Σ_{i in batch} a_i (e_label(i) − softmax(Wᵀ a_i))ᵀ

   Weights stand in blocks of BLOCK features, each of BLOCK_VECTORS vectors. Returns sums over runs of |W|² and |W|⁴.
   `dim` is the number p of features, a multiple of BLOCK; coefficients: η, then the features (N, p). */
#include "lanes.h"

enum { BLOCK_FLOATS = BLOCK_VECTORS * LANES, MAX_BATCH = 64 };

/* Blocks block, …, block+blocks−1 of W += Σ_i a_i e_iᵀ, the sums in registers. */
INLINE void add_outer_products(float *w, const float *const *a, int block, int batch, const classes *e,
                               const int blocks) {
    floats sum[(BLOCKS + 1) * BLOCK_VECTORS];
    w += block * BLOCK_FLOATS;
#pragma GCC unroll 24
    for (int j = 0; j < blocks * BLOCK_VECTORS; j++) sum[j] = load(w + j * LANES);
    for (int i = 0; i < batch; i++) {
        const classes error = e[i];
        const float *feature = a[i] + block * BLOCK;
#pragma GCC unroll 24
        for (int j = 0; j < blocks; j++) add_outer_product(sum + j * BLOCK_VECTORS, feature + j * BLOCK, error);
    }
#pragma GCC unroll 24
    for (int j = 0; j < blocks * BLOCK_VECTORS; j++) store(w + j * LANES, sum[j]);
}

/* `steps` steps; `random` is the state of the run's generator. */
static void train(const run *r, uint64_t *random, int steps, int examples, int batch, const int *labels, float *w) {
    const int p = r->dim, blocks = p / BLOCK;
    const float rate = r->coefficients[0], *features = r->coefficients + 1;
    classes e[MAX_BATCH];
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
            classes logits[TOGETHER] = {0};
            const float *b[TOGETHER];
            for (int u = 0; u < TOGETHER; u++) b[u] = a[i + u];
            for (int j = 0; j < blocks; j++) {
                floats weights[BLOCK_VECTORS];
                for (int v = 0; v < BLOCK_VECTORS; v++) weights[v] = load(w + j * BLOCK_FLOATS + v * LANES);
#pragma GCC unroll 8
                for (int u = 0; u < TOGETHER; u++) add_product(logits + u, b[u] + j * BLOCK, weights);
            }
            for (int u = 0; u < TOGETHER; u++) e[i + u] = step_of(logits[u], label[i + u], rate / batch);
        }
        int j = 0;
        for (; j + BLOCKS <= blocks && j + BLOCKS + 1 != blocks; j += BLOCKS) add_outer_products(w, a, j, batch, e, BLOCKS);
        if (j + BLOCKS + 1 == blocks) { /* with the column of ones: no tile of a single block */
            add_outer_products(w, a, j, batch, e, BLOCKS + 1);
            j = blocks;
        }
        for (; j < blocks; j++) add_outer_products(w, a, j, batch, e, 1);
    }
}

const int softmax_sgd_paths = 1, softmax_block = BLOCK;

/* `batch` is a multiple of 8, at most 64. */
void softmax_sgd(const run *r, long first, long count, int examples, int batch, const int *labels, double *moments) {
    const size_t bytes = (size_t)r->dim / BLOCK * BLOCK_FLOATS * sizeof(float);
    float *w = aligned_alloc(64, bytes);
    for (long i = first; i < first + count; i++) {
        uint64_t random = r->seed;
        random = splitmix64(&random) ^ (uint64_t)i;
        memset(w, 0, bytes);
        for (int s = 0; s < r->saves; s++) {
            train(r, &random, r->steps_per_save, examples, batch, labels, w);
            floats squares = all(0);
            for (int j = 0; j < r->dim / BLOCK * BLOCK_FLOATS; j += LANES) {
                const floats row = load(w + j);
                squares = fma_(row, row, squares);
            }
            const double norm = sum_of_lanes(squares);
            moments[5 * s] += norm;
            moments[5 * s + 2] += norm * norm;
        }
    }
    free(w);
}
