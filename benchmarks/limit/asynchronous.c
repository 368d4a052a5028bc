/* SGD on a sum of two squares in two dimensions, with gradients at stale points:

       x_{k+1} = x_k − a_i (a_i·x_{k−τ} − b_i),      P(τ = j) = (1−q) q^j,  truncated at RING − 1

   coefficients: those of sgd.c, then 1/log q. A ring of the last RING points holds (x, y) side by side, so that one 64-bit
   gather brings both. */
#include "lanes.h"

enum { VECTORS = 2, RING = 64, PATHS = VECTORS * LANES };

/* log u for 0 < u <= 1: exponent and a series in the mantissa, taken in [3/4, 3/2). */
INLINE floats logarithm(floats u) {
    floats mantissa = _mm512_getmant_ps(u, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
    floats exponent = _mm512_getexp_ps(_mm512_mul_ps(u, all(4.0f / 3)));
    floats t = _mm512_sub_ps(mantissa, all(1)), p = all(LOG_SERIES[8]);
#pragma GCC unroll 8
    for (int power = 7; power >= 0; power--) p = fma_(p, t, all(LOG_SERIES[power]));
    return fma_(exponent, all(0.69314718f), _mm512_mul_ps(p, t));
}

typedef struct { words low, high, even, odd; } shuffles;

INLINE void store_pairs(double *at, floats x, floats y, const shuffles *order) {
    _mm512_store_pd(at, _mm512_castps_pd(_mm512_permutex2var_ps(x, order->low, y)));
    _mm512_store_pd(at + 8, _mm512_castps_pd(_mm512_permutex2var_ps(x, order->high, y)));
}

static void stale(const run *r, uint64_t stream, sums *at_save) {
    const shuffles order = {
        _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0),
        _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8),
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0),
        _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1),
    };
    const words lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const float *p = r->coefficients;
    const floats a00 = all(p[0]), a01 = all(p[1]), a10 = all(p[2]), a11 = all(p[3]), b0 = all(p[4]), b1 = all(p[5]);
    const floats inverse_log = all(p[6]);
    generator g = seeded(r->seed, stream);
    double ring[RING * PATHS] __attribute__((aligned(64)));
    floats x[VECTORS], y[VECTORS];
    for (int v = 0; v < VECTORS; v++) x[v] = all(r->x0[0]), y[v] = all(r->x0[1]);
    for (int slot = 0; slot < RING; slot++)
        for (int v = 0; v < VECTORS; v++) store_pairs(ring + slot * PATHS + v * LANES, x[v], y[v], &order);
    int step = 0;
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++, step++) {
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                words word = next_words(&g); /* the lowest bit chooses the summand, the others the delay */
                __mmask16 second = _mm512_test_epi32_mask(word, _mm512_set1_epi32(1));
                floats u = fma_(_mm512_cvtepu32_ps(_mm512_srli_epi32(word, 1)), all(0x1p-31f), all(0x1p-32f));
                words delay = _mm512_min_epi32(_mm512_cvttps_epi32(_mm512_mul_ps(logarithm(u), inverse_log)),
                                               _mm512_set1_epi32(RING - 1));
                words slot = _mm512_and_si512(_mm512_sub_epi32(_mm512_set1_epi32(step), delay),
                                              _mm512_set1_epi32(RING - 1));
                words at = _mm512_add_epi32(_mm512_mullo_epi32(slot, _mm512_set1_epi32(PATHS)),
                                            _mm512_add_epi32(lane, _mm512_set1_epi32(v * LANES)));
                floats low = _mm512_castpd_ps(_mm512_i32gather_pd(_mm512_castsi512_si256(at), ring, 8));
                floats high = _mm512_castpd_ps(_mm512_i32gather_pd(_mm512_extracti64x4_epi64(at, 1), ring, 8));
                floats old_x = _mm512_permutex2var_ps(low, order.even, high);
                floats old_y = _mm512_permutex2var_ps(low, order.odd, high);
                floats a0 = _mm512_mask_blend_ps(second, a00, a01), a1 = _mm512_mask_blend_ps(second, a10, a11);
                floats b = _mm512_mask_blend_ps(second, b0, b1);
                floats residual = fma_(a0, old_x, _mm512_fmsub_ps(a1, old_y, b));
                x[v] = fnma(a0, residual, x[v]);
                y[v] = fnma(a1, residual, y[v]);
                store_pairs(ring + ((step + 1) % RING) * PATHS + v * LANES, x[v], y[v], &order);
            }
        }
        accumulate(at_save + s, x, y, VECTORS);
    }
}

void asynchronous_sgd(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, stale, moments);
}
