/* Sums of powers of observables over the paths of a tile, in one fixed order. */
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include "noise.h"

enum { BLOCK = 512, SAMPLE = 16 };

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define VARIANT(name) PASTE(name, ISA)

static double total(const double *lanes) {
    double x[16];
    memcpy(x, lanes, sizeof x);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

#define REAL float
#define TYPED(name) name##_float
#include "sums_loops.h"

#define REAL double
#define TYPED(name) name##_double
#include "sums_loops.h"

void VARIANT(sums_)(const void *values, size_t observables, size_t paths, int is_double, int8_t *alive, double *out) {
    if (is_double)
        sums_double(values, observables, paths, alive, out);
    else
        sums_float(values, observables, paths, alive, out);
}
