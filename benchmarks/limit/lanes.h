/* Several paths to a vector: what the kernels are written in, and the moments that every kernel returns.

   What an instruction set does in its own way stands in lanes_avx512.h and lanes_avx2.h, which define the same names.

   xoshiro256++: Blackman and Vigna, "Scrambled linear pseudorandom number generators" (2021). Each group of paths has
   streams of its own, seeded by splitmix64 from (seed, stream); generators run side by side in a vector. */
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "tables.h" /* the series and tables of normals, logarithm, exp2: written by build.py */

#define INLINE static inline __attribute__((always_inline))

INLINE uint64_t splitmix64(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

#if defined __AVX512DQ__ && defined __AVX512BW__ && defined __AVX512VL__
#include "lanes_avx512.h"
#elif defined __AVX2__ && defined __FMA__
#include "lanes_avx2.h"
#else
#error "these kernels need a processor with AVX-512 (F, BW, DQ, VL) or with AVX2 and FMA"
#endif

INLINE generator seeded(uint64_t seed, uint64_t stream) {
    uint64_t state = seed, start[4][LANES / 2];
    state = splitmix64(&state) ^ stream;
    state = splitmix64(&state);
    for (int lane = 0; lane < LANES / 2; lane++)
        for (int word = 0; word < 4; word++) start[word][lane] = splitmix64(&state);
    return (generator){load_words(start[0]), load_words(start[1]), load_words(start[2]), load_words(start[3])};
}

/* ---- what a kernel is given and what it returns */
typedef struct {
    int dim, saves, steps_per_save;
    uint64_t seed;
    const float *coefficients, *x0;
} run;

/* Sums over paths of x, y, x², y² and xy, where x and y are the first two coordinates. */
typedef struct { floats x, y, xx, yy, xy; } sums;

INLINE void accumulate(sums *total, const floats *x, const floats *y, int vectors) {
    sums s = {x[0], y[0], mul(x[0], x[0]), mul(y[0], y[0]), mul(x[0], y[0])};
    for (int i = 1; i < vectors; i++) {
        s.x = add(s.x, x[i]);
        s.y = add(s.y, y[i]);
        s.xx = fma_(x[i], x[i], s.xx);
        s.yy = fma_(y[i], y[i], s.yy);
        s.xy = fma_(x[i], y[i], s.xy);
    }
    total->x = add(total->x, s.x);
    total->y = add(total->y, s.y);
    total->xx = add(total->xx, s.xx);
    total->yy = add(total->yy, s.yy);
    total->xy = add(total->xy, s.xy);
}

static double sum_of_lanes(floats v) {
    float lane[LANES] __attribute__((aligned(64)));
    double sum = 0;
    store(lane, v);
    for (int i = 0; i < LANES; i++) sum += lane[i];
    return sum;
}

/* Runs one group of paths from its start to the last save point and adds to the sums of each. */
typedef void group_function(const run *r, uint64_t stream, sums *at_save);

/* Groups first, …, first+count−1; adds to `moments` (saves, 5). Float sums go over to doubles every 16 groups. */
static void run_groups(const run *r, long first, long count, group_function *simulate, double *moments) {
    sums at_save[r->saves];
    for (long start = first; start < first + count; start += 16) {
        long end = start + 16 < first + count ? start + 16 : first + count;
        memset(at_save, 0, sizeof at_save);
        for (long group = start; group < end; group++) simulate(r, (uint64_t)group, at_save);
        for (int s = 0; s < r->saves; s++) {
            const floats parts[5] = {at_save[s].x, at_save[s].y, at_save[s].xx, at_save[s].yy, at_save[s].xy};
            for (int i = 0; i < 5; i++) moments[5 * s + i] += sum_of_lanes(parts[i]);
        }
    }
}
