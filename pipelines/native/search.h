/* What the kernels of the channel search share. Their forms in NumPy, which say what each gives, are in
 * sparsity/search_reference.py.
 *
 * Columns are whole numbers, and their bounds (sparsity/search_problem.py) keep every sum below within int32, so that
 * results are the same bit for bit in any order of summing: on every level, machine and thread.
 */
#ifndef EDGEKILN_SEARCH_H
#define EDGEKILN_SEARCH_H

#include "kernels.h"

#include <string.h>

#define LANES 16 /* rows taken at once */
#define UNROLL _Pragma("clang loop unroll(full)")

#pragma GCC diagnostic ignored "-Wpsabi" /* no vector is passed to a function of another file */

typedef int32_t rows_t __attribute__((vector_size(4 * LANES)));

#define LARGER(a, b) __builtin_elementwise_max(a, b)
#define SMALLER(a, b) __builtin_elementwise_min(a, b)

static inline int32_t total(rows_t v)
{
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

typedef struct {
    const rows_t *columns; /* [places][blocks] */
    int64_t blocks;
    int32_t n, m, places, channels;
} problem_t;

static inline const rows_t *column(const problem_t *p, int32_t at) { return p->columns + at * p->blocks; }

#endif
