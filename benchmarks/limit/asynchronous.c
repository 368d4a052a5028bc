/* SGD on a sum of two squares in two dimensions, with gradients at stale points:

       x_{k+1} = x_k − a_i (a_i·x_{k−τ} − b_i),      P(τ = j) = (1−q) q^j,  truncated at RING − 1

   coefficients: those of sgd.c, then 1/log q. A ring of the last RING points holds (x, y) side by side. */
#include "lanes.h"

enum { VECTORS = STALE_VECTORS, RING = 64, PATHS = VECTORS * LANES };

static void stale(const run *r, uint64_t stream, sums *at_save) {
    const words place = place_of_lane();
    const float *p = r->coefficients;
    const sides a0s = sides_of(p[0], p[1]), a1s = sides_of(p[2], p[3]), bs = sides_of(p[4], p[5]);
    const floats inverse_log = all(p[6]);
    generator g = seeded(r->seed, stream);
    double ring[RING * PATHS] __attribute__((aligned(64)));
    floats x[VECTORS], y[VECTORS];
    for (int v = 0; v < VECTORS; v++) x[v] = all(r->x0[0]), y[v] = all(r->x0[1]);
    for (int slot = 0; slot < RING; slot++)
        for (int v = 0; v < VECTORS; v++) store_points(ring + slot * PATHS + v * LANES, x[v], y[v]);
    int step = 0;
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++, step++) {
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                words word = next_words(&g); /* the lowest bit chooses the summand, the others the delay */
                coin c = lowest_bit(word);
                floats u = fma_(converted(halved(word)), all(0x1p-31f), all(0x1p-32f));
                words delay = smaller(truncated(mul(logarithm(u), inverse_log)), all_words(RING - 1));
                words slot = and_words(sub_words(all_words(step), delay), all_words(RING - 1));
                words at = add_words(mul_words(slot, all_words(PATHS)), add_words(place, all_words(v * LANES)));
                floats old_x, old_y;
                gather_points(ring, at, &old_x, &old_y);
                floats a0 = side(a0s, c), a1 = side(a1s, c), b = side(bs, c);
                floats residual = fma_(a0, old_x, fms(a1, old_y, b));
                x[v] = fnma(a0, residual, x[v]);
                y[v] = fnma(a1, residual, y[v]);
                store_points(ring + ((step + 1) % RING) * PATHS + v * LANES, x[v], y[v]);
            }
        }
        accumulate(at_save + s, x, y, VECTORS);
    }
}

const int asynchronous_sgd_paths = PATHS;

void asynchronous_sgd(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, stale, moments);
}
