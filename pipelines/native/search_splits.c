/* Channel search: every split of a window of stripes. */
#include "search.h"

static const int8_t PAIRS[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};

/* Of four columns: the larger and the sum of each pair; without each column, the largest and the two largest. */
typedef struct {
    rows_t larger[6], both[6], top[4], two[4];
} parts_t;

static inline parts_t parts_of(const rows_t v[4])
{
    parts_t p;
    UNROLL for (int k = 0; k < 6; k++)
    {
        p.larger[k] = LARGER(v[PAIRS[k][0]], v[PAIRS[k][1]]);
        p.both[k] = v[PAIRS[k][0]] + v[PAIRS[k][1]];
    }
    p.top[0] = LARGER(p.larger[3], v[3]), p.two[0] = LARGER(p.both[3], p.larger[3] + v[3]);
    p.top[1] = LARGER(p.larger[1], v[3]), p.two[1] = LARGER(p.both[1], p.larger[1] + v[3]);
    p.top[2] = LARGER(p.larger[0], v[3]), p.two[2] = LARGER(p.both[0], p.larger[0] + v[3]);
    p.top[3] = LARGER(p.larger[0], v[2]), p.two[3] = LARGER(p.both[0], p.larger[0] + v[2]);
    return p;
}

/* Two of four, two stripes: what each of 34 splits keeps, the present one not among them. First the 16 swaps of a's i
 * with b's j; then a's pair i (0 to 2) with b's pair j, and the other pairs together: 5 - k is the pair beside k. */
static void split_pair(const problem_t *p, const int32_t *a, const int32_t *b, int64_t kept[34])
{
    rows_t sums[34] = {{0}};
    for (int64_t k = 0; k < p->blocks; k++) {
        rows_t va[4], vb[4];
        UNROLL for (int i = 0; i < 4; i++) va[i] = column(p, a[i])[k], vb[i] = column(p, b[i])[k];
        const parts_t x = parts_of(va), y = parts_of(vb);
        UNROLL for (int i = 0; i < 4; i++)
            UNROLL for (int j = 0; j < 4; j++)
                sums[4 * i + j] += LARGER(x.two[i], x.top[i] + vb[j]) + LARGER(y.two[j], y.top[j] + va[i]);
        UNROLL for (int i = 0; i < 3; i++)
            UNROLL for (int j = 0; j < 6; j++)
            {
                rows_t one = LARGER(x.both[i], y.both[j]), other = LARGER(x.both[5 - i], y.both[5 - j]);
                sums[16 + 6 * i + j] += LARGER(one, x.larger[i] + y.larger[j]) +
                                        LARGER(other, x.larger[5 - i] + y.larger[5 - j]);
            }
    }
    UNROLL for (int s = 0; s < 34; s++) kept[s] = total(sums[s]);
}

#define WIDEST 12                             /* columns of a window */
#define MOST_PAIRS (WIDEST * (WIDEST - 1) / 2)
#define MOST_SUBSETS 495                      /* fours of twelve */

/* Any window: kept[subset] of each subset of m columns; n is 1, or 2 of 4. */
static void score_subsets(const problem_t *p, const int32_t *window, int32_t width, const int8_t *subsets,
                          int32_t count, int64_t *kept)
{
    rows_t sums[MOST_SUBSETS];
    memset(sums, 0, (size_t)count * sizeof *sums);
    for (int64_t b = 0; b < p->blocks; b++) {
        rows_t v[WIDEST], larger[WIDEST][WIDEST], both[WIDEST][WIDEST];
        for (int32_t i = 0; i < width; i++) v[i] = column(p, window[i])[b];
        if (p->n == 1) {
            for (int32_t s = 0; s < count; s++) {
                const int8_t *at = subsets + s * p->m;
                rows_t top = v[at[0]];
                for (int32_t i = 1; i < p->m; i++) top = LARGER(top, v[at[i]]);
                sums[s] += top;
            }
            continue;
        }
        for (int32_t i = 0; i < width; i++)
            for (int32_t j = i + 1; j < width; j++) larger[i][j] = LARGER(v[i], v[j]), both[i][j] = v[i] + v[j];
        for (int32_t s = 0; s < count; s++) {
            const int8_t *at = subsets + s * 4;
            rows_t each = larger[at[0]][at[1]] + larger[at[2]][at[3]];
            sums[s] += LARGER(each, LARGER(both[at[0]][at[1]], both[at[2]][at[3]]));
        }
    }
    for (int32_t s = 0; s < count; s++) kept[s] = total(sums[s]);
}

/* The first best of `pair_ways` (which way each split of `split_pair` is), 0 being the present one. */
static int64_t best_of_pair(const problem_t *p, const int32_t *window, const int32_t *pair_ways, int32_t *best)
{
    rows_t now = {0};
    for (int32_t s = 0; s < 8; s += 4)
        for (int64_t k = 0; k < p->blocks; k++) {
            rows_t a = column(p, window[s])[k], b = column(p, window[s + 1])[k];
            rows_t c = column(p, window[s + 2])[k], d = column(p, window[s + 3])[k];
            now += LARGER(LARGER(a, b) + LARGER(c, d), LARGER(a + b, c + d));
        }
    int64_t kept[34], present = total(now), top = present;
    split_pair(p, window, window + 4, kept);
    *best = 0;
    for (int s = 0; s < 34; s++)
        if (kept[s] > top || (kept[s] == top && pair_ways[s] < *best)) top = kept[s], *best = pair_ways[s];
    return top - present;
}

/* For each of `count` groups of `size` stripes the first best of `ways` [splits][size], which name subsets
 * [n_subsets][m] of the window's columns, the present split first: best[group] and its gain over the present one.
 * `pair_ways` is null where split_pair does not apply. 1 where a bound above is passed, else 0. */
EXPORT int32_t edgekiln_best_splits(const int32_t *columns, int64_t blocks, int32_t n, int32_t m, const int32_t *order,
                                    const int32_t *groups, int64_t count, int32_t size, const int8_t *subsets,
                                    int32_t n_subsets, const int32_t *ways, int32_t splits, const int32_t *pair_ways,
                                    int64_t *gains, int32_t *best)
{
    const problem_t p = {(const rows_t *)columns, blocks, n, m, 0, 0};
    if (size * m > WIDEST || n_subsets > MOST_SUBSETS || n > 2 || (n == 2 && m != 4)) return 1;
    for (int64_t g = 0; g < count; g++) {
        int32_t window[WIDEST];
        for (int32_t s = 0; s < size; s++)
            memcpy(window + s * m, order + groups[g * size + s] * m, (size_t)m * sizeof *order);
        if (pair_ways) {
            gains[g] = best_of_pair(&p, window, pair_ways, best + g);
            continue;
        }
        int64_t kept[MOST_SUBSETS], present = 0, top = 0;
        score_subsets(&p, window, size * m, subsets, n_subsets, kept);
        for (int32_t w = 0; w < splits; w++) {
            int64_t sum = 0;
            for (int32_t s = 0; s < size; s++) sum += kept[ways[w * size + s]];
            if (w == 0) present = top = sum, best[g] = 0;
            if (sum > top) top = sum, best[g] = w;
        }
        gains[g] = top - present;
    }
    return 0;
}
