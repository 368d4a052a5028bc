/* SGD on a finite sum of squares in two dimensions, batch 1, with replacement:

       r = a_i·x − b_i,      x ← x − a_i r       (√η is in a and b)

   coefficients: the rows a[0][.], a[1][.], b[.], each of n numbers; n stands in `dim`. */
#include "lanes.h"

/* Two summands: one random bit a step and path, the summand blended in registers. Ten vectors hide the latency of the
   step; 512 bits serve three steps of them. */
enum { TWO_VECTORS = 10, TWO_STEPS = 3 };

static void two_summands(const run *r, uint64_t stream, sums *at_save) {
    const float *p = r->coefficients;
    const floats a00 = all(p[0]), a01 = all(p[1]), a10 = all(p[2]), a11 = all(p[3]), b0 = all(p[4]), b1 = all(p[5]);
    generator g = seeded(r->seed, stream);
    uint16_t bits[32] __attribute__((aligned(64)));
    floats x[TWO_VECTORS], y[TWO_VECTORS];
    for (int v = 0; v < TWO_VECTORS; v++) x[v] = all(r->x0[0]), y[v] = all(r->x0[1]);
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k += TWO_STEPS) {
            int steps = r->steps_per_save - k < TWO_STEPS ? r->steps_per_save - k : TWO_STEPS;
            _mm512_store_si512((void *)bits, next_words(&g));
            for (int u = 0; u < steps; u++) {
                const uint16_t *chosen = bits + u * TWO_VECTORS;
#pragma GCC unroll 16
                for (int v = 0; v < TWO_VECTORS; v++) {
                    __mmask16 second = _cvtu32_mask16(chosen[v]);
                    floats a0 = _mm512_mask_blend_ps(second, a00, a01), a1 = _mm512_mask_blend_ps(second, a10, a11);
                    floats b = _mm512_mask_blend_ps(second, b0, b1);
                    floats residual = fma_(a0, x[v], _mm512_fmsub_ps(a1, y[v], b));
                    x[v] = fnma(a0, residual, x[v]);
                    y[v] = fnma(a1, residual, y[v]);
                }
            }
        }
        accumulate(at_save + s, x, y, TWO_VECTORS);
    }
}

void sgd_two_summands(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, two_summands, moments);
}

/* Up to 128 summands: one word a step and path, the summand looked up in tables of 128 floats. */
enum { TABLE_VECTORS = 4, TABLE = 128 };

INLINE floats look_up(const float *table, words index, __mmask16 has_32, __mmask16 has_64) {
    floats part[4];
    for (int i = 0; i < 4; i++)
        part[i] = _mm512_permutex2var_ps(_mm512_load_ps(table + 32 * i), index, _mm512_load_ps(table + 32 * i + 16));
    return _mm512_mask_blend_ps(has_64, _mm512_mask_blend_ps(has_32, part[0], part[1]),
                                _mm512_mask_blend_ps(has_32, part[2], part[3]));
}

static void table_of_summands(const run *r, uint64_t stream, sums *at_save) {
    enum { DOWN = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC };
    float table[3][TABLE] __attribute__((aligned(64))) = {0};
    for (int row = 0; row < 3; row++) memcpy(table[row], r->coefficients + row * r->dim, r->dim * sizeof(float));
    const floats scale = all(r->dim * 0x1p-32f);
    generator g = seeded(r->seed, stream);
    floats x[TABLE_VECTORS], y[TABLE_VECTORS];
    for (int v = 0; v < TABLE_VECTORS; v++) x[v] = all(r->x0[0]), y[v] = all(r->x0[1]);
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++) {
#pragma GCC unroll 8
            for (int v = 0; v < TABLE_VECTORS; v++) {
                /* rounded down, so that the index stays below n */
                floats u = _mm512_cvt_roundepu32_ps(next_words(&g), DOWN);
                words index = _mm512_cvttps_epi32(_mm512_mul_round_ps(u, scale, DOWN));
                __mmask16 has_32 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
                __mmask16 has_64 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(64));
                floats a0 = look_up(table[0], index, has_32, has_64), a1 = look_up(table[1], index, has_32, has_64);
                floats residual = fma_(a0, x[v], _mm512_fmsub_ps(a1, y[v], look_up(table[2], index, has_32, has_64)));
                x[v] = fnma(a0, residual, x[v]);
                y[v] = fnma(a1, residual, y[v]);
            }
        }
        accumulate(at_save + s, x, y, TABLE_VECTORS);
    }
}

void sgd_table(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, table_of_summands, moments);
}
