/* SGD on a finite sum of squares in two dimensions, batch 1, with replacement:

       r = a_i·x − b_i,      x ← x − a_i r       (√η is in a and b)

   coefficients: the rows a[0][.], a[1][.], b[.], each of n numbers; n stands in `dim`. */
#include "lanes.h"

/* Two summands: one coin a step and path, the summand chosen in registers. */
enum { STEPS = STEPS_A_TOSS(TWO_SUMMANDS_VECTORS, 1) };

static void two_summands(const run *r, uint64_t stream, sums *at_save) {
    const float *p = r->coefficients;
    const sides a0s = sides_of(p[0], p[1]), a1s = sides_of(p[2], p[3]), bs = sides_of(p[4], p[5]);
    generator g = seeded(r->seed, stream);
    tossed coins;
    floats x[TWO_SUMMANDS_VECTORS], y[TWO_SUMMANDS_VECTORS];
    for (int v = 0; v < TWO_SUMMANDS_VECTORS; v++) x[v] = all(r->x0[0]), y[v] = all(r->x0[1]);
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k += STEPS) {
            int steps = r->steps_per_save - k < STEPS ? r->steps_per_save - k : STEPS;
            toss(&coins, &g, TWO_SUMMANDS_VECTORS);
#pragma GCC unroll 1
            for (int u = 0; u < steps; u++) {
#pragma GCC unroll 16
                for (int v = 0; v < TWO_SUMMANDS_VECTORS; v++) {
                    coin c = shown(&coins, u, v, TWO_SUMMANDS_VECTORS);
                    floats a0 = side(a0s, c), a1 = side(a1s, c), b = side(bs, c);
                    floats residual = fma_(a0, x[v], fms(a1, y[v], b));
                    x[v] = fnma(a0, residual, x[v]);
                    y[v] = fnma(a1, residual, y[v]);
                }
            }
        }
        accumulate(at_save + s, x, y, TWO_SUMMANDS_VECTORS);
    }
}

const int sgd_two_summands_paths = TWO_SUMMANDS_VECTORS * LANES;

void sgd_two_summands(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, two_summands, moments);
}

/* Up to 128 summands: one word a step and path. */
static void table_of_summands(const run *r, uint64_t stream, sums *at_save) {
    summand_table table;
    fill(&table, r->coefficients, r->dim);
    generator g = seeded(r->seed, stream);
    floats x[TABLE_VECTORS], y[TABLE_VECTORS];
    for (int v = 0; v < TABLE_VECTORS; v++) x[v] = all(r->x0[0]), y[v] = all(r->x0[1]);
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++) {
#pragma GCC unroll 8
            for (int v = 0; v < TABLE_VECTORS; v++) {
                summand i = draw(&table, next_words(&g));
                floats residual = fma_(i.a0, x[v], fms(i.a1, y[v], i.b));
                x[v] = fnma(i.a0, residual, x[v]);
                y[v] = fnma(i.a1, residual, y[v]);
            }
        }
        accumulate(at_save + s, x, y, TABLE_VECTORS);
    }
}

const int sgd_table_paths = TABLE_VECTORS * LANES;

void sgd_table(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, table_of_summands, moments);
}
