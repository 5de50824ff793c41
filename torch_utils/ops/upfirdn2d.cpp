// upfirdn2d on CPUs: a vertical and a horizontal pass for each output row, vectorised, without touching inserted zeros.
//
// A plane is [rows, columns, inner] in memory: inner is 1 for NCHW and C for channels-last. Every output row is computed by
// one thread from the input alone, so results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "bfloat16.h"
#include "resampling.h"

namespace {

using resampling::Axis;
using resampling::Span;

// A filter as a sum of products of a vertical and a horizontal line; one product if it is separable.
template <class T>
struct Line {
    std::vector<T> vertical, horizontal;
};

template <class S>
struct Problem {
    const S* x;
    S* y;
    Axis rows, columns;
    int64_t planes, inner;
    int64_t low, high;  // columns of the input that some output meets, from low to high - 1; beyond the image they are 0
};

// Rank one up to the rounding of float64: rows are multiples of the row with the largest tap.
bool separate(const std::vector<double>& f, int height, int width, std::vector<double>& v, std::vector<double>& h) {
    const auto larger = [](double a, double b) { return std::fabs(a) < std::fabs(b); };
    const int64_t peak = std::max_element(f.begin(), f.end(), larger) - f.begin();
    const int64_t row = peak / width, column = peak % width;
    if (f[peak] == 0) return false;
    for (int i = 0; i < width; i++) h[i] = f[row * width + i];
    for (int j = 0; j < height; j++) v[j] = f[j * width + column] / f[peak];
    for (int j = 0; j < height; j++) {
        for (int i = 0; i < width; i++) {
            if (!(std::fabs(v[j] * h[i] - f[j * width + i]) <= 1e-15 * std::fabs(f[peak]))) return false;
        }
    }
    return true;
}

// `f` has been mirrored where a convolution was asked for. A filter that is not separable has one line for each of its rows.
template <class T>
std::vector<Line<T>> lines_of(const std::vector<double>& f, int height, int width) {
    std::vector<double> v(height), h(width);
    if (separate(f, height, width, v, h)) return {Line<T>{{v.begin(), v.end()}, {h.begin(), h.end()}}};
    std::vector<Line<T>> lines;
    for (int j = 0; j < height; j++) {
        Line<T> line{std::vector<T>(height, 0), {f.begin() + j * width, f.begin() + (j + 1) * width}};
        line.vertical[j] = 1;
        lines.push_back(line);
    }
    return lines;
}

// buffer = the input's rows weighted by the vertical taps, most of which are 0 unless `dense`; false if there is nothing to add.
template <class S, class T>
bool vertical(const Problem<S>& p, const S* plane, int64_t oy, const std::vector<T>& taps, bool dense, T* buffer) {
    const Span s = resampling::span(p.rows, oy);
    const int64_t left = std::max<int64_t>(p.low, 0), right = std::min(p.high, p.columns.in);
    if (left >= right) return false;
    const int64_t stride = p.columns.in * p.inner, count = (right - left) * p.inner;
    const S* __restrict x = plane + s.first * stride + left * p.inner;
    T* __restrict out = buffer + (left - p.low) * p.inner;
    const T* t = taps.data() + s.tap;
    const int up = p.rows.up;
    if (dense && s.count == 2) {
        const T t0 = t[0], t1 = t[up];
#pragma omp simd
        for (int64_t i = 0; i < count; i++) out[i] = t0 * T(x[i]) + t1 * T(x[i + stride]);
        return true;
    }
    if (dense && s.count == 4) {
        const T t0 = t[0], t1 = t[up], t2 = t[2 * up], t3 = t[3 * up];
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            out[i] = (t0 * T(x[i]) + t1 * T(x[i + stride])) + (t2 * T(x[i + 2 * stride]) + t3 * T(x[i + 3 * stride]));
        }
        return true;
    }
    bool any = false;
    for (int j = 0; j < s.count; j++) {
        const T weight = t[j * up];
        if (weight == 0) continue;  // the other rows of a filter that is not separable
        const S* __restrict row = x + j * stride;
        if (any) {
#pragma omp simd
            for (int64_t i = 0; i < count; i++) out[i] += weight * T(row[i]);
        } else {
#pragma omp simd
            for (int64_t i = 0; i < count; i++) out[i] = weight * T(row[i]);
        }
        any = true;
    }
    return any;
}

// StyleGAN2's own cases along x, four taps; `b` is where output 0 finds its first pixel.
template <class S, class T>
void up2(const T* __restrict b, const T* t, int tap0, int64_t shift, S* __restrict y, int64_t out) {
    const T a0 = t[tap0], a1 = t[tap0 + 2], c0 = t[1 - tap0], c1 = t[3 - tap0];
    const T* __restrict d = b + shift;
    const int64_t pairs = out / 2;
#pragma omp simd
    for (int64_t i = 0; i < pairs; i++) {
        y[2 * i] = S(a0 * b[i] + a1 * b[i + 1]);
        y[2 * i + 1] = S(c0 * d[i] + c1 * d[i + 1]);
    }
    if (out % 2) y[out - 1] = S(a0 * b[pairs] + a1 * b[pairs + 1]);
}

template <int DOWN, class S, class T>
void four_taps(const T* __restrict b, const T* t, S* __restrict y, int64_t out) {
    const T t0 = t[0], t1 = t[1], t2 = t[2], t3 = t[3];
#pragma omp simd
    for (int64_t i = 0; i < out; i++) {
        const T* at = b + i * DOWN;
        y[i] = S((t0 * at[0] + t1 * at[1]) + (t2 * at[2] + t3 * at[3]));
    }
}

// Adds to `sum` (of compute type): output o of each phase meets the same taps, so one tap at a time runs along the line.
template <class S, class T>
void any_taps(const Problem<S>& p, const T* buffer, const T* t, T* sum) {
    const Axis& a = p.columns;
    const int64_t common = std::gcd(a.up, a.down), period = a.up / common, step = a.down / common;
    for (int64_t phase = 0; phase < std::min(period, a.out); phase++) {
        const Span s = resampling::endless_span(a, phase);
        const int64_t outputs = (a.out - phase + period - 1) / period;
        for (int j = 0; j < s.count; j++) {
            const T weight = t[s.tap + j * a.up];
            const T* __restrict b = buffer + (s.first - p.low + j) * p.inner;
            T* __restrict y = sum + phase * p.inner;
            if (p.inner == 1) {
#pragma omp simd
                for (int64_t m = 0; m < outputs; m++) y[m * period] += weight * b[m * step];
                continue;
            }
            for (int64_t m = 0; m < outputs; m++) {
#pragma omp simd
                for (int64_t c = 0; c < p.inner; c++) y[m * period * p.inner + c] += weight * b[m * step * p.inner + c];
            }
        }
    }
}

// One output row from a filter of one product in a case of StyleGAN2; false if it is another case.
template <class S, class T>
bool fast_row(const Problem<S>& p, const T* buffer, const T* t, S* y) {
    const Axis& a = p.columns;
    if (p.inner != 1 || a.taps != 4) return false;
    const Span s = resampling::endless_span(a, 0);
    const T* b = buffer + (s.first - p.low);
    if (a.up == 2 && a.down == 1) {
        up2(b, t, s.tap, resampling::endless_span(a, 1).first - s.first, y, a.out);
    } else if (a.up == 1 && a.down == 1) {
        four_taps<1>(b, t, y, a.out);
    } else if (a.up == 1 && a.down == 2) {
        four_taps<2>(b, t, y, a.out);
    } else {
        return false;
    }
    return true;
}

template <class S, class T>
void run_row(const Problem<S>& p, const std::vector<Line<T>>& lines, const S* plane, int64_t oy, S* y, T* buffer, T* sum) {
    const int64_t count = p.columns.out * p.inner;
    if (lines.size() == 1) {
        if (!vertical(p, plane, oy, lines[0].vertical, true, buffer)) return void(std::fill_n(y, count, S(0)));
        if (fast_row(p, buffer, lines[0].horizontal.data(), y)) return;
        std::fill_n(sum, count, T(0));
        any_taps(p, buffer, lines[0].horizontal.data(), sum);
    } else {
        std::fill_n(sum, count, T(0));
        for (const Line<T>& line : lines) {
            if (vertical(p, plane, oy, line.vertical, false, buffer)) any_taps(p, buffer, line.horizontal.data(), sum);
        }
    }
    for (int64_t i = 0; i < count; i++) y[i] = S(sum[i]);
}

template <class S, class T>
void run_all(const Problem<S>& p, const std::vector<Line<T>>& lines, int threads) {
    const int64_t out_row = p.columns.out * p.inner, out_plane = p.rows.out * out_row;
    const int64_t in_plane = p.rows.in * p.columns.in * p.inner, wide = (p.high - p.low) * p.inner;
    const bool parallel = threads > 1 && p.planes * out_plane > (1 << 14);
    // Whole planes while there are enough of them to share out fairly, else strips of rows.
    const int64_t strips = parallel ? std::min(p.rows.out, (4 * threads + p.planes - 1) / p.planes) : 1;
    std::vector<T> scratch(static_cast<size_t>((wide + out_row) * (parallel ? threads : 1)), T(0));
    const int64_t tasks = p.planes * strips;
#pragma omp parallel num_threads(threads) if (parallel)
    {
#ifdef _OPENMP
        const int thread = parallel ? omp_get_thread_num() : 0;
#else
        const int thread = 0;
#endif
        T* buffer = scratch.data() + thread * (wide + out_row);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t plane = task / strips, strip = task % strips;
            const int64_t last = (strip + 1) * p.rows.out / strips;
            for (int64_t oy = strip * p.rows.out / strips; oy < last; oy++) {
                run_row(p, lines, p.x + plane * in_plane, oy, p.y + plane * out_plane + oy * out_row, buffer,
                        buffer + wide);
            }
        }
    }
}

template <class S, class T>
Status typed(const void* x, void* y, const Axis& rows, const Axis& columns, int64_t planes, int64_t inner,
             const std::vector<double>& f, int threads) {
    Problem<S> p{static_cast<const S*>(x), static_cast<S*>(y), rows, columns, planes, inner, 0, 0};
    p.low = resampling::endless_span(columns, 0).first;
    p.high = resampling::endless_span(columns, columns.out - 1).first + (columns.taps + columns.up - 1) / columns.up;
    p.high = std::max(p.high, p.low) + 1;  // the first pixel of a phase without taps still has a place
    run_all(p, lines_of<T>(f, rows.taps, columns.taps), threads);
    return DONE;
}

}  // namespace

// x is [planes, in_h, in_w, inner], y [planes, out_h, out_w, inner], both non-empty but for in_h, in_w; f holds float64
// [taps_h, taps_w], or [taps_w] = [taps_h] for both axes if `separable`.
extern "C" int cpu_upfirdn2d(int dtype, const void* x, void* y, const double* f, int64_t planes, int64_t inner, int64_t in_h,
                             int64_t in_w, int64_t out_h, int64_t out_w, int taps_h, int taps_w, int separable, int up_y,
                             int up_x, int down_y, int down_x, int64_t pad_y, int64_t pad_x, int flip, double gain,
                             int threads) {
    const Axis rows{in_h, out_h, pad_y, taps_h, up_y, down_y, flip}, columns{in_w, out_w, pad_x, taps_w, up_x, down_x, flip};
    if (planes < 1 || inner < 1 || out_h < 1 || out_w < 1 || taps_h < 1 || taps_w < 1) return BAD_ARGUMENT;
    try {
        std::vector<double> taps(static_cast<size_t>(taps_h) * taps_w);
        for (int j = 0; j < taps_h; j++) {
            for (int i = 0; i < taps_w; i++) {
                const int row = resampling::given_tap(rows, j), column = resampling::given_tap(columns, i);
                taps[j * taps_w + i] = gain * (separable ? f[row] * f[column] : f[row * taps_w + column]);
            }
        }
        switch (dtype) {
            case FLOAT32: return typed<float, float>(x, y, rows, columns, planes, inner, taps, threads);
            case FLOAT64: return typed<double, double>(x, y, rows, columns, planes, inner, taps, threads);
            case BFLOAT16: return typed<BFloat16, float>(x, y, rows, columns, planes, inner, taps, threads);
        }
        return BAD_ARGUMENT;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}
