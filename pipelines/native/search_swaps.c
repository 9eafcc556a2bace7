/* Channel search: swaps of one channel each of two stripes, and annealing over them. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#include "search.h"

#include <stdlib.h>
#include <time.h>

#define TILE 4 /* channels of each stripe that an annealing step looks at */

/* v[i]'s total in lane i. */
static inline rows_t totals(const rows_t v[LANES])
{
    rows_t left[LANES];
    memcpy(left, v, sizeof left);
    UNROLL for (int count = LANES; count > 1; count /= 2)
        UNROLL for (int i = 0; i < count / 2; i++)
        {
            rows_t a = left[2 * i], b = left[2 * i + 1];
            left[i] = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
                      __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        }
    return left[0];
}

typedef struct {
    rows_t *rivals; /* [places][blocks] */
    int64_t *held;  /* [places] */
} holders_t;

static int make_holders(const problem_t *p, holders_t *h)
{
    h->rivals = aligned_alloc(sizeof(rows_t), (size_t)p->places * (size_t)p->blocks * sizeof(rows_t));
    h->held = malloc((size_t)p->places * sizeof *h->held);
    if (h->rivals && h->held) return 1;
    free(h->rivals);
    free(h->held);
    return 0;
}

static void free_holders(holders_t *h)
{
    free(h->rivals);
    free(h->held);
}

/* Sets what belongs to the stripe that begins at place `begin`. */
static void hold(const problem_t *p, const int32_t *order, int32_t begin, holders_t *h)
{
    const int32_t n = p->n, m = p->m;
    int64_t *held = h->held + begin;
    rows_t *rivals = h->rivals + begin * p->blocks;
    memset(held, 0, (size_t)m * sizeof *held);
    for (int64_t b = 0; b < p->blocks; b++) {
        rows_t top[n + 1]; /* the n + 1 largest, falling */
        for (int32_t k = 0; k <= n; k++) top[k] = (rows_t){0} + INT32_MIN;
        for (int32_t i = 0; i < m; i++) {
            rows_t v = column(p, order[begin + i])[b];
            for (int32_t k = 0; k <= n; k++) {
                rows_t next = SMALLER(top[k], v);
                top[k] = LARGER(top[k], v);
                v = next;
            }
        }
        for (int32_t i = 0; i < m; i++) {
            rows_t v = column(p, order[begin + i])[b], kept = v >= top[n - 1];
            rivals[i * p->blocks + b] = (top[n] & kept) | (top[n - 1] & ~kept);
            held[i] += total(LARGER(v, top[n - 1]));
        }
    }
}

/* gains[4 * i + j] of swapping places[i] of one stripe with others[j] of another; places may repeat. */
static void tile_gains(const problem_t *p, const int32_t *order, const holders_t *h, const int32_t places[TILE],
                       const int32_t others[TILE], int64_t gains[TILE * TILE])
{
    const rows_t *a[TILE], *b[TILE], *ra[TILE], *rb[TILE];
    rows_t taken[TILE * TILE] = {{0}};
    for (int i = 0; i < TILE; i++) {
        a[i] = column(p, order[places[i]]), ra[i] = h->rivals + places[i] * p->blocks;
        b[i] = column(p, order[others[i]]), rb[i] = h->rivals + others[i] * p->blocks;
    }
    for (int64_t k = 0; k < p->blocks; k++) {
        UNROLL for (int i = 0; i < TILE; i++)
            UNROLL for (int j = 0; j < TILE; j++)
                taken[TILE * i + j] += LARGER(a[i][k], rb[j][k]) + LARGER(b[j][k], ra[i][k]);
    }
    const rows_t kept = totals(taken);
    UNROLL for (int k = 0; k < TILE * TILE; k++)
        gains[k] = (int64_t)kept[k] - h->held[places[k / TILE]] - h->held[others[k % TILE]];
}

static inline int32_t least_of(int32_t a, int32_t b) { return a < b ? a : b; }

/* The channels of the tile that begins at a place: up to TILE, of its stripe, no filling. The last repeats. */
static inline int32_t make_tile(const problem_t *p, int32_t begin, int32_t at[TILE])
{
    int32_t count = least_of(TILE, least_of(p->channels, (begin / p->m + 1) * p->m) - begin);
    for (int32_t i = 0; i < TILE; i++) at[i] = begin + least_of(i, count - 1);
    return count;
}

/* gains [count * m][places] of swapping each place of `stripes` with every place; 0 in its own stripe and with filling.
 * 1 where memory is short, else 0. */
EXPORT int32_t edgekiln_swap_gains(const int32_t *columns, int64_t blocks, int32_t n, int32_t m, int32_t places,
                                   int32_t channels, const int32_t *order, const int32_t *stripes, int64_t count,
                                   int64_t *gains)
{
    const problem_t p = {(const rows_t *)columns, blocks, n, m, places, channels};
    holders_t h;
    if (!make_holders(&p, &h)) return 1;
    for (int32_t begin = 0; begin < places; begin += m) hold(&p, order, begin, &h);
    memset(gains, 0, (size_t)(count * m) * (size_t)places * sizeof *gains);
    for (int64_t s = 0; s < count; s++)
        for (int32_t i = 0; i < m && stripes[s] * m + i < channels; i += TILE)
            for (int32_t begin = 0; begin < channels; begin += m)
                for (int32_t j = begin; begin != stripes[s] * m && j < least_of(begin + m, channels); j += TILE) {
                    int32_t own[TILE], other[TILE];
                    int32_t wide = make_tile(&p, stripes[s] * m + i, own), high = make_tile(&p, j, other);
                    int64_t made[TILE * TILE];
                    tile_gains(&p, order, &h, own, other, made);
                    for (int32_t x = 0; x < wide; x++)
                        memcpy(gains + (s * m + i + x) * places + j, made + TILE * x, (size_t)high * sizeof *gains);
                }
    free_holders(&h);
    return 0;
}

/* ---- annealing ---- */

/* Below `bound`; splitmix64 (Steele, Lea, Flood 2014). */
static inline int32_t below(uint64_t *state, int32_t bound)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (int32_t)(((z ^ (z >> 31)) >> 32) * (uint64_t)bound >> 32);
}

/* A tile of a stripe: all its channels, or TILE neighbours drawn among more. */
static inline void draw_tile(const problem_t *p, int32_t stripe, uint64_t *state, int32_t at[TILE])
{
    int32_t begin = stripe * p->m, real = least_of(p->m, p->channels - begin);
    if (real > TILE) begin += below(state, real - TILE + 1);
    make_tile(p, begin, at);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* `anneal` in search_reference.py: `each` steps at every one of `n_temperatures`; `waits` [4096] have 16 bits of
 * fraction. Changes `order`; `best` [places] is the best order seen and *gain what it keeps beyond the first. Returns
 * the steps made, fewer than asked where the clock passes deadline_s (0: none); -1 where memory is short. */
EXPORT int64_t edgekiln_anneal(const int32_t *columns, int64_t blocks, int32_t n, int32_t m, int32_t places,
                               int32_t channels, int32_t *order, int32_t *best, int64_t *gain, uint64_t seed,
                               const int64_t *temperatures, int64_t n_temperatures, int64_t each, const int32_t *waits,
                               double deadline_s)
{
    const problem_t p = {(const rows_t *)columns, blocks, n, m, places, channels};
    const int32_t stripes = places / m;
    const int64_t per_look = 1 + 4096 / blocks; /* steps between two looks at the clock: some tens of microseconds */
    int64_t made = 0, score = 0;
    holders_t h;
    if (!make_holders(&p, &h)) return -1;
    for (int32_t begin = 0; begin < places; begin += m) hold(&p, order, begin, &h);
    memcpy(best, order, (size_t)places * sizeof *order);
    *gain = 0;
    for (; made < n_temperatures * each; made++) {
        if (deadline_s > 0 && made % per_look == 0 && now_s() >= deadline_s) break;
        int32_t s = below(&seed, stripes), t = below(&seed, stripes - 1), own[TILE], other[TILE];
        int64_t gains[TILE * TILE];
        t += t >= s;
        draw_tile(&p, s, &seed, own);
        draw_tile(&p, t, &seed, other);
        int32_t drawn = below(&seed, 1 << 16);
        int64_t least = -(temperatures[made / each] * waits[drawn >> 4] >> 16);
        tile_gains(&p, order, &h, own, other, gains);
        for (int k = 0; k < TILE * TILE; k++) {
            int at = (drawn + k) % (TILE * TILE);
            if (gains[at] < least) continue;
            int32_t i = own[at / TILE], j = other[at % TILE], moved = order[i];
            order[i] = order[j];
            order[j] = moved;
            score += gains[at];
            hold(&p, order, s * m, &h);
            hold(&p, order, t * m, &h);
            break;
        }
        if (score > *gain) {
            *gain = score;
            memcpy(best, order, (size_t)places * sizeof *order);
        }
    }
    free_holders(&h);
    return made;
}
