/* What the world sees: the handler that XLA calls, and what Python asks before it registers it.

   One call fills an array (steps, rows, paths) for the steps step, step + 1, … and the tiles tile, tile + 1, … of
   tile_size paths each. The operands are seed (2 words), step, tile, and the parameter of "geometric". */
#include <stdbool.h>
#include <string.h>
#include "noise.h"
#include "xla/c_api.h"

#if defined _WIN32
#define VISIBLE __declspec(dllexport)
#else
#define VISIBLE __attribute__((visibility("default")))
#endif

static draw_function *const draws[INSTRUCTION_SETS] = {
    [PORTABLE] = draw_portable,
#ifdef FOR_X86
    [AVX2] = draw_avx2,
    [AVX512] = draw_avx512,
#endif
};
static sums_function *const sums[INSTRUCTION_SETS] = {
    [PORTABLE] = sums_portable,
#ifdef FOR_X86
    [AVX2] = sums_avx2,
    [AVX512] = sums_avx512,
#endif
};
static convert_function *const conversions[INSTRUCTION_SETS] = {
    [PORTABLE] = convert_portable,
#ifdef FOR_X86
    [AVX2] = convert_avx2,
    [AVX512] = convert_avx512,
#endif
};

VISIBLE int itograd_noise_interface(void) { return INTERFACE; }

/* Whether this processor and this build have the instruction set. */
VISIBLE int itograd_noise_supports(int set) {
#ifdef FOR_X86
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (set == AVX2) return avx2;
    if (set == AVX512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return set == PORTABLE;
}

/* 1 / log2 q for 0 < q < 1, by log q = 2 artanh((m − 1) / (m + 1)) + e log 2. No library function, whose last bit may
   differ from machine to machine. Other q give a value with which every draw is 0 (q = 0) or the largest. */
static float inverse_log2(float q) {
    if (!(q > 0)) return q == 0 ? -0.0f : -1e30f;
    if (q >= 1) return -1e30f;
    double m = q, exponent = 0;
    while (m < 0.70710678118654752) m *= 2, exponent -= 1;
    double y = (m - 1) / (m + 1), power = y, sum = 0;
    for (int odd = 1; odd < 30; odd += 2, power *= y * y) sum += power / odd;
    return (float)(0.69314718055994531 / (2 * sum + exponent * 0.69314718055994531));
}

static law law_of(int kind, uint32_t n, float ratio) {
    return (law){kind, n, kind == GEOMETRIC ? inverse_log2(ratio) : 0};
}

/* The numbers of `blocks` blocks of 16 words each. */
VISIBLE void itograd_noise_convert(int set, int kind, uint32_t n, float ratio, const uint32_t *words, size_t blocks,
                                   uint32_t *out) {
    law l = law_of(kind, n, ratio);
    conversions[set](&l, words, blocks, out);
}

static XLA_FFI_Error *failure(const XLA_FFI_CallFrame *frame, const char *message) {
    XLA_FFI_Error_Create_Args arguments = {
        .struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE,
        .message = message,
        .errc = XLA_FFI_Error_Code_INVALID_ARGUMENT,
    };
    return frame->api->XLA_FFI_Error_Create(&arguments);
}

/* XLA asks which version of its interface a handler was built for. What is used here is the same since 0.1, so the answer
   is the runtime's own version where that is older than the header; runtimes that did not yet say theirs have 0.1. */
static bool answered_query(const XLA_FFI_CallFrame *frame) {
    const XLA_FFI_Extension_Base *extension = frame->extension_start;
    if (!extension || extension->type != XLA_FFI_Extension_Metadata) return false;
    int runtime = frame->api ? frame->api->api_version.minor_version : 1;
    XLA_FFI_Api_Version *version = &((const XLA_FFI_Metadata_Extension *)extension)->metadata->api_version;
    version->major_version = XLA_FFI_API_MAJOR;
    version->minor_version = runtime < XLA_FFI_API_MINOR ? runtime : XLA_FFI_API_MINOR;
    return true;
}

/* A scalar attribute of four or eight bytes; whether it was there. */
static bool read_attribute(const XLA_FFI_Attrs *attributes, const char *name, void *value, size_t size) {
    for (int64_t i = 0; i < attributes->size; i++) {
        const XLA_FFI_ByteSpan *span = attributes->names[i];
        if (span->len != strlen(name) || memcmp(span->ptr, name, span->len)) continue;
        if (attributes->types[i] != XLA_FFI_AttrType_SCALAR) return false;
        memcpy(value, ((const XLA_FFI_Scalar *)attributes->attrs[i])->value, size);
        return true;
    }
    return false;
}

VISIBLE XLA_FFI_Error *itograd_noise(XLA_FFI_CallFrame *frame) {
    if (answered_query(frame)) return NULL;
    if (frame->args.size != 4 || frame->rets.size != 1) return failure(frame, "itograd_noise: 4 operands, 1 result");
    const XLA_FFI_Buffer *operands[4];
    for (int i = 0; i < 4; i++) operands[i] = frame->args.args[i];
    const XLA_FFI_Buffer *result = frame->rets.rets[0];
    int32_t set, kind;
    uint32_t lane, n;
    int64_t tile_size;
    const XLA_FFI_Attrs *attributes = &frame->attrs;
    if (!read_attribute(attributes, "instruction_set", &set, sizeof set) ||
        !read_attribute(attributes, "kind", &kind, sizeof kind) || !read_attribute(attributes, "lane", &lane, sizeof lane) ||
        !read_attribute(attributes, "n", &n, sizeof n) ||
        !read_attribute(attributes, "tile_size", &tile_size, sizeof tile_size))
        return failure(frame, "itograd_noise: an attribute is missing");
    if (set < 0 || set >= INSTRUCTION_SETS || !draws[set] || kind < 0 || kind >= KINDS || result->rank != 3 ||
        tile_size <= 0 || result->dims[2] % tile_size)
        return failure(frame, "itograd_noise: an attribute or a shape is out of range");

    const uint32_t *seed = operands[0]->data, *tile = operands[1]->data, *step = operands[2]->data;
    const law l = law_of(kind, n, *(const float *)operands[3]->data);
    const int64_t steps = result->dims[0], rows = result->dims[1], paths = result->dims[2];
    uint32_t *out = result->data;
    for (int64_t i = 0; i < steps; i++) {
        for (int64_t j = 0; j < paths / tile_size; j++) {
            const stream s = {{seed[0], seed[1]}, *tile + (uint32_t)j, *step + (uint32_t)i, lane};
            draws[set](&l, &s, rows * tile_size, tile_size, paths, out + i * rows * paths + j * tile_size);
        }
    }
    return NULL;
}

/* Values (observables, paths) and who is alive (paths): who still is, and the sums as pairs of words, for runtimes that
   are not to know of doubles. */
VISIBLE XLA_FFI_Error *itograd_sums(XLA_FFI_CallFrame *frame) {
    if (answered_query(frame)) return NULL;
    if (frame->args.size != 2 || frame->rets.size != 2) return failure(frame, "itograd_sums: 2 operands, 2 results");
    const XLA_FFI_Buffer *values = frame->args.args[0], *alive = frame->args.args[1];
    int32_t set;
    if (!read_attribute(&frame->attrs, "instruction_set", &set, sizeof set) || set < 0 || set >= INSTRUCTION_SETS ||
        !sums[set] || values->rank != 2)
        return failure(frame, "itograd_sums: an attribute or a shape is out of range");
    int8_t *still = ((const XLA_FFI_Buffer *)frame->rets.rets[0])->data;
    memcpy(still, alive->data, values->dims[1]);
    sums[set](values->data, values->dims[0], values->dims[1], values->dtype == XLA_FFI_DataType_F64, still,
              ((const XLA_FFI_Buffer *)frame->rets.rets[1])->data);
    return NULL;
}
