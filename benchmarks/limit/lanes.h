/* Sixteen paths to a vector: random words, normals, and the moments that every kernel returns.

   xoshiro256++: Blackman and Vigna, "Scrambled linear pseudorandom number generators" (2021). Each group of paths has
   streams of its own, seeded by splitmix64 from (seed, stream); eight generators run side by side in a vector. */
#pragma once
#ifndef __AVX512DQ__
#error "these kernels need a processor with AVX-512 (F, BW, DQ, VL)"
#endif
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "tables.h" /* NORMAL_TABLE, LOG_SERIES, EXP2_SERIES: written by build.py */

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef __m512 floats;
typedef __m512i words;

INLINE floats all(float value) { return _mm512_set1_ps(value); }
INLINE floats fma_(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }   /*  ab + c */
INLINE floats fnma(floats a, floats b, floats c) { return _mm512_fnmadd_ps(a, b, c); }  /* -ab + c */
INLINE floats as_floats(words a) { return _mm512_castsi512_ps(a); }
INLINE words as_words(floats a) { return _mm512_castps_si512(a); }

/* ---- random words */
typedef struct { words s0, s1, s2, s3; } generator;

INLINE uint64_t splitmix64(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

INLINE generator seeded(uint64_t seed, uint64_t stream) {
    uint64_t state = seed, start[4][8];
    state = splitmix64(&state) ^ stream;
    state = splitmix64(&state);
    for (int lane = 0; lane < 8; lane++)
        for (int word = 0; word < 4; word++) start[word][lane] = splitmix64(&state);
    return (generator){_mm512_loadu_si512(start[0]), _mm512_loadu_si512(start[1]), _mm512_loadu_si512(start[2]),
                       _mm512_loadu_si512(start[3])};
}

/* The next 512 bits of xoshiro256++. */
INLINE words next_words(generator *g) {
    enum { XOR_OF_THREE = 0x96 };
    words result = _mm512_add_epi64(_mm512_rol_epi64(_mm512_add_epi64(g->s0, g->s3), 23), g->s0);
    words shifted = _mm512_slli_epi64(g->s1, 17);
    words s3 = _mm512_xor_si512(g->s3, g->s1);
    words s1 = _mm512_ternarylogic_epi64(g->s1, g->s2, g->s0, XOR_OF_THREE);
    words s2 = _mm512_ternarylogic_epi64(g->s2, g->s0, shifted, XOR_OF_THREE);
    g->s0 = _mm512_xor_si512(g->s0, s3);
    g->s1 = s1;
    g->s2 = s2;
    g->s3 = _mm512_rol_epi64(s3, 45);
    return result;
}

/* ---- normals: the inverse of the normal law's distribution function, a polynomial of degree 4 on each dyadic interval

   A word gives a sign (its lowest bit) and a tail probability h 2^-32 <= 1/2 (the other 31). The exponent of h names the
   interval, whose five coefficients are looked up in registers, and its mantissa in [1, 2) is the polynomial's variable. */
typedef struct { floats low[5], high[5]; } normal_table;

INLINE normal_table load_normal_table(void) {
    normal_table t;
    for (int power = 0; power < 5; power++) {
        t.low[power] = _mm512_loadu_ps(NORMAL_TABLE[power]);
        t.high[power] = _mm512_loadu_ps(NORMAL_TABLE[power] + LANES);
    }
    return t;
}

INLINE floats normals(words word, const normal_table *t) {
    enum { A_AND_B_OR_C = 0xEA };
    words h = as_words(_mm512_cvtepi32_ps(_mm512_srli_epi32(word, 1)));
    words interval = _mm512_srli_epi32(h, 23); /* the lookup uses the lowest five bits */
    floats mantissa = as_floats(
        _mm512_ternarylogic_epi32(h, _mm512_set1_epi32(0x007fffff), _mm512_set1_epi32(0x3f800000), A_AND_B_OR_C));
    floats z = _mm512_permutex2var_ps(t->low[4], interval, t->high[4]);
    z = fma_(z, mantissa, _mm512_permutex2var_ps(t->low[3], interval, t->high[3]));
    z = fma_(z, mantissa, _mm512_permutex2var_ps(t->low[2], interval, t->high[2]));
    z = fma_(z, mantissa, _mm512_permutex2var_ps(t->low[1], interval, t->high[1]));
    z = fma_(z, mantissa, _mm512_permutex2var_ps(t->low[0], interval, t->high[0]));
    return as_floats(_mm512_xor_si512(as_words(z), _mm512_slli_epi32(word, 31)));
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
    sums s = {x[0], y[0], _mm512_mul_ps(x[0], x[0]), _mm512_mul_ps(y[0], y[0]), _mm512_mul_ps(x[0], y[0])};
    for (int i = 1; i < vectors; i++) {
        s.x = _mm512_add_ps(s.x, x[i]);
        s.y = _mm512_add_ps(s.y, y[i]);
        s.xx = fma_(x[i], x[i], s.xx);
        s.yy = fma_(y[i], y[i], s.yy);
        s.xy = fma_(x[i], y[i], s.xy);
    }
    total->x = _mm512_add_ps(total->x, s.x);
    total->y = _mm512_add_ps(total->y, s.y);
    total->xx = _mm512_add_ps(total->xx, s.xx);
    total->yy = _mm512_add_ps(total->yy, s.yy);
    total->xy = _mm512_add_ps(total->xy, s.xy);
}

static double sum_of_lanes(floats v) {
    float lane[LANES];
    double sum = 0;
    _mm512_storeu_ps(lane, v);
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
