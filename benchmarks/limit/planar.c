/* Euler–Maruyama in two dimensions, all in registers: four vectors of paths, two generators.

       x ← B x + G z                          B = I − hA,  G = h S           coefficients: B (2×2), G (2×2)
       v ← c v − hA x + G z,  x ← x + h v     c = 1 − hγ,  the old v in x    coefficients: hA (2×2), G (2×2), c, h */
#include "lanes.h"

enum { VECTORS = 4, GAUSSIAN = 0, TWO_POINT = 1 };

INLINE void first_order(const run *r, uint64_t stream, sums *at_save, const int increment) {
    const float *p = r->coefficients;
    const floats b00 = all(p[0]), b01 = all(p[1]), b10 = all(p[2]), b11 = all(p[3]);
    const floats g00 = all(p[4]), g01 = all(p[5]), g10 = all(p[6]), g11 = all(p[7]);
    const normal_table table = load_normal_table();
    generator first = seeded(r->seed, 2 * stream), second = seeded(r->seed, 2 * stream + 1);
    uint16_t bits[32] __attribute__((aligned(64))) = {0};
    floats x[VECTORS], y[VECTORS];
    for (int v = 0; v < VECTORS; v++) x[v] = all(r->x0[0]), y[v] = all(r->x0[1]);
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++) {
            if (increment == TWO_POINT && k % 4 == 0) _mm512_store_si512((void *)bits, next_words(&first));
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) {
                floats z0, z1;
                if (increment == GAUSSIAN) {
                    z0 = normals(next_words(&first), &table);
                    z1 = normals(next_words(&second), &table);
                } else {
                    const uint16_t *pair = bits + 8 * (k % 4) + 2 * v;
                    z0 = _mm512_mask_blend_ps(_cvtu32_mask16(pair[0]), all(1), all(-1));
                    z1 = _mm512_mask_blend_ps(_cvtu32_mask16(pair[1]), all(1), all(-1));
                }
                floats next_x = fma_(b00, x[v], fma_(b01, y[v], fma_(g00, z0, _mm512_mul_ps(g01, z1))));
                y[v] = fma_(b10, x[v], fma_(b11, y[v], fma_(g10, z0, _mm512_mul_ps(g11, z1))));
                x[v] = next_x;
            }
        }
        accumulate(at_save + s, x, y, VECTORS);
    }
}

static void gaussian(const run *r, uint64_t stream, sums *at_save) { first_order(r, stream, at_save, GAUSSIAN); }
static void two_point(const run *r, uint64_t stream, sums *at_save) { first_order(r, stream, at_save, TWO_POINT); }

static void second_order(const run *r, uint64_t stream, sums *at_save) {
    const float *p = r->coefficients;
    const floats a00 = all(p[0]), a01 = all(p[1]), a10 = all(p[2]), a11 = all(p[3]);
    const floats g00 = all(p[4]), g01 = all(p[5]), g10 = all(p[6]), g11 = all(p[7]), c = all(p[8]), h = all(p[9]);
    const normal_table table = load_normal_table();
    generator first = seeded(r->seed, 2 * stream), second = seeded(r->seed, 2 * stream + 1);
    floats x[VECTORS], y[VECTORS], vx[VECTORS], vy[VECTORS];
    for (int v = 0; v < VECTORS; v++) x[v] = all(r->x0[0]), y[v] = all(r->x0[1]), vx[v] = vy[v] = all(0);
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++) {
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) {
                floats z0 = normals(next_words(&first), &table), z1 = normals(next_words(&second), &table);
                floats kick_x = fnma(a00, x[v], fnma(a01, y[v], fma_(g00, z0, _mm512_mul_ps(g01, z1))));
                floats kick_y = fnma(a10, x[v], fnma(a11, y[v], fma_(g10, z0, _mm512_mul_ps(g11, z1))));
                x[v] = fma_(h, vx[v], x[v]);
                y[v] = fma_(h, vy[v], y[v]);
                vx[v] = fma_(c, vx[v], kick_x);
                vy[v] = fma_(c, vy[v], kick_y);
            }
        }
        accumulate(at_save + s, x, y, VECTORS);
    }
}

void planar_gaussian(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, gaussian, moments);
}

void planar_two_point(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, two_point, moments);
}

void planar_underdamped(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, second_order, moments);
}
