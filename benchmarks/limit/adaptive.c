/* Adam and RMSprop on a diagonal quadratic with additive Gaussian noise: two vectors of paths a group, their state in the first cache.

       g = λx + σz,  v ← b2 v + (1−b2) g²
       Adam:     m ← b1 m + (1−b1) g,  x ← x − η m/(1−b1^k) / (√(v/(1−b2^k)) + ε)
       RMSprop:  x ← x − η g / (√v + ε)

   coefficients: σ, η, b1, b2, ε, then λ (d). */
#include "lanes.h"

enum { VECTORS = 2, PATHS = VECTORS * LANES, ADAM = 0, RMSPROP = 1 };

INLINE void adaptive(const run *r, uint64_t stream, sums *at_save, const int rule) {
    const int d = r->dim;
    const float *p = r->coefficients, *curvature = p + 5;
    const floats sigma = all(p[0]), b1 = all(p[2]), b2 = all(p[3]), eps = all(p[4]);
    const floats rest1 = all(1 - p[2]), rest2 = all(1 - p[3]);
    normal_source source = normals_of(r->seed, stream);
    size_t bytes = (size_t)d * PATHS * sizeof(float);
    float *x = aligned_alloc(64, 3 * bytes), *m = x + d * PATHS, *v = m + d * PATHS;
    memset(m, 0, 2 * bytes);
    for (int i = 0; i < d; i++)
        for (int path = 0; path < PATHS; path++) x[i * PATHS + path] = r->x0[i];
    double power1 = 1, power2 = 1;
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++) {
            power1 *= p[2], power2 *= p[3];
            const floats rate = all(rule == ADAM ? p[1] / (1 - power1) : p[1]);
            const floats correction = all(rule == ADAM ? 1 / (1 - power2) : 1);
            for (int i = 0; i < d; i++) {
                const floats lambda = all(curvature[i]);
                const normal_pair z = next_normals(&source);
#pragma GCC unroll 2
                for (int q = 0; q < VECTORS; q++) {
                    int at = i * PATHS + q * LANES;
                    floats old = load(x + at);
                    floats g = fma_(lambda, old, mul(sigma, q ? z.second : z.first));
                    floats square = fma_(b2, load(v + at), mul(mul(g, g), rest2));
                    store(v + at, square);
                    floats numerator = mul(g, rate);
                    if (rule == ADAM) {
                        floats mean = fma_(b1, load(m + at), mul(g, rest1));
                        store(m + at, mean);
                        numerator = mul(mean, rate);
                    }
                    floats denominator = add(square_root(mul(square, correction)), eps);
                    store(x + at, fnma(numerator, reciprocal(denominator), old));
                }
            }
        }
        floats x0[VECTORS] = {load(x), load(x + LANES)};
        floats x1[VECTORS] = {load(x + PATHS), load(x + PATHS + LANES)};
        accumulate(at_save + s, x0, x1, VECTORS);
    }
    free(x);
}

static void adam_group(const run *r, uint64_t stream, sums *at_save) { adaptive(r, stream, at_save, ADAM); }
static void rmsprop_group(const run *r, uint64_t stream, sums *at_save) { adaptive(r, stream, at_save, RMSPROP); }

const int adam_paths = PATHS, rmsprop_paths = PATHS;

void adam(const run *r, long first, long count, double *moments) { run_groups(r, first, count, adam_group, moments); }

void rmsprop(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, rmsprop_group, moments);
}
