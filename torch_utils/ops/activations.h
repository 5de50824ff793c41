// Values, slopes and curvatures of the activations, for the host and the GPU.
#pragma once

#include <cmath>
#include <cstring>

#include "portable.h"

namespace activations {

// The order is that of activation_funcs in bias_act.py.
enum Kind : int { LINEAR, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH, NUM_KINDS };

constexpr double SELU_ALPHA = 1.6732632423543772848170429916717;  // arXiv:1706.02515
constexpr double SELU_SCALE = 1.0507009873554804934193349852946;
constexpr double SOFTPLUS_LINEAR = 20;  // from here on torch's softplus is the identity

// e^x = 2^k (1 + p) with |x - k ln 2| <= ln 2 / 2. The mathematics library's functions would keep loops from being
// vectorised; these hold a few units in the last place for finite x, which are first limited to where e^x is normal.
template <class T>
struct Exponential {
    T power;  // 2^k
    T rest;   // p = e^(x - k ln 2) - 1
};

SHARED Exponential<double> exponential(double x) {
    x = x < -708 ? -708 : x > 709 ? 709 : x;
    const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, kept in the low bits
    const double shifted = x * 1.4426950408889634 + magic;
    const double k = shifted - magic;
    const double r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10;  // ln 2 in two parts
    double p = 1 / 6227020800.0;  // Taylor; the next term is below 1e-17 of p
    p = p * r + 1 / 479001600.0;
    p = p * r + 1 / 39916800.0;
    p = p * r + 1 / 3628800.0;
    p = p * r + 1 / 362880.0;
    p = p * r + 1 / 40320.0;
    p = p * r + 1 / 5040.0;
    p = p * r + 1 / 720.0;
    p = p * r + 1 / 120.0;
    p = p * r + 1 / 24.0;
    p = p * r + 1 / 6.0;
    p = p * r + 0.5;
    p = p * r * r + r;
    uint64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52;
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return {power, p};
}

SHARED Exponential<float> exponential(float x) {
    x = x < -87 ? -87 : x > 88 ? 88 : x;
    const float magic = 12582912.0f;  // 1.5 * 2^23
    const float shifted = x * 1.44269504f + magic;
    const float k = shifted - magic;
    const float r = (x - k * 0.693145751953125f) - k * 1.428606765330187e-6f;
    float p = 1 / 5040.0f;
    p = p * r + 1 / 720.0f;
    p = p * r + 1 / 120.0f;
    p = p * r + 1 / 24.0f;
    p = p * r + 1 / 6.0f;
    p = p * r + 0.5f;
    p = p * r * r + r;
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return {power, p};
}

template <class T>
SHARED T exp_of(T x) {
    const Exponential<T> e = exponential(x);
    return e.power + e.power * e.rest;
}

// e^x - 1 without the loss of digits near 0.
template <class T>
SHARED T expm1_of(T x) {
    const Exponential<T> e = exponential(x);
    return e.power * e.rest + (e.power - 1);
}

// sum of q^i / (2 i + 1) from i = FIRST on, 17 terms in all; a loop of constants that need no unrolling.
template <int FIRST, class T>
SHARED T artanh_series(T q) {
    if constexpr (FIRST == 17) {
        return 0;
    } else {
        return T(1.0 / (2 * FIRST + 1)) + q * artanh_series<FIRST + 1>(q);
    }
}

// ln(1 + u) for 0 <= u <= 1, as 2 artanh(s) with s = u / (2 + u) <= 1/3.
template <class T>
SHARED T log1p_of(T u) {
    const T s = u / (2 + u);
    return 2 * s * artanh_series<0>(s * s);
}

template <class T>
SHARED T sigmoid_of(T z) {
    return 1 / (1 + exp_of(-z));
}

template <class T>
SHARED T tanh_of(T z) {
    const T e = expm1_of(-2 * (z < 0 ? -z : z));
    const T t = -e / (2 + e);
    return z < 0 ? -t : t;
}

// Where softplus is taken as linear, e^-z counts as 0.
template <class T>
SHARED T softplus_argument(T z) {
    return z > T(SOFTPLUS_LINEAR) ? T(1000) : z;
}

template <int KIND, class T>
SHARED T value(T z, T alpha) {
    if (KIND == RELU) return z <= 0 ? T(0) : z;
    if (KIND == LRELU) return z > 0 ? z : z * alpha;
    if (KIND == TANH) return tanh_of(z);
    if (KIND == SIGMOID) return sigmoid_of(z);
    if (KIND == ELU) return z > 0 ? z : expm1_of(z);
    if (KIND == SELU) return T(SELU_SCALE) * (z > 0 ? z : T(SELU_ALPHA) * expm1_of(z));
    if (KIND == SOFTPLUS) return (z > 0 ? z : T(0)) + log1p_of(exp_of(z < 0 ? z : -softplus_argument(z)));
    if (KIND == SWISH) return z * sigmoid_of(z);
    return z;
}

template <int KIND, class T>
SHARED T slope(T z, T alpha) {
    if (KIND == RELU) return z <= 0 ? T(0) : T(1);
    if (KIND == LRELU) return z > 0 ? T(1) : alpha;
    if (KIND == TANH) {
        const T t = tanh_of(z);
        return 1 - t * t;
    }
    if (KIND == SIGMOID) {
        const T s = sigmoid_of(z);
        return s * (1 - s);
    }
    if (KIND == ELU) return z > 0 ? T(1) : exp_of(z);
    if (KIND == SELU) return T(SELU_SCALE) * (z > 0 ? T(1) : T(SELU_ALPHA) * exp_of(z));
    if (KIND == SOFTPLUS) return sigmoid_of(softplus_argument(z));
    if (KIND == SWISH) {
        const T s = sigmoid_of(z);
        return s * (1 + z * (1 - s));
    }
    return 1;
}

template <int KIND, class T>
SHARED T curvature(T z, T) {
    if (KIND == TANH) {
        const T t = tanh_of(z);
        return -2 * t * (1 - t * t);
    }
    const T s = sigmoid_of(KIND == SOFTPLUS ? softplus_argument(z) : z);
    if (KIND == SIGMOID) return s * (1 - s) * (1 - 2 * s);
    if (KIND == ELU) return z > 0 ? T(0) : exp_of(z);
    if (KIND == SELU) return z > 0 ? T(0) : T(SELU_SCALE * SELU_ALPHA) * exp_of(z);
    if (KIND == SOFTPLUS) return s * (1 - s);
    if (KIND == SWISH) return s * (1 - s) * (2 + z * (1 - 2 * s));
    return 0;
}

template <class T>
struct Constants {
    T alpha, gain, clamp;  // a negative clamp limits nothing
};

// y = clamp(gain * act(z)) for order 0; g dy/dz for order 1; g d2y/dz2 for order 2. Like torch.clamp, the limits themselves
// let gradients through, and what is not a number does not.
template <int KIND, int ORDER, class T>
SHARED T apply(T z, T g, const Constants<T>& c) {
    const T y = c.gain * value<KIND>(z, c.alpha);
    if (ORDER == 0) return c.clamp < 0 ? y : y < -c.clamp ? -c.clamp : y > c.clamp ? c.clamp : y;
    const bool inside = (c.clamp < 0) | ((y >= -c.clamp) & (y <= c.clamp));
    const T gain = inside ? c.gain : T(0);  // multiplied, since a branch around the derivative would not be vectorised
    return g * gain * (ORDER == 1 ? slope<KIND>(z, c.alpha) : curvature<KIND>(z, c.alpha));
}

}  // namespace activations
