// Group normalisation, per-sample scale and shift, and SiLU on CPUs for images with channels last: a sample stays in the cache
// from its statistics to its result. Samples are shared out over threads, so that results do not depend on how many there are.

#include <algorithm>
#include <cmath>
#include <vector>

#include "activations.h"

namespace {

constexpr int64_t ROWS = 64;  // pixels whose sums are held in T before they are added in double
constexpr int LANES = 32;     // channels whose sums stay in registers

template <class T>
struct Problem {
    const T *x, *add, *gamma, *beta;  // x [samples, pixels, channels]; the others [samples, channels], add may be null
    int64_t samples, pixels, channels, groups;

    int64_t width() const { return channels / groups; }
    double count() const { return static_cast<double>(pixels * width()); }
};

// Per channel of one sample: u = x + shift has mean 0 within the group, z = scale * x + offset goes into SiLU.
template <class T>
struct Channels {
    std::vector<T> shift, scale, offset;
    std::vector<double> sum, sum2;

    explicit Channels(int64_t n) : shift(n), scale(n), offset(n), sum(n), sum2(n) {}
};

// Adds `body(lane, first channel, pixel, sum, second sum)` over all pixels of LANES channels, or of those that are left.
template <int COUNT, class T, class Body>
void sum_lanes(int64_t pixels, int64_t channel, int64_t rest, double* sum, double* sum2, const Body& body) {
    const int count = COUNT ? COUNT : static_cast<int>(rest);
    for (int i = 0; i < count; i++) sum[i] = sum2[i] = 0;
    for (int64_t row = 0; row < pixels; row += ROWS) {
        T part[LANES] = {}, part2[LANES] = {};
        for (int64_t pixel = row; pixel < std::min(pixels, row + ROWS); pixel++) {
#pragma GCC ivdep
            for (int i = 0; i < count; i++) body(channel + i, pixel, part[i], part2[i]);
        }
        for (int i = 0; i < count; i++) {
            sum[i] += part[i];
            sum2[i] += part2[i];
        }
    }
}

template <class T, class Body>
void sum_pixels(int64_t pixels, int64_t channels, Channels<T>& k, const Body& body) {
    int64_t c = 0;
    for (; c + LANES <= channels; c += LANES)
        sum_lanes<LANES, T>(pixels, c, LANES, &k.sum[c], &k.sum2[c], body);
    if (c < channels) sum_lanes<0, T>(pixels, c, channels - c, &k.sum[c], &k.sum2[c], body);
}

template <class T>
void set_coefficients(const Problem<T>& p, int64_t n, const T* mean, const T* rstd, Channels<T>& k) {
    for (int64_t c = 0; c < p.channels; c++) {
        const int64_t at = n * p.channels + c, group = c / p.width();
        k.shift[c] = (p.add ? p.add[at] : T(0)) - mean[group];
        k.scale[c] = rstd[group] * p.gamma[at];
        k.offset[c] = p.beta[at] + k.shift[c] * k.scale[c];
    }
}

// Sums of squares are taken around the first pixel of each channel, so that a large mean costs no digits.
template <class T>
void statistics(const Problem<T>& p, int64_t n, double eps, T* mean, T* rstd, Channels<T>& k) {
    const int64_t C = p.channels;
    const T* __restrict x = p.x + n * p.pixels * C;
    sum_pixels<T>(p.pixels, C, k, [x, C](int64_t c, int64_t pixel, T& part, T& part2) {
        const T u = x[pixel * C + c] - x[c];
        part += u;
        part2 += u * u;
    });
    const double pixels = static_cast<double>(p.pixels);
    for (int64_t g = 0; g < p.groups; g++) {
        double total = 0, squares = 0;
        const int64_t first = g * p.width(), last = first + p.width();
        for (int64_t c = first; c < last; c++) {
            squares += k.sum2[c] - k.sum[c] * k.sum[c] / pixels;  // around the channel's own mean
            k.sum[c] = k.sum[c] / pixels + x[c] + (p.add ? p.add[n * C + c] : T(0));  // that mean
            total += k.sum[c];
        }
        const double middle = total / p.width();
        for (int64_t c = first; c < last; c++) squares += pixels * (k.sum[c] - middle) * (k.sum[c] - middle);
        mean[g] = T(middle);
        rstd[g] = T(1 / std::sqrt(std::max(squares, 0.0) / p.count() + eps));
    }
}

template <bool SILU, class T>
void forward_sample(const Problem<T>& p, int64_t n, double eps, T* mean, T* rstd, T* result, Channels<T>& k) {
    const int64_t C = p.channels;
    statistics(p, n, eps, mean, rstd, k);
    set_coefficients(p, n, mean, rstd, k);
    const T* __restrict x = p.x + n * p.pixels * C;
    T* __restrict y = result + n * p.pixels * C;
    const T *__restrict scale = k.scale.data(), *__restrict offset = k.offset.data();
    for (int64_t row = 0; row < p.pixels; row++) {
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const T z = x[row * C + c] * scale[c] + offset[c];
            y[row * C + c] = SILU ? activations::value<activations::SWISH>(z, T(0)) : z;
        }
    }
}

template <class T>
struct Gradients {
    const T* y;
    T *x, *add, *gamma, *beta;  // add may be null
};

template <bool SILU, class T>
void backward_sample(const Problem<T>& p, int64_t n, const T* mean, const T* rstd, const Gradients<T>& d, Channels<T>& k,
                     std::vector<T>& slope) {
    const int64_t C = p.channels, first = n * p.pixels * C;
    set_coefficients(p, n, mean, rstd, k);
    const T *__restrict x = p.x + first, *__restrict dy = d.y + first;
    T* __restrict dx = d.x + first;
    const T *__restrict scale = k.scale.data(), *__restrict offset = k.offset.data(), *__restrict shift = k.shift.data();
    sum_pixels<T>(p.pixels, C, k, [=](int64_t c, int64_t pixel, T& part, T& part2) {  // dz into dx; sums of dz and dz u
        const T value = x[pixel * C + c];
        const T z = value * scale[c] + offset[c];
        const T dz = SILU ? dy[pixel * C + c] * activations::slope<activations::SWISH>(z, T(0)) : dy[pixel * C + c];
        dx[pixel * C + c] = dz;
        part += dz;
        part2 += dz * (value + shift[c]);
    });
    for (int64_t g = 0; g < p.groups; g++) {
        double mean_d = 0, mean_du = 0;
        const double r = rstd[g];
        for (int64_t c = g * p.width(); c < (g + 1) * p.width(); c++) {
            const double gamma = p.gamma[n * C + c];
            mean_d += gamma * k.sum[c] / p.count();
            mean_du += gamma * r * k.sum2[c] / p.count();
        }
        for (int64_t c = g * p.width(); c < (g + 1) * p.width(); c++) {
            d.gamma[n * C + c] = T(k.sum2[c] * r);
            d.beta[n * C + c] = T(k.sum[c]);
            slope[c] = T(-r * r * mean_du);  // dx = scale dz + slope x + offset
            k.offset[c] = T(-r * mean_d) + slope[c] * k.shift[c];
        }
    }
    const T* __restrict along = slope.data();
    sum_pixels<T>(p.pixels, C, k, [=](int64_t c, int64_t pixel, T& part, T&) {
        const T value = scale[c] * dx[pixel * C + c] + along[c] * x[pixel * C + c] + offset[c];
        dx[pixel * C + c] = value;
        part += value;
    });
    if (!d.add) return;
    for (int64_t c = 0; c < C; c++) d.add[n * C + c] = T(k.sum[c]);
}

template <bool SILU, class T>
void forward_all(const Problem<T>& p, double eps, T* mean, T* rstd, T* y, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1 && p.samples > 1)
    {
        Channels<T> k(p.channels);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < p.samples; n++)
            forward_sample<SILU>(p, n, eps, mean + n * p.groups, rstd + n * p.groups, y, k);
    }
}

template <bool SILU, class T>
void backward_all(const Problem<T>& p, const T* mean, const T* rstd, const Gradients<T>& d, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1 && p.samples > 1)
    {
        Channels<T> k(p.channels);
        std::vector<T> slope(p.channels);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < p.samples; n++)
            backward_sample<SILU>(p, n, mean + n * p.groups, rstd + n * p.groups, d, k, slope);
    }
}

template <class T>
int forward(const void* const* in, void* const* out, int64_t samples, int64_t pixels, int64_t channels, int64_t groups,
            double eps, int silu, int threads) {
    auto input = [&](int i) { return static_cast<const T*>(in[i]); };
    auto output = [&](int i) { return static_cast<T*>(out[i]); };
    const Problem<T> p{input(0), input(1), input(2), input(3), samples, pixels, channels, groups};
    if (silu) {
        forward_all<true>(p, eps, output(1), output(2), output(0), threads);
    } else {
        forward_all<false>(p, eps, output(1), output(2), output(0), threads);
    }
    return DONE;
}

template <class T>
int backward(const void* const* in, void* const* out, int64_t samples, int64_t pixels, int64_t channels, int64_t groups,
             int silu, int threads) {
    auto input = [&](int i) { return static_cast<const T*>(in[i]); };
    auto output = [&](int i) { return static_cast<T*>(out[i]); };
    const Problem<T> p{input(0), input(1), input(2), input(3), samples, pixels, channels, groups};
    const Gradients<T> d{input(6), output(0), output(1), output(2), output(3)};
    if (silu) {
        backward_all<true>(p, input(4), input(5), d, threads);
    } else {
        backward_all<false>(p, input(4), input(5), d, threads);
    }
    return DONE;
}

}  // namespace

// x, y [samples, pixels, channels]; add (may be null), gamma, beta [samples, channels]; mean, rstd [samples, groups].
extern "C" int cpu_group_norm_silu(int dtype, const void* x, const void* add, const void* gamma, const void* beta, void* y,
                                   void* mean, void* rstd, int64_t samples, int64_t pixels, int64_t channels,
                                   int64_t groups, double eps, int silu, int threads) {
    const void* in[] = {x, add, gamma, beta};
    void* out[] = {y, mean, rstd};
    switch (dtype) {
        case FLOAT32: return forward<float>(in, out, samples, pixels, channels, groups, eps, silu, threads);
        case FLOAT64: return forward<double>(in, out, samples, pixels, channels, groups, eps, silu, threads);
    }
    return BAD_ARGUMENT;
}

extern "C" int cpu_group_norm_silu_backward(int dtype, const void* x, const void* add, const void* gamma,
                                            const void* beta, const void* mean, const void* rstd, const void* dy, void* dx,
                                            void* dadd, void* dgamma, void* dbeta, int64_t samples, int64_t pixels,
                                            int64_t channels, int64_t groups, int silu, int threads) {
    const void* in[] = {x, add, gamma, beta, mean, rstd, dy};
    void* out[] = {dx, dadd, dgamma, dbeta};
    switch (dtype) {
        case FLOAT32: return backward<float>(in, out, samples, pixels, channels, groups, silu, threads);
        case FLOAT64: return backward<double>(in, out, samples, pixels, channels, groups, silu, threads);
    }
    return BAD_ARGUMENT;
}
