/* From words to numbers, one word at a time: loops over these functions are left to the compiler to vectorise.

   The bytes are the same on every processor: multiplications and additions are fused where and only where `fused` says
   so, and nothing calls the mathematics library. */
#pragma once
#include "generator.h"
#include "tables.h"

INLINE uint32_t as_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
INLINE float as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ab + c, rounded once. */
#if defined __FMA__ || defined __aarch64__ || defined __riscv
INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
/* The product is exact in double, but the sum is rounded twice. For no word does that change a normal or a delay, which
   tests/laws/test_noise_of_words.py makes sure of. */
INLINE float fused(float a, float b, float c) { return (float)((double)a * b + c); }
#endif

/* A quantile of the normal law. The word with its last bit set is an odd number ±k, and k 2^-32 in (0, 1/2) the tail's
   probability. As a float, k has an exponent and an upper bit of its mantissa, which name one of 64 intervals; the rest
   of the mantissa, m in [1, 1.5), is the variable of the interval's polynomial. */
INLINE uint32_t normal(uint32_t word) {
    uint32_t k = as_bits((float)(int32_t)(word | 1));
    uint32_t interval = k >> 22 & 63;
    float m = as_float((k & 0x003fffff) | 0x3f800000);
    float z = NORMAL_TABLE[NORMAL_DEGREE][interval];
    UNROLLED for (int power = NORMAL_DEGREE - 1; power >= 0; power--) z = fused(z, m, NORMAL_TABLE[power][interval]);
    return as_bits(z) ^ (k & 0x80000000);
}

/* ±1: bit i of the word, i < 32. */
INLINE uint32_t two_point(uint32_t word, int i) { return ((word << (31 - i)) & 0x80000000) ^ 0xbf800000; }

/* ±√3 for the lowest and the highest 715 827 883 words each, else 0. */
INLINE uint32_t three_point(uint32_t word) {
    const uint32_t sixth = 0xffffffffu / 6, root3 = 0x3fddb3d7;
    return (word <= sixth ? root3 | 0x80000000 : 0) | (word >= ~sixth ? root3 : 0);
}

/* (word + 1/2) 2^-32 in (0, 1]. */
INLINE float uniform(uint32_t word) { return ((float)word + 0.5f) * 0x1p-32f; }

/* The upper half of n times the word: 0 … n − 1. */
INLINE uint32_t below(uint32_t n, uint32_t word) { return (uint32_t)((uint64_t)n * word >> 32); }

/* log2 of a normal number: its exponent, moved so that the mantissa 1 + t lies in [√½, √2), and a series in t. */
INLINE float log2_of(float x) {
    const uint32_t root_of_half = 0x3f3504f3;
    uint32_t moved = as_bits(x) - root_of_half;
    float exponent = (float)((int32_t)moved >> 23);
    float t = as_float((moved & 0x007fffff) + root_of_half) - 1.0f;
    float ratio = LOG2_SERIES[LOG_DEGREE];
    UNROLLED for (int power = LOG_DEGREE - 1; power >= 0; power--) ratio = fused(ratio, t, LOG2_SERIES[power]);
    return fused(ratio, t, exponent);
}

/* ⌊log u / log q⌋, at most `largest`: P(j) = (1 − q) q^j. */
INLINE uint32_t geometric(uint32_t word, float inverse_log2_ratio, float largest) {
    float waited = log2_of(uniform(word)) * inverse_log2_ratio;
    return (uint32_t)(int32_t)(waited < largest ? waited : largest);
}
