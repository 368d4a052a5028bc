/* Euler–Maruyama in two dimensions, all in registers.

       x ← B x + G z                          B = I − hA,  G = h S           coefficients: B (2×2), G (2×2)
       v ← c v − hA x + G z,  x ← x + h v     c = 1 − hγ,  the old v in x    coefficients: hA (2×2), G (2×2), c, h */
#include "lanes.h"

static void gaussian(const run *r, uint64_t stream, sums *at_save) {
    const float *p = r->coefficients;
    const floats b00 = all(p[0]), b01 = all(p[1]), b10 = all(p[2]), b11 = all(p[3]);
    const floats g00 = all(p[4]), g01 = all(p[5]), g10 = all(p[6]), g11 = all(p[7]);
    normal_source source = normals_of(r->seed, stream);
    floats x[GAUSSIAN_VECTORS], y[GAUSSIAN_VECTORS];
    for (int v = 0; v < GAUSSIAN_VECTORS; v++) x[v] = all(r->x0[0]), y[v] = all(r->x0[1]);
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++) {
#pragma GCC unroll 8
            for (int v = 0; v < GAUSSIAN_VECTORS; v++) {
                normal_pair z = next_normals(&source);
                floats next_x = fma_(b00, x[v], fma_(b01, y[v], fma_(g00, z.first, mul(g01, z.second))));
                y[v] = fma_(b10, x[v], fma_(b11, y[v], fma_(g10, z.first, mul(g11, z.second))));
                x[v] = next_x;
            }
        }
        accumulate(at_save + s, x, y, GAUSSIAN_VECTORS);
    }
}

/* z of two coins, tossed for several steps at a time. */
static void signs(const run *r, uint64_t stream, sums *at_save) {
    enum { STEPS = STEPS_A_TOSS(TWO_POINT_VECTORS, 2) };
    const float *p = r->coefficients;
    const floats b00 = all(p[0]), b01 = all(p[1]), b10 = all(p[2]), b11 = all(p[3]);
    const two_point row0 = two_point_of(p[4], p[5]), row1 = two_point_of(p[6], p[7]);
    generator g = seeded(r->seed, stream);
    tossed coins;
    floats x[TWO_POINT_VECTORS], y[TWO_POINT_VECTORS];
    for (int v = 0; v < TWO_POINT_VECTORS; v++) x[v] = all(r->x0[0]), y[v] = all(r->x0[1]);
    int step = 0;
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++, step++) {
            if (step % STEPS == 0) toss(&coins, &g, TWO_POINT_VECTORS);
#pragma GCC unroll 8
            for (int v = 0; v < TWO_POINT_VECTORS; v++) {
                floats kick_x = two_point_sum(row0, &coins, step % STEPS, v, TWO_POINT_VECTORS);
                floats kick_y = two_point_sum(row1, &coins, step % STEPS, v, TWO_POINT_VECTORS);
                floats next_x = fma_(b00, x[v], fma_(b01, y[v], kick_x));
                y[v] = fma_(b10, x[v], fma_(b11, y[v], kick_y));
                x[v] = next_x;
            }
        }
        accumulate(at_save + s, x, y, TWO_POINT_VECTORS);
    }
}

static void underdamped(const run *r, uint64_t stream, sums *at_save) {
    const float *p = r->coefficients;
    const floats a00 = all(p[0]), a01 = all(p[1]), a10 = all(p[2]), a11 = all(p[3]);
    const floats g00 = all(p[4]), g01 = all(p[5]), g10 = all(p[6]), g11 = all(p[7]), c = all(p[8]), h = all(p[9]);
    normal_source source = normals_of(r->seed, stream);
    floats x[UNDERDAMPED_VECTORS], y[UNDERDAMPED_VECTORS], vx[UNDERDAMPED_VECTORS], vy[UNDERDAMPED_VECTORS];
    for (int v = 0; v < UNDERDAMPED_VECTORS; v++)
        x[v] = all(r->x0[0]), y[v] = all(r->x0[1]), vx[v] = vy[v] = all(0);
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++) {
#pragma GCC unroll 8
            for (int v = 0; v < UNDERDAMPED_VECTORS; v++) {
                normal_pair z = next_normals(&source);
                floats kick_x = fnma(a00, x[v], fnma(a01, y[v], fma_(g00, z.first, mul(g01, z.second))));
                floats kick_y = fnma(a10, x[v], fnma(a11, y[v], fma_(g10, z.first, mul(g11, z.second))));
                x[v] = fma_(h, vx[v], x[v]);
                y[v] = fma_(h, vy[v], y[v]);
                vx[v] = fma_(c, vx[v], kick_x);
                vy[v] = fma_(c, vy[v], kick_y);
            }
        }
        accumulate(at_save + s, x, y, UNDERDAMPED_VECTORS);
    }
}

const int planar_gaussian_paths = GAUSSIAN_VECTORS * LANES;
const int planar_two_point_paths = TWO_POINT_VECTORS * LANES;
const int planar_underdamped_paths = UNDERDAMPED_VECTORS * LANES;

void planar_gaussian(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, gaussian, moments);
}

void planar_two_point(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, signs, moments);
}

void planar_underdamped(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, underdamped, moments);
}
