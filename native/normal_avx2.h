/* `normal` of laws.h for eight words at a time. AVX2 has no permutation of more than eight floats, and its gathers are slow:
   the coefficients of each word are loaded as a row, and the rows transposed. */
#pragma once
#include <immintrin.h>
#include "laws.h"

enum { VECTOR = 8 };
static const int32_t FRACTION = 0x003fffff, ONE = 0x3f800000, SIGN = INT32_MIN;

/* Four numbers from a and four from b. */
INLINE __m256 joined(const float *a, const float *b) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
}
INLINE __m256 low_pairs(__m256 a, __m256 b) {
    return _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}
INLINE __m256 high_pairs(__m256 a, __m256 b) {
    return _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}

INLINE void eight_normals(const uint32_t *words, uint32_t *out) {
    __m256i odd = _mm256_or_si256(_mm256_loadu_si256((const __m256i *)words), _mm256_set1_epi32(1));
    __m256i k = _mm256_castps_si256(_mm256_cvtepi32_ps(odd));
    __m256 m = _mm256_castsi256_ps(
        _mm256_or_si256(_mm256_and_si256(k, _mm256_set1_epi32(FRACTION)), _mm256_set1_epi32(ONE)));
    uint32_t interval[VECTOR];
    _mm256_storeu_si256((__m256i *)interval, _mm256_and_si256(_mm256_srli_epi32(k, 22), _mm256_set1_epi32(63)));
    __m256 row[4], last[4]; /* powers 0 … 3 and 4 of the words v and v + 4 */
    UNROLLED for (int v = 0; v < 4; v++) {
        const float *a = NORMAL_ROWS[interval[v]], *b = NORMAL_ROWS[interval[v + 4]];
        row[v] = joined(a, b);
        last[v] = joined(a + 4, b + 4);
    }
    __m256 low0 = _mm256_unpacklo_ps(row[0], row[1]), low1 = _mm256_unpacklo_ps(row[2], row[3]);
    __m256 high0 = _mm256_unpackhi_ps(row[0], row[1]), high1 = _mm256_unpackhi_ps(row[2], row[3]);
    __m256 z = low_pairs(_mm256_unpacklo_ps(last[0], last[1]), _mm256_unpacklo_ps(last[2], last[3]));
    z = _mm256_fmadd_ps(z, m, high_pairs(high0, high1));
    z = _mm256_fmadd_ps(z, m, low_pairs(high0, high1));
    z = _mm256_fmadd_ps(z, m, high_pairs(low0, low1));
    z = _mm256_fmadd_ps(z, m, low_pairs(low0, low1));
    __m256i sign = _mm256_and_si256(k, _mm256_set1_epi32(SIGN));
    _mm256_storeu_si256((__m256i *)out, _mm256_xor_si256(_mm256_castps_si256(z), sign));
}

_Static_assert(NORMAL_DEGREE == 4, "a row is taken as four coefficients and one");

INLINE void fill_normals(source *from, size_t blocks, uint32_t *out) {
    for (; blocks; blocks--, out += BLOCK) {
        uint32_t words[BLOCK];
        take(from, words);
        eight_normals(words, out);
        eight_normals(words + VECTOR, out + VECTOR);
    }
}
