// bias_act on GPUs: a grid-stride loop over packs of up to 16 bytes, limited by memory alone.

#include "activations.h"
#include "cuda_types.h"

namespace {

using activations::Constants;

constexpr int THREADS = 256;

template <class S, class Index>
struct Tensors {
    const S *x, *b, *g;
    S* y;
    Index size, channels, inner;  // element i belongs to channel (i / inner) % channels
};

template <class S, int N>
struct alignas(sizeof(S) * N) Pack {
    S at[N];
};

// The activations that generators use are compiled on their own, the others chosen at run time: memory is slower than a branch.
constexpr int ANY = activations::NUM_KINDS;

template <int KIND, int ORDER, class T>
__device__ __forceinline__ T result(int kind, T z, T g, const Constants<T>& c) {
    using namespace activations;
    if constexpr (KIND != ANY) {
        return apply<KIND, ORDER, T>(z, g, c);
    } else {
        switch (kind) {
            case RELU: return apply<RELU, ORDER, T>(z, g, c);
            case TANH: return apply<TANH, ORDER, T>(z, g, c);
            case SIGMOID: return apply<SIGMOID, ORDER, T>(z, g, c);
            case ELU: return apply<ELU, ORDER, T>(z, g, c);
            case SELU: return apply<SELU, ORDER, T>(z, g, c);
            case SOFTPLUS: return apply<SOFTPLUS, ORDER, T>(z, g, c);
            default: return apply<SWISH, ORDER, T>(z, g, c);
        }
    }
}

template <int KIND, int ORDER, int N, class S, class Index>
__global__ void __launch_bounds__(THREADS) run(Tensors<S, Index> t, Constants<typename Computed<S>::Type> c, int kind) {
    using T = typename Computed<S>::Type;
    const Index packs = t.size / N, step = static_cast<Index>(gridDim.x) * THREADS;
    for (Index p = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x; p < packs; p += step) {
        const Pack<S, N> x = reinterpret_cast<const Pack<S, N>*>(t.x)[p];
        Pack<S, N> g = x, y;
        if (ORDER) g = reinterpret_cast<const Pack<S, N>*>(t.g)[p];
        // A pack lies within one channel, or runs over channels one by one: the launch sees to it.
        const Index channel = t.b ? (p * N / t.inner) % t.channels : 0;
        const Index next = t.inner == 1 ? 1 : 0;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const T bias = t.b ? widen(t.b[channel + i * next]) : T(0);
            y.at[i] = narrow<S>(result<KIND, ORDER, T>(kind, widen(x.at[i]) + bias, widen(g.at[i]), c));
        }
        reinterpret_cast<Pack<S, N>*>(t.y)[p] = y;
    }
}

struct Call {
    int order, kind;
    const void *x, *b, *g;
    void* y;
    int64_t size, channels, inner;
    double alpha, gain, clamp;
    cudaStream_t stream;
};

template <int KIND, int ORDER, int N, class S, class Index>
int launch(const Call& a) {
    using T = typename Computed<S>::Type;
    const Tensors<S, Index> t{static_cast<const S*>(a.x), static_cast<const S*>(a.b), static_cast<const S*>(a.g),
                              static_cast<S*>(a.y), static_cast<Index>(a.size), static_cast<Index>(a.channels),
                              static_cast<Index>(a.inner)};
    const Constants<T> c{static_cast<T>(a.alpha), static_cast<T>(a.gain), static_cast<T>(a.clamp)};
    int64_t blocks = (a.size / N + THREADS - 1) / THREADS;
    blocks = blocks < 1 << 16 ? blocks : 1 << 16;
    run<KIND, ORDER, N, S, Index><<<static_cast<unsigned>(blocks), THREADS, 0, a.stream>>>(t, c, a.kind);
    return launched();
}

// Packs where all addresses and the length of a line allow them.
template <int KIND, int ORDER, class S>
int choose_width(const Call& a) {
    constexpr int N = 16 / sizeof(S);
    const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
    const int64_t line = !a.b ? a.size : a.inner == 1 ? a.channels : a.inner;
    const bool packed = line % N == 0 && a.size % N == 0 && aligned(a.x) && aligned(a.y) && (!ORDER || aligned(a.g));
    if (a.size > (int64_t(1) << 30)) return launch<KIND, ORDER, 1, S, int64_t>(a);
    return packed ? launch<KIND, ORDER, N, S, uint32_t>(a) : launch<KIND, ORDER, 1, S, uint32_t>(a);
}

template <int ORDER, class S>
int choose_kind(const Call& a) {
    if (a.kind < 0 || a.kind >= activations::NUM_KINDS) return BAD_ARGUMENT;
    if (a.kind == activations::LINEAR) return choose_width<activations::LINEAR, ORDER, S>(a);
    if (a.kind == activations::LRELU) return choose_width<activations::LRELU, ORDER, S>(a);
    return choose_width<ANY, ORDER, S>(a);
}

template <class S>
int choose_order(const Call& a) {
    switch (a.order) {
        case 0: return choose_kind<0, S>(a);
        case 1: return choose_kind<1, S>(a);
        case 2: return choose_kind<2, S>(a);
    }
    return BAD_ARGUMENT;
}

}  // namespace

// As cpu_bias_act, for memory of the current device, on a stream of it.
extern "C" int cuda_bias_act(int dtype, int order, int kind, const void* x, const void* b, const void* g, void* y,
                             int64_t size, int64_t channels, int64_t inner, double alpha, double gain, double clamp,
                             void* stream) {
    const Call call{order, kind, x, b, g, y, size, channels, inner, alpha, gain, clamp, static_cast<cudaStream_t>(stream)};
    switch (dtype) {
        case FLOAT32: return choose_order<float>(call);
        case FLOAT64: return choose_order<double>(call);
        case BFLOAT16: return choose_order<__nv_bfloat16>(call);
        case FLOAT16: return choose_order<__half>(call);
    }
    return BAD_ARGUMENT;
}
