/* AVX-512: sixteen paths to a vector, 32 registers, masks, permutations of two registers. */

enum { LANES = 16 };

typedef __m512 floats;
typedef __m512i words;

INLINE floats all(float value) { return _mm512_set1_ps(value); }
INLINE floats load(const float *at) { return _mm512_load_ps(at); }
INLINE void store(float *at, floats a) { _mm512_store_ps(at, a); }
INLINE floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
INLINE floats mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
INLINE floats fma_(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }  /*  ab + c */
INLINE floats fms(floats a, floats b, floats c) { return _mm512_fmsub_ps(a, b, c); }   /*  ab − c */
INLINE floats fnma(floats a, floats b, floats c) { return _mm512_fnmadd_ps(a, b, c); } /* −ab + c */
INLINE floats as_floats(words a) { return _mm512_castsi512_ps(a); }
INLINE words as_words(floats a) { return _mm512_castps_si512(a); }

INLINE words load_words(const void *at) { return _mm512_loadu_si512(at); }
INLINE words all_words(int value) { return _mm512_set1_epi32(value); }
INLINE words add_words(words a, words b) { return _mm512_add_epi32(a, b); }
INLINE words sub_words(words a, words b) { return _mm512_sub_epi32(a, b); }
INLINE words mul_words(words a, words b) { return _mm512_mullo_epi32(a, b); }
INLINE words and_words(words a, words b) { return _mm512_and_si512(a, b); }
INLINE words smaller(words a, words b) { return _mm512_min_epi32(a, b); }
INLINE words halved(words a) { return _mm512_srli_epi32(a, 1); }
INLINE words truncated(floats a) { return _mm512_cvttps_epi32(a); }
INLINE floats converted(words a) { return _mm512_cvtepu32_ps(a); } /* of words below 2^31 */

/* ---- random words */
typedef struct { words s0, s1, s2, s3; } generator;

INLINE generator seeded(uint64_t seed, uint64_t stream); /* in lanes.h */

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
typedef struct {
    generator first, second;
    floats low[5], high[5];
} normal_source;

typedef struct { floats first, second; } normal_pair;

INLINE normal_source normals_of(uint64_t seed, uint64_t stream) {
    normal_source n = {seeded(seed, 2 * stream), seeded(seed, 2 * stream + 1)};
    for (int power = 0; power < 5; power++) {
        n.low[power] = _mm512_loadu_ps(NORMAL_TABLE[power]);
        n.high[power] = _mm512_loadu_ps(NORMAL_TABLE[power] + LANES);
    }
    return n;
}

INLINE floats normals(words word, const normal_source *n) {
    enum { A_AND_B_OR_C = 0xEA };
    words h = as_words(_mm512_cvtepi32_ps(_mm512_srli_epi32(word, 1)));
    words interval = _mm512_srli_epi32(h, 23); /* the lookup uses the lowest five bits */
    floats mantissa = as_floats(
        _mm512_ternarylogic_epi32(h, _mm512_set1_epi32(0x007fffff), _mm512_set1_epi32(0x3f800000), A_AND_B_OR_C));
    floats z = _mm512_permutex2var_ps(n->low[4], interval, n->high[4]);
    z = fma_(z, mantissa, _mm512_permutex2var_ps(n->low[3], interval, n->high[3]));
    z = fma_(z, mantissa, _mm512_permutex2var_ps(n->low[2], interval, n->high[2]));
    z = fma_(z, mantissa, _mm512_permutex2var_ps(n->low[1], interval, n->high[1]));
    z = fma_(z, mantissa, _mm512_permutex2var_ps(n->low[0], interval, n->high[0]));
    return as_floats(_mm512_xor_si512(as_words(z), _mm512_slli_epi32(word, 31)));
}

INLINE normal_pair next_normals(normal_source *n) {
    floats first = normals(next_words(&n->first), n);
    return (normal_pair){first, normals(next_words(&n->second), n)};
}

/* ---- functions */

/* √a and 1/a by an estimate of 14 bits and one step of Newton's rule. */
INLINE floats square_root(floats a) {
    a = _mm512_max_ps(a, all(1e-30f));
    floats r = _mm512_rsqrt14_ps(a);
    r = mul(r, fnma(mul(mul(a, r), r), all(0.5f), all(1.5f)));
    return mul(a, r);
}

INLINE floats reciprocal(floats a) {
    floats r = _mm512_rcp14_ps(a);
    return fma_(r, fnma(a, r, all(1)), r);
}

/* log u for 0 < u <= 1: exponent and a series in the mantissa, taken in [3/4, 3/2). */
INLINE floats logarithm(floats u) {
    floats mantissa = _mm512_getmant_ps(u, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
    floats exponent = _mm512_getexp_ps(mul(u, all(4.0f / 3)));
    floats t = _mm512_sub_ps(mantissa, all(1)), p = all(LOG_SERIES[8]);
#pragma GCC unroll 8
    for (int power = 7; power >= 0; power--) p = fma_(p, t, all(LOG_SERIES[power]));
    return fma_(exponent, all(0.69314718f), mul(p, t));
}

/* exp x for x <= 0, at least exp −87: a power of two and a series in the rest. */
INLINE floats exponential(floats x) {
    floats t = mul(_mm512_max_ps(x, all(-87)), all(1.44269504f));
    floats whole = _mm512_roundscale_ps(t, 0), rest = _mm512_sub_ps(t, whole), p = all(EXP2_SERIES[6]);
#pragma GCC unroll 6
    for (int power = 5; power >= 0; power--) p = fma_(p, rest, all(EXP2_SERIES[power]));
    return _mm512_scalef_ps(p, whole);
}

/* ---- coins: a vector's coins are a mask, 512 bits are tossed at a time */
#define STEPS_A_TOSS(vectors, coins) (32 / ((vectors) * (coins))) /* each vector tosses `coins` a step */

typedef struct { uint16_t mask[32] __attribute__((aligned(64))); } tossed;
typedef __mmask16 coin;
typedef struct { floats tails, heads; } sides;

INLINE void toss(tossed *t, generator *g, int vectors) { _mm512_store_si512((void *)t->mask, next_words(g)); }
INLINE coin shown(const tossed *t, int step, int v, int vectors) { return _cvtu32_mask16(t->mask[step * vectors + v]); }
INLINE coin lowest_bit(words word) { return _mm512_test_epi32_mask(word, _mm512_set1_epi32(1)); }
INLINE sides sides_of(float tails, float heads) { return (sides){all(tails), all(heads)}; }
INLINE floats side(sides of, coin c) { return _mm512_mask_blend_ps(c, of.tails, of.heads); }

/* g0 z0 + g1 z1 for signs z0 and z1, two coins of vector v. */
typedef struct { floats g0, g1; } two_point;

INLINE two_point two_point_of(float g0, float g1) { return (two_point){all(g0), all(g1)}; }
INLINE floats two_point_sum(two_point p, const tossed *t, int step, int v, int vectors) {
    floats z0 = side(sides_of(1, -1), shown(t, step, 2 * v, 2 * vectors));
    floats z1 = side(sides_of(1, -1), shown(t, step, 2 * v + 1, 2 * vectors));
    return fma_(p.g0, z0, mul(p.g1, z1));
}

/* ---- one of up to 128 summands, looked up in tables of 128 floats */
enum { TABLE = 128 };

typedef struct {
    float row[3][TABLE] __attribute__((aligned(64)));
    floats scale;
} summand_table;
typedef struct { floats a0, a1, b; } summand;

INLINE void fill(summand_table *table, const float *rows, int n) {
    memset(table->row, 0, sizeof table->row);
    for (int i = 0; i < 3; i++) memcpy(table->row[i], rows + i * n, n * sizeof(float));
    table->scale = all(n * 0x1p-32f);
}

INLINE floats look_up(const float *row, words index, __mmask16 has_32, __mmask16 has_64) {
    floats part[4];
    for (int i = 0; i < 4; i++)
        part[i] = _mm512_permutex2var_ps(load(row + 32 * i), index, load(row + 32 * i + 16));
    return _mm512_mask_blend_ps(has_64, _mm512_mask_blend_ps(has_32, part[0], part[1]),
                                _mm512_mask_blend_ps(has_32, part[2], part[3]));
}

INLINE summand draw(const summand_table *table, words word) {
    enum { DOWN = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }; /* rounded down, so that the index stays below n */
    floats u = _mm512_cvt_roundepu32_ps(word, DOWN);
    words index = truncated(_mm512_mul_round_ps(u, table->scale, DOWN));
    __mmask16 has_32 = _mm512_test_epi32_mask(index, all_words(32));
    __mmask16 has_64 = _mm512_test_epi32_mask(index, all_words(64));
    return (summand){look_up(table->row[0], index, has_32, has_64), look_up(table->row[1], index, has_32, has_64),
                     look_up(table->row[2], index, has_32, has_64)};
}

/* ---- points (x, y) side by side, so that one 64-bit gather brings both */
INLINE words place_of_lane(void) { return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }

INLINE void store_points(double *at, floats x, floats y) {
    const words low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const words high = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    _mm512_store_pd(at, _mm512_castps_pd(_mm512_permutex2var_ps(x, low, y)));
    _mm512_store_pd(at + 8, _mm512_castps_pd(_mm512_permutex2var_ps(x, high, y)));
}

INLINE void gather_points(const double *from, words at, floats *x, floats *y) {
    const words even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const words odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    floats low = _mm512_castpd_ps(_mm512_i32gather_pd(_mm512_castsi512_si256(at), from, 8));
    floats high = _mm512_castpd_ps(_mm512_i32gather_pd(_mm512_extracti64x4_epi64(at, 1), from, 8));
    *x = _mm512_permutex2var_ps(low, even, high);
    *y = _mm512_permutex2var_ps(low, odd, high);
}

/* ---- ten classes in a vector of sixteen: the weights of a feature are a vector */
enum { CLASSES = 10, BLOCK = 1, BLOCK_VECTORS = 1, CLASS_VECTORS = 1 };

typedef struct { floats part[CLASS_VECTORS]; } classes;

/* out += weights of the block, by its feature. */
INLINE void add_product(classes *out, const float *feature, const floats *weights) {
    out->part[0] = fma_(all(feature[0]), weights[0], out->part[0]);
}

/* weights of the block += features of the block, by the error. */
INLINE void add_outer_product(floats *weights, const float *feature, classes error) {
    weights[0] = fma_(all(feature[0]), error.part[0], weights[0]);
}

/* rate (e_label − softmax(logits)) */
INLINE classes step_of(classes logits, int label, float rate) {
    const __mmask16 real = (1 << CLASSES) - 1;
    const floats top = all(_mm512_mask_reduce_max_ps(real, logits.part[0]));
    floats share = _mm512_maskz_mov_ps(real, exponential(_mm512_sub_ps(logits.part[0], top)));
    share = mul(share, all(-rate / _mm512_reduce_add_ps(share)));
    return (classes){{_mm512_mask_add_ps(share, 1 << label, share, all(rate))}};
}

/* ---- how much of a kernel fits into 32 registers: vectors of paths, rows of a tile, examples, blocks of weights */
enum {
    TWO_SUMMANDS_VECTORS = 10, /* ten vectors hide the latency of the step; 512 bits serve three steps of them */
    TABLE_VECTORS = 4,
    GAUSSIAN_VECTORS = 4,
    TWO_POINT_VECTORS = 4,
    UNDERDAMPED_VECTORS = 4,
    STALE_VECTORS = 2,
    TILE = 10, /* 20 accumulators, 2 inputs, 10 broadcasts from memory */
    TOGETHER = 8,
    BLOCKS = 16,
};
