/* `normal` of laws.h for a vector of words at a time, where intervals are looked up by permutations of registers.

   The fast way has the upper half of the table only, for |k| >= 2^17. Smaller |k|, one word in 2^14, are rare: the
   exponents of the others, 144 … 158, have bits 7 and 4, and those of rare ones, 127 … 143, have only one of the two. */
#pragma once
#include "laws.h"

#if defined __AVX2__
#define NORMALS_IN_VECTORS

static const int32_t FRACTION = 0x003fffff, ONE = 0x3f800000, SIGN = INT32_MIN, COMMON = (1 << 7 | 1 << 4) << 23;

#if defined __AVX512F__
enum { VECTOR = 16, A_AND_B_OR_C = 0xEA, A_XOR_B_AND_C = 0x78, A_AND_B_AND_C = 0x80 };
typedef __m512i bits;

/* The odd number of each word, as a float. */
INLINE bits odd_numbers(const uint32_t *words) {
    __m512i odd = _mm512_or_si512(_mm512_loadu_si512(words), _mm512_set1_epi32(1));
    return _mm512_castps_si512(_mm512_cvtepi32_ps(odd));
}
INLINE bits all_ones(void) { return _mm512_set1_epi32(-1); }
INLINE bits and3(bits a, bits b, bits c) { return _mm512_ternarylogic_epi32(a, b, c, A_AND_B_AND_C); }
INLINE unsigned rare_lanes(bits k) {
    const bits common = _mm512_set1_epi32(COMMON);
    return _mm512_cmpneq_epi32_mask(_mm512_and_si512(k, common), common);
}

typedef struct {
    __m512 low[NORMAL_DEGREE + 1], high[NORMAL_DEGREE + 1];
} table;

INLINE table load_table(void) {
    table t;
    EACH(power, NORMAL_DEGREE + 1) {
        t.low[power] = _mm512_loadu_ps(NORMAL_TABLE[power] + 32);
        t.high[power] = _mm512_loadu_ps(NORMAL_TABLE[power] + 48);
    }
    return t;
}

/* Two vectors in turn, so that neighbouring instructions do not wait for each other. */
INLINE void common_normals(const bits k[2], const table *t, uint32_t *out) {
    __m512i interval[2];
    __m512 m[2], z[2];
    EACH(v, 2) {
        interval[v] = _mm512_srli_epi32(k[v], 22); /* the permutation reads the lowest five bits */
        m[v] = _mm512_castsi512_ps(
            _mm512_ternarylogic_epi32(k[v], _mm512_set1_epi32(FRACTION), _mm512_set1_epi32(ONE), A_AND_B_OR_C));
        z[v] = _mm512_permutex2var_ps(t->low[NORMAL_DEGREE], interval[v], t->high[NORMAL_DEGREE]);
    }
    UNROLLED for (int power = NORMAL_DEGREE - 1; power >= 0; power--)
        EACH(v, 2) z[v] = _mm512_fmadd_ps(z[v], m[v], _mm512_permutex2var_ps(t->low[power], interval[v], t->high[power]));
    EACH(v, 2) {
        __m512i magnitude = _mm512_castps_si512(z[v]), sign = _mm512_set1_epi32(SIGN);
        _mm512_storeu_si512(out + v * VECTOR, _mm512_ternarylogic_epi32(magnitude, k[v], sign, A_XOR_B_AND_C));
    }
}

#else
enum { VECTOR = 8 };
typedef __m256i bits;

INLINE bits odd_numbers(const uint32_t *words) {
    __m256i odd = _mm256_or_si256(_mm256_loadu_si256((const __m256i *)words), _mm256_set1_epi32(1));
    return _mm256_castps_si256(_mm256_cvtepi32_ps(odd));
}
INLINE bits all_ones(void) { return _mm256_set1_epi32(-1); }
INLINE bits and3(bits a, bits b, bits c) { return _mm256_and_si256(_mm256_and_si256(a, b), c); }
INLINE unsigned rare_lanes(bits k) {
    const bits common = _mm256_set1_epi32(COMMON);
    __m256i is_common = _mm256_cmpeq_epi32(_mm256_and_si256(k, common), common);
    return ~(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(is_common)) & 0xff;
}

/* The table stays in memory: four permutations of eight entries each, and blends by the interval's upper two bits. */
typedef int table;
INLINE table load_table(void) { return 0; }

INLINE __m256 look_up(const float upper_half[32], __m256i interval, __m256 bit3, __m256 bit4) {
    __m256 found[4];
    EACH(i, 4) found[i] = _mm256_permutevar8x32_ps(_mm256_loadu_ps(upper_half + 8 * i), interval);
    EACH(i, 2) found[i] = _mm256_blendv_ps(found[2 * i], found[2 * i + 1], bit3);
    return _mm256_blendv_ps(found[0], found[1], bit4);
}

INLINE void common_normals(const bits k[2], const table *t, uint32_t *out) {
    (void)t;
    EACH(v, 2) {
        __m256i interval = _mm256_srli_epi32(k[v], 22); /* the permutation reads the lowest three bits */
        __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(k[v], 31 - 25));
        __m256 bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(k[v], 31 - 26));
        __m256 m = _mm256_castsi256_ps(
            _mm256_or_si256(_mm256_and_si256(k[v], _mm256_set1_epi32(FRACTION)), _mm256_set1_epi32(ONE)));
        __m256 z = look_up(NORMAL_TABLE[NORMAL_DEGREE] + 32, interval, bit3, bit4);
        UNROLLED for (int power = NORMAL_DEGREE - 1; power >= 0; power--)
            z = _mm256_fmadd_ps(z, m, look_up(NORMAL_TABLE[power] + 32, interval, bit3, bit4));
        __m256i sign = _mm256_and_si256(k[v], _mm256_set1_epi32(SIGN));
        _mm256_storeu_si256((__m256i *)(out + v * VECTOR), _mm256_xor_si256(_mm256_castps_si256(z), sign));
    }
}
#endif
#endif
