/* Euler–Maruyama with dense matrices in d dimensions: two vectors of paths a group, one matrix product a step.

       x ← [B  G] (x, z)                                      B = I − hA,  G = h S
       v ← [c I  −hA  G] (v, x, z),  x ← x + h v              the old v in x

   coefficients: h, then the matrix in tiles of TILE rows: tile by tile, column by column, the column's TILE numbers; rows
   beyond d are zero. */
#include "lanes.h"

enum { VECTORS = 2, PATHS = VECTORS * LANES };

INLINE void product_of_tile(const float *tile, int columns, const float *in, float *out, int rows) {
    floats sum[TILE][VECTORS];
    for (int i = 0; i < TILE; i++) sum[i][0] = sum[i][1] = all(0);
    for (int j = 0; j < columns; j++) {
        floats first = load(in + j * PATHS), second = load(in + j * PATHS + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < TILE; i++) {
            floats c = all(tile[j * TILE + i]);
            sum[i][0] = fma_(c, first, sum[i][0]);
            sum[i][1] = fma_(c, second, sum[i][1]);
        }
    }
    for (int i = 0; i < rows; i++) {
        store(out + i * PATHS, sum[i][0]);
        store(out + i * PATHS + LANES, sum[i][1]);
    }
}

INLINE void dense(const run *r, uint64_t stream, sums *at_save, const int underdamped) {
    const int d = r->dim, columns = underdamped ? 3 * d : 2 * d;
    const float h = r->coefficients[0], *matrix = r->coefficients + 1;
    normal_source source = normals_of(r->seed, stream);
    float *in = aligned_alloc(64, (size_t)columns * PATHS * sizeof(float));
    float *out = aligned_alloc(64, (size_t)d * PATHS * sizeof(float));
    float *x = underdamped ? in + d * PATHS : in, *z = in + (columns - d) * PATHS;
    memset(in, 0, (size_t)columns * PATHS * sizeof(float));
    for (int i = 0; i < d; i++)
        for (int path = 0; path < PATHS; path++) x[i * PATHS + path] = r->x0[i];
    for (int s = 0; s < r->saves; s++) {
        for (int k = 0; k < r->steps_per_save; k++) {
            for (int i = 0; i < d; i++) {
                const normal_pair pair = next_normals(&source);
                store(z + i * PATHS, pair.first);
                store(z + i * PATHS + LANES, pair.second);
            }
            for (int row = 0; row < d; row += TILE)
                product_of_tile(matrix + (size_t)row * columns, columns, in, out + row * PATHS,
                                d - row < TILE ? d - row : TILE);
            if (underdamped)
                for (int i = 0; i < d * PATHS; i += LANES)
                    store(x + i, fma_(all(h), load(in + i), load(x + i)));
            memcpy(in, out, (size_t)d * PATHS * sizeof(float));
        }
        floats x0[VECTORS] = {load(x), load(x + LANES)};
        floats x1[VECTORS] = {load(x + PATHS), load(x + PATHS + LANES)};
        accumulate(at_save + s, x0, x1, VECTORS);
    }
    free(in);
    free(out);
}

static void first_order(const run *r, uint64_t stream, sums *at_save) { dense(r, stream, at_save, 0); }
static void second_order(const run *r, uint64_t stream, sums *at_save) { dense(r, stream, at_save, 1); }

const int dense_gaussian_paths = PATHS, dense_underdamped_paths = PATHS, dense_tile = TILE;

void dense_gaussian(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, first_order, moments);
}

void dense_underdamped(const run *r, long first, long count, double *moments) {
    run_groups(r, first, count, second_order, moments);
}
