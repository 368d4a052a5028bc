/* Adam and RMSprop on a diagonal quadratic with additive Gaussian noise: 32 paths a group, their state in the first cache.

       g = λx + σz,  v ← b2 v + (1−b2) g²
       Adam:     m ← b1 m + (1−b1) g,  x ← x − η m/(1−b1^k) / (√(v/(1−b2^k)) + ε)
       RMSprop:  x ← x − η g / (√v + ε)

   coefficients: σ, η, b1, b2, ε, then λ (d). */
#include "lanes.h"

enum { VECTORS = 2, PATHS = VECTORS * LANES, ADAM = 0, RMSPROP = 1 };

/* √a and 1/a by an estimate of 14 bits and one step of Newton's rule. */
INLINE floats square_root(floats a) {
    a = _mm512_max_ps(a, all(1e-30f));
    floats r = _mm512_rsqrt14_ps(a);
    r = _mm512_mul_ps(r, fnma(_mm512_mul_ps(_mm512_mul_ps(a, r), r), all(0.5f), all(1.5f)));
    return _mm512_mul_ps(a, r);
}

INLINE floats reciprocal(floats a) {
    floats r = _mm512_rcp14_ps(a);
    return fma_(r, fnma(a, r, all(1)), r);
}

INLINE void adaptive(const run *r, uint64_t stream, sums *at_save, const int rule) {
    const int d = r->dim;
    const float *p = r->coefficients, *curvature = p + 5;
    const floats sigma = all(p[0]), b1 = all(p[2]), b2 = all(p[3]), eps = all(p[4]);
    const floats rest1 = all(1 - p[2]), rest2 = all(1 - p[3]);
    const normal_table table = load_normal_table();
    generator first = seeded(r->seed, 2 * stream), second = seeded(r->seed, 2 * stream + 1);
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
#pragma GCC unroll 2
                for (int q = 0; q < VECTORS; q++) {
                    int at = i * PATHS + q * LANES;
                    floats z = normals(next_words(q ? &second : &first), &table), old = _mm512_load_ps(x + at);
                    floats g = fma_(lambda, old, _mm512_mul_ps(sigma, z));
                    floats square = fma_(b2, _mm512_load_ps(v + at), _mm512_mul_ps(_mm512_mul_ps(g, g), rest2));
                    _mm512_store_ps(v + at, square);
                    floats numerator = _mm512_mul_ps(g, rate);
                    if (rule == ADAM) {
                        floats mean = fma_(b1, _mm512_load_ps(m + at), _mm512_mul_ps(g, rest1));
                        _mm512_store_ps(m + at, mean);
                        numerator = _mm512_mul_ps(mean, rate);
                    }
                    floats denominator = _mm512_add_ps(square_root(_mm512_mul_ps(square, correction)), eps);
                    _mm512_store_ps(x + at, fnma(numerator, reciprocal(denominator), old));
                }
            }
        }
        floats x0[VECTORS] = {_mm512_load_ps(x), _mm512_load_ps(x + LANES)};
        floats x1[VECTORS] = {_mm512_load_ps(x + PATHS), _mm512_load_ps(x + PATHS + LANES)};
        accumulate(at_save + s, x0, x1, VECTORS);
    }
    free(x);
}

static void adam_group(const run *r, uint64_t stream, sums *at_save) { adaptive(r, stream, at_save, ADAM); }
static void rmsprop_group(const run *r, uint64_t stream, sums *at_save) { adaptive(r, stream, at_save, RMSPROP); }

void adam(const run *r, long first, long count, double *moments) { run_groups(r, first, count, adam_group, moments); }

void rmsprop(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, rmsprop_group, moments);
}
