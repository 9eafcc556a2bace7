/* Depthwise convolution and max pool over channels-last activations: a lane is a channel, each has its own window. */
#include "kernels.h"
#include "lanes.h"

#define POSITIONS 8 /* whose sums are registers, at most */

/* Strides and offsets count floats. One image's x is laid out with its padding around it. */
typedef struct {
    int64_t images, height, width; /* of the output */
    int64_t x_image, x_row, x_column;
    int64_t y_image, y_row, y_column;
    int64_t channels, taps;
} Shape;

typedef enum { PRODUCTS, LARGEST } Kind;

/* One block of channels at some positions in a row, over all taps. */
INLINE void window(const Shape *shape, const int64_t *offsets, const float *x, const float *values, lanes first,
                   float low, float high, float *y, int64_t count, const int positions, const Kind kind)
{
    lanes sums[POSITIONS];
    for (int p = 0; p < positions; p++) sums[p] = first;
    for (int64_t tap = 0; tap < shape->taps; tap++) {
        const float *at = x + offsets[tap];
        const lanes w = kind == PRODUCTS ? load_part(values + tap * shape->channels, count) : first;
        for (int p = 0; p < positions; p++) {
            const lanes one = load_part(at + p * shape->x_column, count);
            sums[p] = kind == PRODUCTS ? multiply_add(w, one, sums[p]) : larger(sums[p], one);
        }
    }
    for (int p = 0; p < positions; p++) store_part(y + p * shape->y_column, clamp(sums[p], low, high), count);
}

#define CASE(positions) \
    case positions: window(shape, offsets, from, values, first, low, high, to, count, positions, kind); break;

INLINE void row_of(const Shape *shape, const int64_t *offsets, const float *from, const float *values, lanes first,
                   float low, float high, float *to, int64_t count, const Kind kind)
{
    for (int64_t column = 0, some; column < shape->width; column += some) {
        some = shape->width - column < POSITIONS ? shape->width - column : POSITIONS;
        switch (some) {
            CASE(1)
            CASE(2)
            CASE(3)
            CASE(4)
            CASE(5)
            CASE(6)
            CASE(7)
            CASE(8)
        }
        from += some * shape->x_column;
        to += some * shape->y_column;
    }
}

INLINE void slide(const Shape *shape, const int64_t *offsets, const float *x, const float *values, const float *bias,
                  float low, float high, float *y, const Kind kind)
{
    for (int64_t image = 0; image < shape->images; image++)
        for (int64_t row = 0; row < shape->height; row++)
            for (int64_t channel = 0; channel < shape->channels; channel += LANES) {
                const int64_t count = shape->channels - channel;
                const lanes first = kind == PRODUCTS ? load_part(bias + channel, count) : splat(-__builtin_inff());
                const float *from = x + image * shape->x_image + row * shape->x_row + channel;
                float *to = y + image * shape->y_image + row * shape->y_row + channel;
                if (count >= LANES)
                    row_of(shape, offsets, from, values + channel, first, low, high, to, LANES, kind);
                else
                    row_of(shape, offsets, from, values + channel, first, low, high, to, count, kind);
            }
}

/* y = clamp(sum over taps of values[tap][channel] * x + bias[channel], low, high). */
EXPORT void edgekiln_depthwise(const int64_t *sizes, const int64_t *offsets, const float *x, const float *values,
                               const float *bias, float low, float high, float *y)
{
    Shape shape;
    memcpy(&shape, sizes, sizeof shape);
    slide(&shape, offsets, x, values, bias, low, high, y, PRODUCTS);
}

/* y = the largest x of each window; NaN where one is. */
EXPORT void edgekiln_max_pool(const int64_t *sizes, const int64_t *offsets, const float *x, float *y)
{
    Shape shape;
    memcpy(&shape, sizes, sizeof shape);
    slide(&shape, offsets, x, x, x, -__builtin_inff(), __builtin_inff(), y, LARGEST);
}
