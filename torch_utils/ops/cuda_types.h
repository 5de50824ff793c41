// The types that memory may hold on a GPU, and what they are computed with.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "portable.h"

template <class S>
struct Computed {
    using Type = float;
};
template <>
struct Computed<double> {
    using Type = double;
};

template <class S>
__device__ __forceinline__ typename Computed<S>::Type widen(S value) {
    return static_cast<typename Computed<S>::Type>(value);
}
template <>
__device__ __forceinline__ float widen<__half>(__half value) {
    return __half2float(value);
}
template <>
__device__ __forceinline__ float widen<__nv_bfloat16>(__nv_bfloat16 value) {
    return __bfloat162float(value);
}

template <class S>
__device__ __forceinline__ S narrow(typename Computed<S>::Type value) {
    return static_cast<S>(value);
}
template <>
__device__ __forceinline__ __half narrow<__half>(float value) {
    return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
    return __float2bfloat16_rn(value);
}

// What an exported function returns after a launch: DONE, or CUDA's own code negated.
inline int launched() { return -static_cast<int>(cudaGetLastError()); }
