// bfloat16 on the host: the upper half of a float32.
#pragma once

#include <cstdint>
#include <cstring>

struct BFloat16 {
    uint16_t bits;

    BFloat16() = default;
    BFloat16(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, sizeof wide);
        const uint32_t rounded = wide + 0x7fff + ((wide >> 16) & 1);  // to nearest, ties to even
        bits = static_cast<uint16_t>(value != value ? 0x7fc0 : rounded >> 16);
    }
    operator float() const {
        const uint32_t wide = static_cast<uint32_t>(bits) << 16;
        float value;
        std::memcpy(&value, &wide, sizeof value);
        return value;
    }
};
