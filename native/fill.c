/* The inner loops. This file is compiled once for each instruction set, with VARIANT(name) as its suffix. */
#include "laws.h"
#if defined __AVX512F__
#include "normal_avx512.h"
#elif defined __AVX2__
#include "normal_avx2.h"
#endif

#define JOIN(a, b) a##b
#define JOINED(a, b) JOIN(a, b)
#define VARIANT(name) JOINED(name, ISA)

/* Stages of words first, then their numbers: two loops, both of which compilers vectorise. */
enum { STAGE = 16 };
#define FOR_EACH_WORD(number)                                                 \
    while (blocks) {                                                          \
        uint32_t words[STAGE * BLOCK];                                        \
        const size_t stage = blocks < STAGE ? blocks : STAGE;                 \
        for (size_t b = 0; b < stage; b++) take(from, words + b * BLOCK);     \
        for (size_t i = 0; i < stage * BLOCK; i++) {                          \
            const uint32_t word = words[i];                                   \
            out[i] = (number);                                                \
        }                                                                     \
        blocks -= stage;                                                      \
        out += stage * BLOCK;                                                 \
    }

#if !defined __AVX2__
INLINE void fill_normals(source *from, size_t blocks, uint32_t *out) { FOR_EACH_WORD(normal(word)) }
#endif

/* Numbers that one block of words makes. */
INLINE size_t numbers_of_block(enum kind kind) { return kind == TWO_POINT ? 32 * BLOCK : BLOCK; }

/* Whole blocks; a loop for each law. */
INLINE void fill(const law *l, source *from, size_t blocks, uint32_t *out) {
    const uint32_t n = l->n;
    const float largest = (float)l->n, inverse = l->inverse_log2_ratio;
    switch (l->kind) {
        case WORDS:
            for (size_t b = 0; b < blocks; b++) take(from, out + b * BLOCK);
            break;
        case NORMAL: fill_normals(from, blocks, out); break;
        case THREE_POINT: FOR_EACH_WORD(three_point(word)) break;
        case UNIFORM: FOR_EACH_WORD(as_bits(uniform(word))) break;
        case INDEX: FOR_EACH_WORD(below(n, word)) break;
        case GEOMETRIC: FOR_EACH_WORD(geometric(word, inverse, largest)) break;
        case TWO_POINT:
            for (size_t b = 0; b < blocks; b++) {
                uint32_t words[BLOCK];
                take(from, words);
                EACH(w, BLOCK) {
                    EACH(i, 32) out[i] = two_point(words[w], i);
                    out += 32;
                }
            }
            break;
        case KINDS: break;
    }
}

/* Numbers number `start` … of a stream, to where they belong among the rows. */
INLINE void scatter(const uint32_t *numbers, size_t start, size_t count, size_t width, size_t stride, uint32_t *out) {
    while (count) {
        size_t row = start / width, column = start % width;
        size_t piece = width - column < count ? width - column : count;
        memcpy(out + row * stride + column, numbers, piece * sizeof *out);
        numbers += piece, start += piece, count -= piece;
    }
}

void VARIANT(draw_)(const law *l, const stream *s, size_t count, size_t width, size_t stride, uint32_t *out) {
    enum { BUFFER = 4096 };
    const size_t unit = numbers_of_block(l->kind);
    source from = {seeded(s), NULL};
    size_t done = 0;
    if (width == stride) { /* rows without gaps */
        done = count / unit * unit;
        fill(l, &from, count / unit, out);
    }
    while (done < count) {
        uint32_t buffer[BUFFER];
        size_t left = count - done, piece = left < BUFFER ? left : BUFFER;
        fill(l, &from, (piece + unit - 1) / unit, buffer);
        scatter(buffer, done, piece, width, stride, out);
        done += piece;
    }
}

void VARIANT(convert_)(const law *l, const uint32_t *words, size_t blocks, uint32_t *out) {
    source from = {.array = words};
    fill(l, &from, blocks, out);
}
