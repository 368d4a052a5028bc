/* AVX2 and FMA: eight paths to a vector, 16 registers, no masks. */

enum { LANES = 8 };

typedef __m256 floats;
typedef __m256i words;

INLINE floats all(float value) { return _mm256_set1_ps(value); }
INLINE floats load(const float *at) { return _mm256_load_ps(at); }
INLINE void store(float *at, floats a) { _mm256_store_ps(at, a); }
INLINE floats add(floats a, floats b) { return _mm256_add_ps(a, b); }
INLINE floats mul(floats a, floats b) { return _mm256_mul_ps(a, b); }
INLINE floats fma_(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }  /*  ab + c */
INLINE floats fms(floats a, floats b, floats c) { return _mm256_fmsub_ps(a, b, c); }   /*  ab − c */
INLINE floats fnma(floats a, floats b, floats c) { return _mm256_fnmadd_ps(a, b, c); } /* −ab + c */
INLINE floats as_floats(words a) { return _mm256_castsi256_ps(a); }
INLINE words as_words(floats a) { return _mm256_castps_si256(a); }

INLINE words load_words(const void *at) { return _mm256_loadu_si256(at); }
INLINE words all_words(int value) { return _mm256_set1_epi32(value); }
INLINE words add_words(words a, words b) { return _mm256_add_epi32(a, b); }
INLINE words sub_words(words a, words b) { return _mm256_sub_epi32(a, b); }
INLINE words mul_words(words a, words b) { return _mm256_mullo_epi32(a, b); }
INLINE words and_words(words a, words b) { return _mm256_and_si256(a, b); }
INLINE words or_words(words a, words b) { return _mm256_or_si256(a, b); }
INLINE words xor_words(words a, words b) { return _mm256_xor_si256(a, b); }
INLINE words smaller(words a, words b) { return _mm256_min_epi32(a, b); }
INLINE words halved(words a) { return _mm256_srli_epi32(a, 1); }
INLINE words truncated(floats a) { return _mm256_cvttps_epi32(a); }
INLINE floats converted(words a) { return _mm256_cvtepi32_ps(a); }

/* ---- random words */
typedef struct { words s0, s1, s2, s3; } generator;

INLINE generator seeded(uint64_t seed, uint64_t stream); /* in lanes.h */

INLINE words rotated(words a, int left) {
    return or_words(_mm256_slli_epi64(a, left), _mm256_srli_epi64(a, 64 - left));
}

/* The next 256 bits of xoshiro256++. */
INLINE words next_words(generator *g) {
    words result = _mm256_add_epi64(rotated(_mm256_add_epi64(g->s0, g->s3), 23), g->s0);
    words shifted = _mm256_slli_epi64(g->s1, 17);
    words s2 = xor_words(g->s2, g->s0), s3 = xor_words(g->s3, g->s1);
    g->s1 = xor_words(g->s1, s2);
    g->s0 = xor_words(g->s0, s3);
    g->s2 = xor_words(s2, shifted);
    g->s3 = rotated(s3, 45);
    return result;
}

/* ---- functions */

INLINE floats square_root(floats a) { return _mm256_sqrt_ps(a); }
INLINE floats reciprocal(floats a) { return _mm256_div_ps(all(1), a); }

/* −log(u / 2^31) for 0 < u <= 2^31, whatever the sign of u. The bits of u, as a number, are the exponent plus a line from one
   power of two to the next; a series in the mantissa is the rest. */
INLINE floats minus_log_scaled(floats u) {
    words bits = and_words(as_words(u), all_words(0x7fffffff));
    floats mantissa = as_floats(or_words(and_words(bits, all_words(0x007fffff)), all_words(0x3f800000)));
    floats line = converted(sub_words(bits, all_words(0x4f000000))), square = mul(mantissa, mantissa);
    floats p = fma_(all(MINUS_LOG_REST[5]), mantissa, all(MINUS_LOG_REST[4])); /* in pairs: the chain is short */
    p = fma_(p, square, fma_(all(MINUS_LOG_REST[3]), mantissa, all(MINUS_LOG_REST[2])));
    p = fma_(p, square, fma_(all(MINUS_LOG_REST[1]), mantissa, all(MINUS_LOG_REST[0])));
    return fnma(line, all(0.69314718f * 0x1p-23f), p);
}

/* log u for 0 < u <= 1 */
INLINE floats logarithm(floats u) { return mul(minus_log_scaled(mul(u, all(0x1p31f))), all(-1)); }

/* exp x for x <= 0, at least exp −87: a power of two and a series in the rest. */
INLINE floats exponential(floats x) {
    floats t = mul(_mm256_max_ps(x, all(-87)), all(1.44269504f));
    words whole = _mm256_cvtps_epi32(t);
    floats rest = _mm256_sub_ps(t, converted(whole)), p = all(EXP2_SERIES[6]);
#pragma GCC unroll 6
    for (int power = 5; power >= 0; power--) p = fma_(p, rest, all(EXP2_SERIES[power]));
    return as_floats(add_words(as_words(p), _mm256_slli_epi32(whole, 23)));
}

/* ---- normals: Box and Muller's pair from two words

   A radius √(−2 log u) of either sign, u = |word| / 2^31, and an angle in [−π/2, π/2); √2 stands in the series. Looking up
   the coefficients of the inverse distribution function takes longer: on Zen 3 2.5 ns a vector here, 3.2 ns with eight
   intervals in a register and rare tails apart, 5.6 ns by loads of rows, 11 ns by permutations, 18 ns by gathers. */
typedef struct { generator words; } normal_source;
typedef struct { floats first, second; } normal_pair;

INLINE normal_source normals_of(uint64_t seed, uint64_t stream) { return (normal_source){seeded(seed, stream)}; }

INLINE normal_pair next_normals(normal_source *n) {
    floats u = converted(or_words(next_words(&n->words), all_words(1)));
    words fraction = or_words(_mm256_srli_epi32(next_words(&n->words), 9), all_words(0x40000000));
    floats turn = add(as_floats(fraction), all(-3)); /* in [−1, 1) */
    floats radius = _mm256_sqrt_ps(_mm256_max_ps(minus_log_scaled(u), all(0)));
    radius = as_floats(or_words(as_words(radius), and_words(as_words(u), all_words(INT32_MIN))));
    floats t = mul(turn, turn), sine = all(SINE_SERIES[3]), cosine = all(COSINE_SERIES[3]);
#pragma GCC unroll 3
    for (int power = 2; power >= 0; power--) {
        sine = fma_(sine, t, all(SINE_SERIES[power]));
        cosine = fma_(cosine, t, all(COSINE_SERIES[power]));
    }
    return (normal_pair){mul(radius, cosine), mul(radius, mul(turn, sine))};
}

/* ---- coins: bit k of a word is the coin of step k, and a permutation within lanes of 128 bits chooses by the lowest two */
#define STEPS_A_TOSS(vectors, coins) (32 / (coins)) /* each vector tosses `coins` a step */

typedef struct { words vector[16]; } tossed;
typedef words coin;
typedef floats sides;

INLINE void toss(tossed *t, generator *g, int vectors) {
    for (int v = 0; v < vectors; v++) t->vector[v] = next_words(g);
}
INLINE words shifted_right(words a, int bits) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(bits)); }
INLINE coin shown(const tossed *t, int step, int v, int vectors) { return shifted_right(t->vector[v], step); }
INLINE coin lowest_bit(words word) { return word; }
INLINE floats four(float a, float b, float c, float d) { return _mm256_setr_ps(a, b, c, d, a, b, c, d); }
INLINE sides sides_of(float tails, float heads) { return four(tails, heads, tails, heads); }
INLINE floats side(sides of, coin c) { return _mm256_permutevar_ps(of, c); }

/* g0 z0 + g1 z1 for signs z0 and z1, two coins of vector v: one of four numbers. */
typedef floats two_point;

INLINE two_point two_point_of(float g0, float g1) { return four(g0 + g1, g1 - g0, g0 - g1, -g0 - g1); }
INLINE floats two_point_sum(two_point p, const tossed *t, int step, int v, int vectors) {
    return _mm256_permutevar_ps(p, shifted_right(t->vector[v], 2 * step));
}

/* ---- one of up to 128 summands: rows (a0, a1, b, 0), one load a path, transposed in registers; 2.5 times as fast as gathers */
enum { TABLE = 128 };

typedef struct {
    float row[TABLE][4] __attribute__((aligned(64)));
    floats scale;
} summand_table;
typedef struct { floats a0, a1, b; } summand;

INLINE void fill(summand_table *table, const float *rows, int n) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < 3; j++) table->row[i][j] = rows[j * n + i];
    table->scale = all(n * 0x1p-23f);
}

INLINE summand draw(const summand_table *table, words word) {
    /* 23 bits: n times the largest of them, rounded, stays below n */
    uint32_t index[LANES] __attribute__((aligned(32)));
    words drawn = truncated(mul(converted(_mm256_srli_epi32(word, 9)), table->scale));
    _mm256_store_si256((words *)index, drawn);
    floats row[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        row[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_load_ps(table->row[index[i]])),
                                      _mm_load_ps(table->row[index[i + 4]]), 1);
    floats low01 = _mm256_unpacklo_ps(row[0], row[1]), low23 = _mm256_unpacklo_ps(row[2], row[3]);
    floats high01 = _mm256_unpackhi_ps(row[0], row[1]), high23 = _mm256_unpackhi_ps(row[2], row[3]);
    return (summand){_mm256_shuffle_ps(low01, low23, 0x44), _mm256_shuffle_ps(low01, low23, 0xee),
                     _mm256_shuffle_ps(high01, high23, 0x44)};
}

/* ---- points (x, y) side by side, so that one 64-bit load brings both; lanes in the order that unpacking leaves */
INLINE words place_of_lane(void) { return _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7); }

INLINE void store_points(double *at, floats x, floats y) {
    store((float *)at, _mm256_unpacklo_ps(x, y));
    store((float *)(at + 4), _mm256_unpackhi_ps(x, y));
}

INLINE void gather_points(const double *from, words at, floats *x, floats *y) {
    uint32_t index[LANES] __attribute__((aligned(32)));
    _mm256_store_si256((words *)index, at);
    __m128d pair[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        pair[i] = _mm_loadh_pd(_mm_load_sd(from + index[2 * i]), from + index[2 * i + 1]);
    floats even = _mm256_castpd_ps(_mm256_set_m128d(pair[2], pair[0]));
    floats odd = _mm256_castpd_ps(_mm256_set_m128d(pair[3], pair[1]));
    *x = _mm256_shuffle_ps(even, odd, 0x88);
    *y = _mm256_shuffle_ps(even, odd, 0xdd);
}

/* ---- ten classes: the weights of four features are five vectors, eight classes of each and then the last two of all

   The sums of the last two stand in four pairs of lanes: those of the four features. */
enum { BLOCK = 4, BLOCK_VECTORS = 5, CLASS_VECTORS = 2 };

typedef struct { floats part[CLASS_VECTORS]; } classes;

INLINE floats in_pairs(const float *feature) {
    return _mm256_permutevar_ps(_mm256_broadcast_ps((const __m128 *)feature), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

/* out += weights of the block, by its features. */
INLINE void add_product(classes *out, const float *feature, const floats *weights) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) out->part[0] = fma_(all(feature[i]), weights[i], out->part[0]);
    out->part[1] = fma_(in_pairs(feature), weights[4], out->part[1]);
}

/* weights of the block += features of the block, by the error. */
INLINE void add_outer_product(floats *weights, const float *feature, classes error) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) weights[i] = fma_(all(feature[i]), error.part[0], weights[i]);
    weights[4] = fma_(in_pairs(feature), error.part[1], weights[4]);
}

INLINE floats halves_swapped(floats a) { return _mm256_permute2f128_ps(a, a, 1); }
INLINE floats pairs_swapped(floats a) { return _mm256_permute_ps(a, 0x4e); }
INLINE floats neighbours_swapped(floats a) { return _mm256_permute_ps(a, 0xb1); }

INLINE floats largest(floats a) {
    a = _mm256_max_ps(a, halves_swapped(a));
    a = _mm256_max_ps(a, pairs_swapped(a));
    return _mm256_max_ps(a, neighbours_swapped(a));
}

INLINE floats total(floats a) {
    a = add(a, halves_swapped(a));
    a = add(a, pairs_swapped(a));
    return add(a, neighbours_swapped(a));
}

/* rate (e_label − softmax(logits)) */
INLINE classes step_of(classes logits, int label, float rate) {
    floats first = logits.part[0], last = add(logits.part[1], halves_swapped(logits.part[1]));
    last = add(last, pairs_swapped(last)); /* four times the last two */
    const floats top = largest(_mm256_max_ps(first, last));
    first = exponential(_mm256_sub_ps(first, top));
    last = exponential(_mm256_sub_ps(last, top));
    const floats share = _mm256_div_ps(all(rate), total(fma_(last, all(0.25f), first)));
    const words is_first = _mm256_cmpeq_epi32(all_words(label), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const words is_last = _mm256_cmpeq_epi32(all_words(label), _mm256_setr_epi32(8, 9, 8, 9, 8, 9, 8, 9));
    return (classes){{fnma(first, share, as_floats(and_words(is_first, as_words(all(rate))))),
                      fnma(last, share, as_floats(and_words(is_last, as_words(all(rate)))))}};
}

/* ---- how much of a kernel fits into 16 registers: vectors of paths, rows of a tile, examples, blocks of weights */
enum {
    TWO_SUMMANDS_VECTORS = 8, /* the latency of the step costs more than eight states in memory */
    TABLE_VECTORS = 2,
    GAUSSIAN_VECTORS = 1, /* a second one has no registers left: the processor overlaps steps by itself */
    TWO_POINT_VECTORS = 3, /* state and coefficients just fit */
    UNDERDAMPED_VECTORS = 1,
    STALE_VECTORS = 1,
    TILE = 5, /* 10 accumulators, 2 inputs, a broadcast; divides 20 and 100 */
    TOGETHER = 4,
    BLOCKS = 2,
};
