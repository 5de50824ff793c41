// bias_act on CPUs: one pass over memory, vectorised by the compiler, shared out over threads.

#include <algorithm>

#include "activations.h"
#include "bfloat16.h"

namespace {

using activations::Constants;

constexpr int64_t CHUNK = 1 << 14;  // elements that one thread takes at a time: well inside the second-level cache

// S is what memory holds, T what is computed with.
template <class S>
struct Tensors {
    const S *x, *b, *g;
    S* y;
    int64_t size, channels, inner;  // element i belongs to channel (i / inner) % channels
};

template <int KIND, int ORDER, class S, class T>
void run_line(const Tensors<S>& t, int64_t first, int64_t count, T bias, Constants<T> c) {
    const S* __restrict x = t.x + first;
    const S* __restrict g = t.g + (ORDER ? first : 0);
    S* __restrict y = t.y + first;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        y[i] = S(activations::apply<KIND, ORDER, T>(T(x[i]) + bias, ORDER ? T(g[i]) : T(0), c));
    }
}

template <int KIND, int ORDER, class S, class T>
void run_pixel(const Tensors<S>& t, int64_t first, int64_t channel, int64_t count, Constants<T> c) {
    const S* __restrict x = t.x + first;
    const S* __restrict b = t.b + channel;
    const S* __restrict g = t.g + (ORDER ? first : 0);
    S* __restrict y = t.y + first;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        y[i] = S(activations::apply<KIND, ORDER, T>(T(x[i]) + T(b[i]), ORDER ? T(g[i]) : T(0), c));
    }
}

template <int KIND, int ORDER, class S, class T>
void run_chunk(const Tensors<S>& t, int64_t first, int64_t last, const Constants<T>& c) {
    if (!t.b) return run_line<KIND, ORDER>(t, first, last - first, T(0), c);
    while (first < last) {
        const int64_t line = t.inner == 1 ? t.channels : t.inner;  // what lies together
        const int64_t count = std::min(last - first, line - first % line);
        const int64_t channel = (first / t.inner) % t.channels;
        if (t.inner == 1) {
            run_pixel<KIND, ORDER>(t, first, channel, count, c);
        } else {
            run_line<KIND, ORDER>(t, first, count, T(t.b[channel]), c);
        }
        first += count;
    }
}

template <int KIND, int ORDER, class S, class T>
void run_all(const Tensors<S>& t, const Constants<T>& c, int threads) {
    const int64_t chunks = (t.size + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(threads) schedule(static) if (chunks > 1 && threads > 1)
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        run_chunk<KIND, ORDER>(t, chunk * CHUNK, std::min(t.size, (chunk + 1) * CHUNK), c);
    }
}

template <int ORDER, class S, class T>
Status choose_kind(int kind, const Tensors<S>& t, const Constants<T>& c, int threads) {
    using namespace activations;
    switch (kind) {
        case LINEAR: run_all<LINEAR, ORDER>(t, c, threads); return DONE;
        case RELU: run_all<RELU, ORDER>(t, c, threads); return DONE;
        case LRELU: run_all<LRELU, ORDER>(t, c, threads); return DONE;
        case TANH: run_all<TANH, ORDER>(t, c, threads); return DONE;
        case SIGMOID: run_all<SIGMOID, ORDER>(t, c, threads); return DONE;
        case ELU: run_all<ELU, ORDER>(t, c, threads); return DONE;
        case SELU: run_all<SELU, ORDER>(t, c, threads); return DONE;
        case SOFTPLUS: run_all<SOFTPLUS, ORDER>(t, c, threads); return DONE;
        case SWISH: run_all<SWISH, ORDER>(t, c, threads); return DONE;
    }
    return BAD_ARGUMENT;
}

struct Call {
    int order, kind;
    const void *x, *b, *g;
    void* y;
    int64_t size, channels, inner;
    double alpha, gain, clamp;
    int threads;
};

template <class S, class T>
Status typed(const Call& a) {
    const Tensors<S> t{static_cast<const S*>(a.x), static_cast<const S*>(a.b), static_cast<const S*>(a.g),
                       static_cast<S*>(a.y), a.size, a.channels, a.inner};
    const Constants<T> c{static_cast<T>(a.alpha), static_cast<T>(a.gain), static_cast<T>(a.clamp)};
    switch (a.order) {
        case 0: return choose_kind<0>(a.kind, t, c, a.threads);
        case 1: return choose_kind<1>(a.kind, t, c, a.threads);
        case 2: return choose_kind<2>(a.kind, t, c, a.threads);
    }
    return BAD_ARGUMENT;
}

}  // namespace

// x, g (null for order 0) and y hold `size` elements in one order in memory; b (may be null) one for each channel.
extern "C" int cpu_bias_act(int dtype, int order, int kind, const void* x, const void* b, const void* g, void* y,
                            int64_t size, int64_t channels, int64_t inner, double alpha, double gain, double clamp,
                            int threads) {
    const Call call{order, kind, x, b, g, y, size, channels, inner, alpha, gain, clamp, threads};
    switch (dtype) {
        case FLOAT32: return typed<float, float>(call);
        case FLOAT64: return typed<double, double>(call);
        case BFLOAT16: return typed<BFloat16, float>(call);
    }
    return BAD_ARGUMENT;
}
