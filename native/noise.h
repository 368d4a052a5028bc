/* The compiled noise: random numbers as values of (seed, tile, step, lane, position), for arrays of many paths. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* INTERFACE in compiled.py: raised by every change after which an older library would draw other numbers, or fail. */
enum { INTERFACE = 2 };

/* In the order of KINDS in compiled.py. */
enum kind { WORDS, NORMAL, TWO_POINT, THREE_POINT, UNIFORM, INDEX, GEOMETRIC, KINDS };

/* In the order of INSTRUCTION_SETS in compiled.py. */
enum instruction_set { PORTABLE, AVX2, AVX512, INSTRUCTION_SETS };

/* What a law is, beside its kind. `inverse_log2_ratio` belongs to "geometric": 1 / log2 of its parameter. */
typedef struct {
    enum kind kind;
    uint32_t n; /* "index": how many; "geometric": the largest value */
    float inverse_log2_ratio;
} law;

/* Which words: a stream has its own generator. */
typedef struct {
    uint32_t seed[2], tile, step, lane;
} stream;

/* The first `count` numbers of a stream go to the rows of an array: `width` to a row, rows `stride` numbers apart. */
typedef void draw_function(const law *l, const stream *s, size_t count, size_t width, size_t stride, uint32_t *out);

/* The numbers that given words stand for, in blocks of 16 words, for tests of every word. */
typedef void convert_function(const law *l, const uint32_t *words, size_t blocks, uint32_t *out);

draw_function draw_portable, draw_avx2, draw_avx512;
convert_function convert_portable, convert_avx2, convert_avx512;

/* The results of `sums` for one observable: count, shift, unit, and the sums of the powers 1 to 4 of (value − shift)/unit. */
enum { SUMS = 7 };

/* Which paths stay alive (0 or 1), for all observables at once, and SUMS numbers for each of them, from values
   (observables, paths) in float or double. */
typedef void sums_function(const void *values, size_t observables, size_t paths, int is_double, int8_t *alive,
                           double *out);

sums_function sums_portable, sums_avx2, sums_avx512;
