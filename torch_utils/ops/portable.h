// What the kernels of both devices share: one spelling of "runs on the host and on the GPU", and the types by number.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SHARED __host__ __device__ __forceinline__
#else
#define SHARED inline
#endif

// The order is that of DTYPES in custom_ops.py.
enum Dtype : int { FLOAT32 = 0, FLOAT64 = 1, BFLOAT16 = 2, FLOAT16 = 3 };

// What an exported function returns. The order is that of ERRORS in custom_ops.py; CUDA's own codes are negated.
enum Status : int { DONE = 0, BAD_ARGUMENT = 1, NO_MEMORY = 2 };
