// 3x3 convolutions of images with channels last, stride 1 and one pixel of zeros around, by minimal filtering F(4x4, 3x3)
// (Lavin and Gray, arXiv:1509.09308, section 4): a tile of 4x4 results costs 36 products a pair of channels in place of 144.
// The three passes are y = A'[(G w G') * (B' x B)]A, its derivative by x, which is such a convolution with turned kernels, and by
// w, which is G'[sum over tiles of (B' x B) * (A dy A')]G. No result depends on the number of threads.
//
// The transforms evaluate polynomials at 0, +-1/2, +-3/2 and infinity, which rounds less than the usual 0, +-1, +-2: B' has the
// coefficients of Lagrange's polynomials, whose denominators are in G.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "portable.h"

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
constexpr int ROWS = 12, SUM_ROWS = 8;  // times two vectors of sums fit the registers; the fewer where sums come from memory
#else
constexpr int LANES = 8;
constexpr int ROWS = 6, SUM_ROWS = 6;
#endif
constexpr int TILE = 4;               // results along a side
constexpr int SIDE = TILE + 2;        // pixels that they need, and points of the transforms
constexpr int POINTS = SIDE * SIDE;
constexpr int WIDE = 2 * LANES;       // channels of a panel of weights: channel counts are multiples
constexpr int64_t CACHED = 96 << 10;  // floats of transformed tiles that stay in the second cache
constexpr int64_t LINE = 16;          // floats of a line of the caches; so far apart, two points' planes do not share its sets
constexpr int64_t CHUNK = 64;         // input channels whose derivative is summed at a time

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }

struct Images {
    int64_t samples, height, width;

    int64_t tiles() const { return samples * (height / TILE) * (width / TILE); }
};

int64_t plane(int64_t count, int64_t channels) { return count * channels + LINE; }

// Memory that each thread keeps from call to call, on huge pages where Linux has them: a transform writes to 36 planes at once,
// and a processor's table of small pages holds fewer.
enum Use { WEIGHTS, INPUTS, RESULTS, SUMS, USES };

struct Kept {
    float* floats = nullptr;
    size_t bytes = 0;

    ~Kept() { std::free(floats); }
};

float* memory(Use use, int64_t floats) {
    constexpr size_t PAGE = 2 << 20;
    static thread_local Kept kept[USES];
    Kept& k = kept[use];
    const size_t bytes = (floats * sizeof(float) + PAGE - 1) / PAGE * PAGE;
    if (bytes > k.bytes) {
        std::free(k.floats);
        k.bytes = 0;
        k.floats = static_cast<float*>(std::aligned_alloc(PAGE, bytes));
        if (!k.floats) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        madvise(k.floats, bytes, MADV_HUGEPAGE);
#endif
        k.bytes = bytes;
    }
    return k.floats;
}

struct Tile {
    int64_t sample, y, x;  // its first pixel

    int64_t pixel(const Images& s, int64_t down, int64_t right) const {
        return (sample * s.height + y + down) * s.width + x + right;
    }
};

Tile tile_at(const Images& s, int64_t index) {
    const int64_t across = s.width / TILE, down = s.height / TILE;
    return {index / (across * down), index / across % down * TILE, index % across * TILE};
}

// Images are larger than the caches: pixels are asked for while the tile before is transformed.
template <bool WRITE>
inline void ask_for(const float* from, int64_t floats) {
    for (int64_t i = 0; i < floats; i += LINE) __builtin_prefetch(from + i, WRITE);
}

constexpr float A = 0.5f, B = 1.5f, A2 = A * A, B2 = B * B;
constexpr float SCALE_A = 1 / (2 * A2 * (A2 - B2)), SCALE_B = 1 / (2 * B2 * (B2 - A2));

// Values at +-A and +-B of polynomials whose even and odd parts are given.
inline void store_pairs(Vector* to, int step, Vector even_a, Vector odd_a, Vector even_b, Vector odd_b) {
    to[step] = even_a + odd_a;
    to[2 * step] = even_a - odd_a;
    to[3 * step] = even_b + odd_b;
    to[4 * step] = even_b - odd_b;
}

// One dimension of each transform, from values `step` apart to values `to_step` apart.
inline void input_points(const Vector* d, int step, Vector* r, int to_step) {
    const Vector d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
    const Vector even_a = d4 - B2 * d2, odd_a = A * (d3 - B2 * d1), even_b = d4 - A2 * d2, odd_b = B * (d3 - A2 * d1);
    r[0] = d[0] - (1 / A2 + 1 / B2) * d2 + 1 / (A2 * B2) * d4;
    store_pairs(r, to_step, even_a, odd_a, even_b, odd_b);
    r[5 * to_step] = d[5 * step] - (A2 + B2) * d3 + A2 * B2 * d1;
}

inline void output_points(const Vector* m, int step, Vector* y, int to_step) {
    const Vector even_a = m[step] + m[2 * step], odd_a = m[step] - m[2 * step];
    const Vector even_b = m[3 * step] + m[4 * step], odd_b = m[3 * step] - m[4 * step];
    y[0] = m[0] + even_a + even_b;
    y[to_step] = A * odd_a + B * odd_b;
    y[2 * to_step] = A2 * even_a + B2 * even_b;
    y[3 * to_step] = A2 * A * odd_a + B2 * B * odd_b + m[5 * step];
}

inline void gradient_points(const Vector* y, int step, Vector* z, int to_step) {
    const Vector y0 = y[0], y1 = y[step], y2 = y[2 * step], y3 = y[3 * step];
    const Vector even_a = y0 + A2 * y2, odd_a = A * y1 + A2 * A * y3, even_b = y0 + B2 * y2, odd_b = B * y1 + B2 * B * y3;
    z[0] = y0;
    store_pairs(z, to_step, even_a, odd_a, even_b, odd_b);
    z[5 * to_step] = y3;
}

inline void weight_points(const Vector* g, int step, Vector* u, int to_step) {
    const Vector g0 = g[0], g1 = g[step], g2 = g[2 * step];
    const Vector even_a = SCALE_A * (g0 + A2 * g2), odd_a = SCALE_A * A * g1;
    const Vector even_b = SCALE_B * (g0 + B2 * g2), odd_b = SCALE_B * B * g1;
    u[0] = g0;
    store_pairs(u, to_step, even_a, odd_a, even_b, odd_b);
    u[5 * to_step] = g2;
}

inline void weight_gradient_points(const Vector* u, int step, Vector* g, int to_step) {
    const Vector even_a = SCALE_A * (u[step] + u[2 * step]), odd_a = SCALE_A * (u[step] - u[2 * step]);
    const Vector even_b = SCALE_B * (u[3 * step] + u[4 * step]), odd_b = SCALE_B * (u[3 * step] - u[4 * step]);
    g[0] = u[0] + even_a + even_b;
    g[to_step] = A * odd_a + B * odd_b;
    g[2 * to_step] = A2 * even_a + B2 * even_b + u[5 * step];
}

// Both dimensions: FROM x FROM values to TO x TO values.
template <int FROM, int TO, class Points>
inline void transform(const Vector* from, Vector* to, const Points& points) {
    Vector half[FROM * TO];
#pragma GCC unroll 6
    for (int i = 0; i < FROM; i++) points(from + i, FROM, half + i, FROM);
#pragma GCC unroll 6
    for (int i = 0; i < TO; i++) points(half + i * FROM, 1, to + i * TO, 1);
}

// Values that are not there, beside the image, are read from here.
constexpr int64_t MOST_CHANNELS = 4096;
alignas(64) const float NOTHING[MOST_CHANNELS] = {};

// B' d B for the pixels around each tile: x [.., channels] to result [POINTS, count, last - first].
void transform_input(const Images& s, const float* x, int64_t channels, int64_t first, int64_t last, int64_t begin,
                     int64_t count, float* result) {
    const int64_t width = last - first, step = plane(count, width);
    for (int64_t t = 0; t < count; t++) {
        const Tile tile = tile_at(s, begin + t);
        const float* pixels[POINTS];
        for (int i = 0; i < POINTS; i++) {
            const int64_t down = i / SIDE - 1, right = i % SIDE - 1, y = tile.y + down, z = tile.x + right;
            const bool inside = y >= 0 && y < s.height && z >= 0 && z < s.width;
            pixels[i] = inside ? x + tile.pixel(s, down, right) * channels + first : NOTHING;
        }
        float* to = result + t * width;
        const Tile next = tile_at(s, std::min(begin + t + 1, s.tiles() - 1));
        for (int64_t i = -1; i <= TILE; i++) {
            if (next.y + i < 0 || next.y + i >= s.height) continue;
            for (int64_t j = 0; j < TILE; j++) ask_for<false>(x + next.pixel(s, i, j) * channels + first, width);
        }
        for (int64_t c = 0; c < width; c += LANES) {
            Vector d[POINTS], r[POINTS];
#pragma GCC unroll 36
            for (int i = 0; i < POINTS; i++) d[i] = load(pixels[i] + c);
            transform<SIDE, SIDE>(d, r, input_points);
#pragma GCC unroll 36
            for (int i = 0; i < POINTS; i++) store(to + i * step + c, r[i]);
        }
    }
}

// A' m A + bias: products [POINTS, count, channels] to the pixels of each tile of y.
void transform_output(const Images& s, const float* products, const float* bias, int64_t channels, int64_t begin,
                      int64_t count, float* y) {
    const int64_t step = plane(count, channels);
    for (int64_t t = 0; t < count; t++) {
        const Tile tile = tile_at(s, begin + t);
        float* to = y + tile.pixel(s, 0, 0) * channels;
        const Tile next = tile_at(s, std::min(begin + t + 1, s.tiles() - 1));
        for (int64_t i = 0; i < TILE; i++) ask_for<true>(y + next.pixel(s, i, 0) * channels, TILE * channels);
        for (int64_t k = 0; k < channels; k += LANES) {
            const float* from = products + t * channels + k;
            Vector m[POINTS], r[TILE * TILE];
#pragma GCC unroll 36
            for (int i = 0; i < POINTS; i++) m[i] = load(from + i * step);
            transform<SIDE, TILE>(m, r, output_points);
            const Vector add = bias ? load(bias + k) : Vector{};
#pragma GCC unroll 36
            for (int i = 0; i < TILE * TILE; i++) store(to + (i / TILE * s.width + i % TILE) * channels + k, r[i] + add);
        }
    }
}

// A dy A' for the pixels of each tile: dy to result [POINTS, channels / WIDE, count, WIDE].
void transform_gradient(const Images& s, const float* dy, int64_t channels, int64_t begin, int64_t count, float* result) {
    const int64_t step = plane(count, channels);
    for (int64_t t = 0; t < count; t++) {
        const Tile tile = tile_at(s, begin + t);
        const float* from = dy + tile.pixel(s, 0, 0) * channels;
        for (int64_t k = 0; k < channels; k += LANES) {
            Vector d[TILE * TILE], r[POINTS];
#pragma GCC unroll 36
            for (int i = 0; i < TILE * TILE; i++) d[i] = load(from + (i / TILE * s.width + i % TILE) * channels + k);
            transform<TILE, SIDE>(d, r, gradient_points);
            float* to = result + (k / WIDE * count + t) * WIDE + k % WIDE;
#pragma GCC unroll 36
            for (int i = 0; i < POINTS; i++) store(to + i * step, r[i]);
        }
    }
}

// sums[row][WIDE] = over `depth` of left[row][d] * right[d][WIDE]; with ADD of left[d][row], and added to the sums if `add`. `step`
// floats are between neighbours in the first dimension of `left`. AHEAD: asks for what follows `right` in memory.
//
// The loops over sums are unrolled, or else GCC keeps these in memory.
template <int COUNT, bool ADD, bool AHEAD>
void multiply_rows(const float* left, int64_t step, const float* right, int64_t depth, float* sums, int64_t sums_step, bool add) {
    Vector a[COUNT], b[COUNT];
#pragma GCC unroll 12
    for (int i = 0; i < COUNT; i++) {
        a[i] = ADD && add ? load(sums + i * sums_step) : Vector{};
        b[i] = ADD && add ? load(sums + i * sums_step + LANES) : Vector{};
    }
    for (int64_t d = 0; d < depth; d++) {
        for (int i = 0; AHEAD && i < WIDE; i += LINE)
            __builtin_prefetch(right + (depth + d) * WIDE + i, 0, 2);  // into the second cache
        const Vector first = load(right + d * WIDE), second = load(right + d * WIDE + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < COUNT; i++) {
            const float value = ADD ? left[d * step + i] : left[i * step + d];
            a[i] += value * first;
            b[i] += value * second;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < COUNT; i++) {
        store(sums + i * sums_step, a[i]);
        store(sums + i * sums_step + LANES, b[i]);
    }
}

// The same for any number of rows, COUNT at a time.
template <int COUNT, bool ADD, bool AHEAD = !ADD>
void multiply(int64_t rows, const float* left, int64_t step, const float* right, int64_t depth, float* sums, int64_t sums_step,
              bool add = false) {
    for (int64_t row = 0; row < rows; row += COUNT) {
        const float* from = left + row * (ADD ? 1 : step);
        float* to = sums + row * sums_step;
        if constexpr (COUNT > 1) {
            if (row + COUNT > rows) return multiply<COUNT - 1, ADD, AHEAD>(rows - row, from, step, right, depth, to, sums_step, add);
        }
        const auto product = AHEAD && row == 0 ? multiply_rows<COUNT, ADD, true> : multiply_rows<COUNT, ADD, false>;
        product(from, step, right, depth, to, sums_step, add);
    }
}

// G w G' of w [out, in, 3, 3] to result [POINTS, out / WIDE, in, WIDE]; `turned`: of the kernels of the derivative by x, where
// `in` and `out` of w have changed places and the kernel is turned by 180 degrees.
void transform_weight(const float* w, int64_t in, int64_t out, bool turned, float* result) {
    const int64_t k_step = turned ? 9 : 9 * in, c_step = turned ? 9 * out : 9, step = plane(in, out);
    for (int64_t panel = 0; panel < out; panel += WIDE) {
        for (int64_t c = 0; c < in; c++) {
            for (int64_t half = 0; half < WIDE; half += LANES) {
                Vector g[9], u[POINTS];
                for (int lane = 0; lane < LANES; lane++) {
                    const float* from = w + (panel + half + lane) * k_step + c * c_step;
                    for (int i = 0; i < 9; i++) g[turned ? 8 - i : i][lane] = from[i];
                }
                transform<3, SIDE>(g, u, weight_points);
                float* to = result + panel * in + c * WIDE + half;
                for (int i = 0; i < POINTS; i++) store(to + i * step, u[i]);
            }
        }
    }
}

// G' u G of u [POINTS, last - first, out]: w [out, in, 3, 3] of input channels first to last.
void transform_weight_gradient(const float* u, int64_t in, int64_t out, int64_t first, int64_t last, float* w) {
    const int64_t step = (last - first) * out;
    for (int64_t c = first; c < last; c++) {
        for (int64_t k = 0; k < out; k += LANES) {
            Vector values[POINTS], g[9];
            for (int i = 0; i < POINTS; i++) values[i] = load(u + i * step + (c - first) * out + k);
            transform<SIDE, 3>(values, g, weight_gradient_points);
            for (int lane = 0; lane < LANES; lane++) {
                float* to = w + ((k + lane) * in + c) * 9;
                for (int i = 0; i < 9; i++) to[i] = g[i][lane];
            }
        }
    }
}

// How many tiles are transformed before they are multiplied: a multiple of ROWS.
int64_t tiles_at_once(int64_t channels, int64_t least) {
    return std::max(least, std::min<int64_t>(96, CACHED / POINTS / channels / 12 * 12));
}

void convolve(const Images& s, const float* x, const float* u, const float* bias, float* y, int64_t in, int64_t out,
              int threads) {
    const int64_t size = tiles_at_once(in + out, 48), tiles = s.tiles(), blocks = (tiles + size - 1) / size;
#pragma omp parallel num_threads(threads) if (threads > 1 && blocks > 1)
    {
        float* const inputs = memory(INPUTS, POINTS * plane(size, in));
        float* const products = memory(RESULTS, POINTS * plane(size, out));
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t begin = block * size, count = std::min(size, tiles - begin);
            transform_input(s, x, in, 0, in, begin, count, inputs);
            for (int point = 0; point < POINTS; point++) {
                const float* from = inputs + point * plane(count, in);
                float* to = products + point * plane(count, out);
                for (int64_t k = 0; k < out; k += WIDE)
                    multiply<ROWS, false>(count, from, in, u + point * plane(in, out) + k * in, in, to + k, out);
            }
            transform_output(s, products, bias, out, begin, count, y);
        }
    }
}

// Of input channels first to last.
void weight_gradient_of(const Images& s, const float* x, const float* dy, float* dw, int64_t in, int64_t out, int64_t first,
                        int64_t last) {
    const int64_t tiles = s.tiles(), width = last - first, size = tiles_at_once(width + out, 24);
    float* const inputs = memory(INPUTS, POINTS * plane(size, width));
    float* const gradients = memory(RESULTS, POINTS * plane(size, out));
    float* const sums = memory(SUMS, POINTS * width * out);
    if (tiles == 0) std::fill_n(sums, POINTS * width * out, 0.0f);
    for (int64_t begin = 0; begin < tiles; begin += size) {
        const int64_t count = std::min(size, tiles - begin);
        transform_input(s, x, in, first, last, begin, count, inputs);
        transform_gradient(s, dy, out, begin, count, gradients);
        for (int point = 0; point < POINTS; point++) {
            const float* left = inputs + point * plane(count, width);
            const float* right = gradients + point * plane(count, out);
            float* to = sums + point * width * out;
            for (int64_t k = 0; k < out; k += WIDE)
                multiply<SUM_ROWS, true>(width, left, width, right + k * count, count, to + k, out, begin > 0);
        }
    }
    transform_weight_gradient(sums, in, out, first, last, dw);
}

// Input channels are shared out over threads.
void weight_gradient(const Images& s, const float* x, const float* dy, float* dw, int64_t in, int64_t out, int threads) {
    const int64_t groups = in / LANES, most = std::max<int64_t>((groups + threads - 1) / threads, 1);
    const int64_t chunk = std::min<int64_t>(CHUNK, most * LANES), chunks = (in + chunk - 1) / chunk;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1 && chunks > 1)
    for (int64_t i = 0; i < chunks; i++)
        weight_gradient_of(s, x, dy, dw, in, out, i * chunk, std::min(in, (i + 1) * chunk));
}

bool is_possible(const Images& s, int64_t in, int64_t out) {
    return s.height % TILE == 0 && s.width % TILE == 0 && in % WIDE == 0 && out % WIDE == 0 &&
           std::max(in, out) <= MOST_CHANNELS;
}

}  // namespace

// What counts of channels must be multiples of.
extern "C" int cpu_conv3x3_multiple(void* multiple, int) {
    *static_cast<int*>(multiple) = WIDE;
    return DONE;
}

// x [samples, height, width, in], w [out, in, 3, 3], bias [out] or null, y [samples, height, width, out]. `turned`: w is
// [in, out, 3, 3] and each kernel is turned by 180 degrees.
extern "C" int cpu_conv3x3(const void* x, const void* w, const void* bias, void* y, int64_t samples, int64_t height,
                           int64_t width, int64_t in, int64_t out, int turned, int threads) {
    const Images s{samples, height, width};
    if (!is_possible(s, in, out)) return BAD_ARGUMENT;
    float* const u = memory(WEIGHTS, POINTS * plane(in, out));
    transform_weight(static_cast<const float*>(w), in, out, turned, u);
    convolve(s, static_cast<const float*>(x), u, static_cast<const float*>(bias), static_cast<float*>(y), in, out, threads);
    return DONE;
}

// The derivative by w: dw [out, in, 3, 3] of x [samples, height, width, in] and dy [samples, height, width, out].
extern "C" int cpu_conv3x3_weight(const void* x, const void* dy, void* dw, int64_t samples, int64_t height, int64_t width,
                                  int64_t in, int64_t out, int threads) {
    const Images s{samples, height, width};
    if (!is_possible(s, in, out)) return BAD_ARGUMENT;
    weight_gradient(s, static_cast<const float*>(x), static_cast<const float*>(dy), static_cast<float*>(dw), in, out, threads);
    return DONE;
}
