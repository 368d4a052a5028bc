/* `normal` of laws.h for sixteen words at a time: intervals are looked up by permutations of registers.

   The fast way has the upper half of the table only, for |k| >= 2^17. Smaller |k|, one word in 2^14, are rare: the
   exponents of the others, 144 … 158, have bits 7 and 4, and those of rare ones, 127 … 143, have only one of the two. */
#pragma once
#include <immintrin.h>
#include "laws.h"

enum { VECTOR = 16, A_AND_B_OR_C = 0xEA, A_XOR_B_AND_C = 0x78, A_AND_B_AND_C = 0x80 };
static const int32_t FRACTION = 0x003fffff, ONE = 0x3f800000, SIGN = INT32_MIN, COMMON = (1 << 7 | 1 << 4) << 23;

/* The odd number of each word, as a float. */
INLINE __m512i odd_numbers(const uint32_t *words) {
    __m512i odd = _mm512_or_si512(_mm512_loadu_si512(words), _mm512_set1_epi32(1));
    return _mm512_castps_si512(_mm512_cvtepi32_ps(odd));
}
INLINE unsigned rare_lanes(__m512i k) {
    const __m512i common = _mm512_set1_epi32(COMMON);
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
INLINE void common_normals(const __m512i k[2], const table *t, uint32_t *out) {
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

/* Chunks share one test for rare words; those that hold one (1.6 %) are gone through once more. */
INLINE void fill_normals(source *from, size_t blocks, uint32_t *out) {
    enum { PAIR = 2 * BLOCK, CHUNK = 8 };
    const table t = load_table();
    for (; blocks >= 2 * CHUNK; blocks -= 2 * CHUNK) {
        source again = *from;
        __m512i common = _mm512_set1_epi32(-1);
        EACH(c, CHUNK) {
            uint32_t words[PAIR];
            take(from, words);
            take(from, words + BLOCK);
            const __m512i k[2] = {odd_numbers(words), odd_numbers(words + VECTOR)};
            common_normals(k, &t, out + c * PAIR);
            common = _mm512_ternarylogic_epi32(common, k[0], k[1], A_AND_B_AND_C);
        }
        if (__builtin_expect(rare_lanes(common), 0)) {
            for (uint32_t *block = out; block < out + CHUNK * PAIR; block += BLOCK) {
                uint32_t words[BLOCK];
                take(&again, words);
                for (unsigned rare = rare_lanes(odd_numbers(words)); rare; rare &= rare - 1) {
                    int lane = __builtin_ctz(rare);
                    block[lane] = normal(words[lane]);
                }
            }
        }
        out += CHUNK * PAIR;
    }
    for (; blocks; blocks--, out += BLOCK) {
        uint32_t words[BLOCK];
        take(from, words);
        EACH(i, BLOCK) out[i] = normal(words[i]);
    }
}
