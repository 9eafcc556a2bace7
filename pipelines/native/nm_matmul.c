/* Convolutions and matrix products over channels-last activations, from weights compressed to N:4 or whole ones.
 *
 * A lane is an output channel. In each group of four input channels a slot holds one kept weight for every lane, and
 * two bits a lane say which of the four channels it multiplies: the four are loaded once for all lanes and permuted
 * within registers, so that half the multiplications of the whole product are done, and nothing is gathered. A panel is
 * up to four blocks of 16 output channels, a tile up to four positions; the sums of a panel and a tile are registers.
 * Each is one chain of multiply-adds in the order of taps, groups and slots: it depends on no size of tile or panel,
 * but on whether the CPU fuses the two operations.
 */
#include "kernels.h"
#include "lanes.h"

#define POSITIONS 4 /* of a tile, at most */
#define BLOCKS 4     /* of a panel, at most */
#if defined(__AVX512F__)
#define AT_ONCE BLOCKS /* whose sums fit into the registers */
#else
#define AT_ONCE 1
#endif
#define UNROLL _Pragma("clang loop unroll(full)")

/* Strides and offsets count floats. One image's x is laid out with its padding around it. */
typedef struct {
    int64_t images, height, width;         /* of the output */
    int64_t x_image, x_row, x_column;      /* from one output position's first tap to the next one's */
    int64_t y_image, y_row, y_column;
    int64_t add_image, add_row, add_column;
    int64_t rows;                          /* output channels */
    int64_t taps, depth;                   /* each tap reads `depth` floats in a row: a multiple of 4 where compressed */
    int64_t slots;                         /* kept of each four, 1 to 3; 0 where the weights are whole */
} Shape;

typedef struct {
    const float *x[POSITIONS], *add[POSITIONS]; /* add: or null */
    float *y[POSITIONS];
    int64_t count;
    const float *bias;  /* of the panel */
    float low, high;
    int full; /* every block of the panel has 16 rows: outputs go straight to memory */
} Tile;

/* Out to memory: the outputs where the blocks are full, else [position][block][16] of sums for `finish`. */
INLINE void leave(const Tile *at, int64_t first, lanes total[BLOCKS][POSITIONS], float *sums, int from, const int blocks,
                  const int panel, const int positions)
{
    UNROLL for (int p = 0; p < positions; p++)
        UNROLL for (int b = 0; b < blocks; b++) {
            const int64_t row = (first + from + b) * LANES;
            if (!at->full) {
                store(sums + (p * panel + from + b) * LANES, total[b][p]);
                continue;
            }
            const lanes sum = at->add[p] ? add(total[b][p], load(at->add[p] + row)) : total[b][p];
            store(at->y[p] + row, clamp(sum, at->low, at->high));
        }
}

/* total[block][position] = bias + values[tap][group][slot][block][16] * the channel that control[..][block] picks. */
INLINE void compressed(const Shape *shape, const int64_t *offsets, const float *all_values, const uint32_t *all_control,
                       const Tile *at, int64_t first, float *sums, const int panel, const int positions,
                       const int slots)
{
    const int blocks = panel < AT_ONCE ? panel : AT_ONCE;
    for (int from = 0; from < panel; from += blocks) {
        const float *values = all_values + from * LANES;
        const uint32_t *control = all_control + from;
        lanes total[BLOCKS][POSITIONS];
        UNROLL for (int b = 0; b < blocks; b++)
            UNROLL for (int p = 0; p < positions; p++) total[b][p] = load(at->bias + (from + b) * LANES);
        for (int64_t tap = 0; tap < shape->taps; tap++)
            for (int64_t channel = offsets[tap], end = channel + shape->depth; channel < end; channel += 4) {
                quad four[POSITIONS];
                UNROLL for (int p = 0; p < positions; p++) four[p] = load_quad(at->x[p] + channel);
                UNROLL for (int s = 0; s < slots; s++)
                    UNROLL for (int b = 0; b < blocks; b++) {
                        const lanes w = load(values + (s * panel + b) * LANES);
                        const picks which = decode(control[s * panel + b]);
                        UNROLL for (int p = 0; p < positions; p++)
                            total[b][p] = multiply_add(w, pick(four[p], which), total[b][p]);
                    }
                values += slots * panel * LANES;
                control += slots * panel;
            }
        leave(at, first, total, sums, from, blocks, panel, positions);
    }
}

/* total[block][position] = bias + values[tap][depth][block][16] * x. */
INLINE void whole(const Shape *shape, const int64_t *offsets, const float *all_values, const Tile *at, int64_t first,
                  float *sums, const int panel, const int positions)
{
    const int blocks = panel < AT_ONCE ? panel : AT_ONCE;
    for (int from = 0; from < panel; from += blocks) {
        const float *values = all_values + from * LANES;
        lanes total[BLOCKS][POSITIONS];
        UNROLL for (int b = 0; b < blocks; b++)
            UNROLL for (int p = 0; p < positions; p++) total[b][p] = load(at->bias + (from + b) * LANES);
        for (int64_t tap = 0; tap < shape->taps; tap++)
            for (int64_t channel = offsets[tap], end = channel + shape->depth; channel < end; channel++) {
                lanes w[BLOCKS];
                UNROLL for (int b = 0; b < blocks; b++) w[b] = load(values + b * LANES);
                UNROLL for (int p = 0; p < positions; p++) {
                    const lanes one = splat(at->x[p][channel]);
                    UNROLL for (int b = 0; b < blocks; b++) total[b][p] = multiply_add(w[b], one, total[b][p]);
                }
                values += panel * LANES;
            }
        leave(at, first, total, sums, from, blocks, panel, positions);
    }
}

/* Outputs of a tile whose last block is not full. */
static void finish(const Tile *at, const float *sums, int64_t blocks, int64_t first, int64_t rows)
{
    for (int64_t p = 0; p < at->count; p++)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t row = (first + b) * LANES, count = rows - row;
            lanes sum = load(sums + (p * blocks + b) * LANES);
            if (at->add[p]) sum = add(sum, load_part(at->add[p] + row, count));
            store_part(at->y[p] + row, clamp(sum, at->low, at->high), count);
        }
}

/* The panel's products for one tile: code of its own for each kind and size, so that its sums are registers. */
#define SIZE(blocks, positions)                                                                                 \
    case positions:                                                                                             \
        switch (shape->slots) {                                                                                 \
        case 0: whole(shape, offsets, values, at, first, sums, blocks, positions); return;                      \
        case 1: compressed(shape, offsets, values, control, at, first, sums, blocks, positions, 1); return;     \
        case 2: compressed(shape, offsets, values, control, at, first, sums, blocks, positions, 2); return;     \
        default: compressed(shape, offsets, values, control, at, first, sums, blocks, positions, 3); return;    \
        }
#define PRODUCTS(blocks)                                                                                        \
    static void products_##blocks(const Shape *shape, const int64_t *offsets, const float *values,              \
                                  const uint32_t *control, const Tile *at, int64_t first, float *sums)          \
    {                                                                                                           \
        switch (at->count) {                                                                                    \
            SIZE(blocks, 1)                                                                                     \
            SIZE(blocks, 2)                                                                                     \
            SIZE(blocks, 3)                                                                                     \
            SIZE(blocks, 4)                                                                                     \
        }                                                                                                       \
    }

PRODUCTS(1)
PRODUCTS(2)
PRODUCTS(4)

/* y = clamp(W x + bias + addend, low, high) at every position; addend may be null, bias is rounded up to 16 rows.
 * values: panel after panel, [tap][group][slot][block][16], or [tap][depth][block][16] where whole;
 * control: the same without the last axis, two bits a lane. Panels have 4 blocks; the last ones 2, then 1.
 */
EXPORT void edgekiln_nm_conv(const int64_t *sizes, const int64_t *offsets, const float *x, const float *values,
                             const uint32_t *control, const float *bias, const float *addend, float low, float high,
                             float *y)
{
    float sums[POSITIONS * BLOCKS * LANES] __attribute__((aligned(64)));
    Shape shape;
    memcpy(&shape, sizes, sizeof shape);
    const int64_t vectors = shape.taps * (shape.slots ? shape.depth / 4 * shape.slots : shape.depth); /* in a block */
    const int64_t total = (shape.rows + LANES - 1) / LANES, positions = shape.height * shape.width;
    const int64_t tiles = (positions + POSITIONS - 1) / POSITIONS;
    for (int64_t first = 0, blocks; first < total; first += blocks) {
        blocks = total - first >= 4 ? 4 : total - first >= 2 ? 2 : 1;
        const float *panel = values + first * vectors * LANES;
        const uint32_t *picked = control + first * vectors;
        for (int64_t image = 0; image < shape.images; image++)
            for (int64_t n = 0; n < tiles; n++) {
                const int64_t begin = positions * n / tiles; /* tiles of equal size, or one less */
                int64_t row = begin / shape.width, column = begin % shape.width;
                Tile at = {.bias = bias + first * LANES, .low = low, .high = high};
                at.full = (first + blocks) * LANES <= shape.rows;
                at.count = positions * (n + 1) / tiles - begin;
                for (int64_t p = 0; p < at.count; p++) {
                    at.x[p] = x + image * shape.x_image + row * shape.x_row + column * shape.x_column;
                    at.y[p] = y + image * shape.y_image + row * shape.y_row + column * shape.y_column;
                    at.add[p] = 0;
                    if (addend)
                        at.add[p] = addend + image * shape.add_image + row * shape.add_row + column * shape.add_column;
                    if (++column == shape.width) {
                        column = 0;
                        row++;
                    }
                }
                switch (blocks) {
                case 1: products_1(&shape, offsets, panel, picked, &at, first, sums); break;
                case 2: products_2(&shape, offsets, panel, picked, &at, first, sums); break;
                default: products_4(&shape, offsets, panel, picked, &at, first, sums); break;
                }
                if (!at.full) finish(&at, sums, blocks, first, shape.rows);
            }
    }
}
