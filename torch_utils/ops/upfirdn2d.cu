// upfirdn2d on GPUs: each thread computes a short column of outputs, so that rows read for one serve the next as well.

#include "cuda_types.h"
#include "resampling.h"

namespace {

using resampling::Axis;
using resampling::Span;

constexpr int THREADS = 256;
constexpr int ROWS = 4;  // outputs of a thread

template <class S>
struct Problem {
    const S* x;
    S* y;
    const double* f;  // [taps_h, taps_w], or [taps_w] for both axes if separable
    Axis rows, columns;
    int64_t planes, inner;
    int separable;
    double gain;
};

template <class S>
__device__ __forceinline__ typename Computed<S>::Type tap(const Problem<S>& p, int row, int column) {
    row = resampling::given_tap(p.rows, row);
    column = resampling::given_tap(p.columns, column);
    const double f = p.separable ? p.f[row] * p.f[column] : p.f[static_cast<int64_t>(row) * p.columns.taps + column];
    return static_cast<typename Computed<S>::Type>(f * p.gain);
}

// The sum that makes one output. With TAPS and UP known the loops unroll; 0 leaves them to run time.
template <int TAPS, int UP, class S, class T>
__device__ __forceinline__ T output(const Problem<S>& p, const T* taps, const S* plane, int64_t oy, Span sx, int64_t row_stride) {
    const Span sy = resampling::span(p.rows, oy);
    T sum = 0;
    if constexpr (TAPS > 0) {
        constexpr int MOST = (TAPS + UP - 1) / UP;
#pragma unroll
        for (int j = 0; j < MOST; j++) {
#pragma unroll
            for (int i = 0; i < MOST; i++) {
                if (j < sy.count && i < sx.count) {
                    const T weight = taps[(sy.tap + j * UP) * TAPS + sx.tap + i * UP];
                    sum += weight * widen(plane[(sy.first + j) * row_stride + (sx.first + i) * p.inner]);
                }
            }
        }
    } else {
        for (int j = 0; j < sy.count; j++) {
            for (int i = 0; i < sx.count; i++) {
                const T weight = tap(p, sy.tap + j * p.rows.up, sx.tap + i * p.columns.up);
                sum += weight * widen(plane[(sy.first + j) * row_stride + (sx.first + i) * p.inner]);
            }
        }
    }
    return sum;
}

template <int TAPS, int UP, class S>
__global__ void __launch_bounds__(THREADS) run(Problem<S> p) {
    using T = typename Computed<S>::Type;
    __shared__ T taps[TAPS ? TAPS * TAPS : 1];
    if constexpr (TAPS > 0) {
        const int own = static_cast<int>(threadIdx.x);
        if (own < TAPS * TAPS) taps[own] = tap(p, own / TAPS, own % TAPS);
        __syncthreads();
    }
    const int64_t wide = p.columns.out * p.inner, strips = (p.rows.out + ROWS - 1) / ROWS, tasks = p.planes * strips * wide;
    const int64_t row_stride = p.columns.in * p.inner, step = static_cast<int64_t>(gridDim.x) * THREADS;
    for (int64_t task = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; task < tasks; task += step) {
        const int64_t at = task % wide, line = task / wide, strip = line % strips, plane = line / strips;
        const int64_t ox = at / p.inner, channel = at % p.inner;
        const Span sx = resampling::span(p.columns, ox);
        const S* x = p.x + plane * p.rows.in * row_stride + channel;
        S* y = p.y + (plane * p.rows.out + strip * ROWS) * wide + at;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int64_t oy = strip * ROWS + r;
            if (oy < p.rows.out) y[r * wide] = narrow<S>(output<TAPS, UP, S, T>(p, taps, x, oy, sx, row_stride));
        }
    }
}

template <class S>
int launch(const Problem<S>& p, cudaStream_t stream) {
    const int64_t tasks = p.planes * ((p.rows.out + ROWS - 1) / ROWS) * p.columns.out * p.inner;
    int64_t blocks = (tasks + THREADS - 1) / THREADS;
    blocks = blocks < 1 << 20 ? blocks : 1 << 20;
    const unsigned grid = static_cast<unsigned>(blocks);
    const bool four = p.rows.taps == 4 && p.columns.taps == 4, same = p.rows.up == p.columns.up;
    if (four && same && p.rows.up == 1) {
        run<4, 1, S><<<grid, THREADS, 0, stream>>>(p);
    } else if (four && same && p.rows.up == 2) {
        run<4, 2, S><<<grid, THREADS, 0, stream>>>(p);
    } else {
        run<0, 1, S><<<grid, THREADS, 0, stream>>>(p);
    }
    return launched();
}

template <class S>
int typed(const void* x, void* y, const double* f, const Axis& rows, const Axis& columns, int64_t planes, int64_t inner,
          int separable, double gain, void* stream) {
    const Problem<S> p{static_cast<const S*>(x), static_cast<S*>(y), f, rows, columns, planes, inner, separable, gain};
    return launch(p, static_cast<cudaStream_t>(stream));
}

}  // namespace

// As cpu_upfirdn2d, for memory of the current device (the filter's as well), on a stream of it.
extern "C" int cuda_upfirdn2d(int dtype, const void* x, void* y, const double* f, int64_t planes, int64_t inner, int64_t in_h,
                              int64_t in_w, int64_t out_h, int64_t out_w, int taps_h, int taps_w, int separable, int up_y,
                              int up_x, int down_y, int down_x, int64_t pad_y, int64_t pad_x, int flip, double gain,
                              void* stream) {
    const Axis rows{in_h, out_h, pad_y, taps_h, up_y, down_y, flip}, columns{in_w, out_w, pad_x, taps_w, up_x, down_x, flip};
    if (planes < 1 || inner < 1 || out_h < 1 || out_w < 1 || taps_h < 1 || taps_w < 1) return BAD_ARGUMENT;
    switch (dtype) {
        case FLOAT32: return typed<float>(x, y, f, rows, columns, planes, inner, separable, gain, stream);
        case FLOAT64: return typed<double>(x, y, f, rows, columns, planes, inner, separable, gain, stream);
        case BFLOAT16: return typed<__nv_bfloat16>(x, y, f, rows, columns, planes, inner, separable, gain, stream);
        case FLOAT16: return typed<__half>(x, y, f, rows, columns, planes, inner, separable, gain, stream);
    }
    return BAD_ARGUMENT;
}
