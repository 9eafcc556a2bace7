/* Sixteen floats at a time, one per output channel, in as many registers as the instruction set needs for them. */
#ifndef EDGEKILN_LANES_H
#define EDGEKILN_LANES_H

#include <stdint.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include <immintrin.h>

typedef __m512 lanes;
typedef __m512i picks; /* which of four channels each lane takes */
typedef __m512 quad;   /* four channels of one position, before every lane */

INLINE lanes load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, lanes a) { _mm512_storeu_ps(p, a); }
INLINE lanes splat(float a) { return _mm512_set1_ps(a); }
INLINE lanes add(lanes a, lanes b) { return _mm512_add_ps(a, b); }
INLINE lanes multiply_add(lanes a, lanes b, lanes c) { return _mm512_fmadd_ps(a, b, c); }
INLINE lanes larger(lanes a, lanes b) { return _mm512_max_ps(a, b); } /* b where one is NaN */
INLINE lanes smaller(lanes a, lanes b) { return _mm512_min_ps(a, b); }
INLINE picks decode(uint32_t bits)
{
    const __m512i places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_srlv_epi32(_mm512_set1_epi32((int)bits), places);
}
INLINE quad load_quad(const float *p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
INLINE lanes pick(quad x, picks which) { return _mm512_permutevar_ps(x, which); } /* reads two bits of each */

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

typedef struct { __m256 a, b; } lanes;
typedef struct { __m256i a, b; } picks;
typedef __m256 quad;

INLINE lanes load(const float *p) { return (lanes){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void store(float *p, lanes x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
INLINE lanes splat(float a) { return (lanes){_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
INLINE lanes add(lanes x, lanes y) { return (lanes){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
INLINE lanes multiply_add(lanes x, lanes y, lanes z)
{
    return (lanes){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
INLINE lanes larger(lanes x, lanes y) { return (lanes){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
INLINE lanes smaller(lanes x, lanes y) { return (lanes){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
INLINE picks decode(uint32_t bits)
{
    const __m256i all = _mm256_set1_epi32((int)bits);
    return (picks){_mm256_srlv_epi32(all, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14)),
                   _mm256_srlv_epi32(all, _mm256_setr_epi32(16, 18, 20, 22, 24, 26, 28, 30))};
}
INLINE quad load_quad(const float *p) { return _mm256_broadcast_ps((const __m128 *)p); }
INLINE lanes pick(quad x, picks which)
{
    return (lanes){_mm256_permutevar_ps(x, which.a), _mm256_permutevar_ps(x, which.b)};
}

#else /* plain C: right everywhere, fast nowhere */

typedef struct { float at[LANES]; } lanes;
typedef struct { uint32_t bits; } picks;
typedef struct { float at[4]; } quad;

#define EACH(expression) \
    lanes made;          \
    for (int i = 0; i < LANES; i++) made.at[i] = (expression); \
    return made
INLINE lanes load(const float *p) { lanes x; memcpy(&x, p, sizeof x); return x; }
INLINE void store(float *p, lanes x) { memcpy(p, &x, sizeof x); }
INLINE lanes splat(float a) { EACH(a); }
INLINE lanes add(lanes x, lanes y) { EACH(x.at[i] + y.at[i]); }
INLINE lanes multiply_add(lanes x, lanes y, lanes z) { EACH(x.at[i] * y.at[i] + z.at[i]); }
INLINE lanes larger(lanes x, lanes y) { EACH(x.at[i] > y.at[i] ? x.at[i] : y.at[i]); }
INLINE lanes smaller(lanes x, lanes y) { EACH(x.at[i] < y.at[i] ? x.at[i] : y.at[i]); }
INLINE picks decode(uint32_t bits) { return (picks){bits}; }
INLINE quad load_quad(const float *p) { quad x; memcpy(&x, p, sizeof x); return x; }
INLINE lanes pick(quad x, picks which) { EACH(x.at[which.bits >> 2 * i & 3]); }
#undef EACH
#endif

/* The first `count` lanes; the others are 0, and are not read. */
INLINE lanes load_part(const float *p, int64_t count)
{
    float whole[LANES] = {0};
    if (count >= LANES) return load(p);
    memcpy(whole, p, (size_t)count * sizeof *p);
    return load(whole);
}

INLINE void store_part(float *p, lanes x, int64_t count)
{
    float whole[LANES];
    if (count >= LANES) {
        store(p, x);
        return;
    }
    store(whole, x);
    memcpy(p, whole, (size_t)count * sizeof *p);
}

INLINE lanes clamp(lanes x, float low, float high) { return smaller(splat(high), larger(splat(low), x)); }

#endif
