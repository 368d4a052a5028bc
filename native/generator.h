/* xoshiro256++ eight times side by side, seeded by Philox4x32-10.

   Blackman, Vigna, "Scrambled linear pseudorandom number generators" (2021); Salmon, Moraes, Dror, Shaw, "Parallel random
   numbers: as easy as 1, 2, 3" (2011). Philox is a block function: streams whose numbers differ in anything start from
   unrelated states, of 8 x 256 bits. */
#pragma once
#include <string.h>
#include "noise.h"

#if defined __BYTE_ORDER__ && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are defined in little-endian order"
#endif

#define INLINE static inline __attribute__((always_inline))
#if defined __clang__
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif
#define EACH(i, count) for (int i = 0; i < (count); i++)
enum { BLOCK = 16 }; /* words that one iteration of the eight generators makes */

/* Eight 64-bit numbers, in as many machine vectors as they need. */
#if defined __AVX512F__
enum { PART = 64 };
#elif defined __AVX2__
enum { PART = 32 };
#else
enum { PART = 16 };
#endif
enum { PARTS = 64 / PART };
typedef uint64_t part __attribute__((vector_size(PART)));

typedef struct {
    part s[4][PARTS];
} generator;

/* Multiplies the lower halves of eight numbers by m. */
#if defined __AVX512F__
#include <immintrin.h>
INLINE part multiply(part a, uint32_t m) { return (part)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m)); }
#elif defined __AVX2__
#include <immintrin.h>
INLINE part multiply(part a, uint32_t m) { return (part)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m)); }
#else
INLINE part multiply(part a, uint32_t m) { return (a & 0xffffffffu) * (part){m, m}; }
#endif

#if defined __AVX512F__
INLINE part xor3(part a, part b, part c) {
    return (part)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
}
#else
INLINE part xor3(part a, part b, part c) { return a ^ b ^ c; }
#endif

/* One block of Philox4x32-10 in each 64-bit lane; only the lower halves of c count, before and after. */
INLINE void philox(part c[4], uint32_t key0, uint32_t key1) {
    const part zero = {0};
    EACH(round, 10) {
        part product0 = multiply(c[0], 0xD2511F53u), product1 = multiply(c[2], 0xCD9E8D57u);
        c[0] = xor3(product1 >> 32, c[1], zero + key0);
        c[2] = xor3(product0 >> 32, c[3], zero + key1);
        c[1] = product1;
        c[3] = product0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

/* Generator l has as its state word k: word k of block 2l, and above it word k of block 2l + 1. */
INLINE generator seeded(const stream *s) {
    generator g;
    UNROLLED for (int p = 0; p < PARTS; p++) {
        part half[2][4];
        UNROLLED for (int odd = 0; odd < 2; odd++) {
            part block, zero = {0};
            for (int i = 0; i < PART / 8; i++) block[i] = (uint64_t)(2 * (p * (PART / 8) + i) + odd);
            half[odd][0] = zero + s->tile;
            half[odd][1] = zero + s->step;
            half[odd][2] = zero + s->lane;
            half[odd][3] = block;
            philox(half[odd], s->seed[0], s->seed[1]);
        }
        for (int k = 0; k < 4; k++) g.s[k][p] = (half[0][k] & 0xffffffffu) | (half[1][k] << 32);
    }
    return g;
}

INLINE part rotated(part x, int count) { return (x << count) | (x >> (64 - count)); }

/* The next 16 words: of each generator's 64 bits the lower 32, then the upper. */
INLINE void next(generator *g, part result[PARTS]) {
    UNROLLED for (int p = 0; p < PARTS; p++) {
        part s0 = g->s[0][p], s1 = g->s[1][p], s2 = g->s[2][p], s3 = g->s[3][p];
        result[p] = rotated(s0 + s3, 23) + s0;
        s3 ^= s1;
        g->s[0][p] = s0 ^ s3;
        g->s[1][p] = xor3(s1, s2, s0);
        g->s[2][p] = xor3(s2, s0, s1 << 17);
        g->s[3][p] = rotated(s3, 45);
    }
}

INLINE void next_words(generator *g, uint32_t words[BLOCK]) {
    part result[PARTS];
    next(g, result);
    memcpy(words, result, sizeof result);
}

/* A source of words for the loops of fill.c: a generator, or an array. */
typedef struct {
    generator g;
    const uint32_t *array;
} source;

INLINE void take(source *from, uint32_t words[BLOCK]) {
    if (from->array) {
        memcpy(words, from->array, BLOCK * sizeof *words);
        from->array += BLOCK;
    } else {
        next_words(&from->g, words);
    }
}
