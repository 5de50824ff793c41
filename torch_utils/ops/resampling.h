// Which taps meet which pixels in upfirdn2d: index arithmetic of one axis, the same on the host and the GPU.
#pragma once

#include "portable.h"

namespace resampling {

struct Axis {
    int64_t in, out;  // pixels
    int64_t pad;      // zeros before the first pixel, after the insertion of zeros; negative crops
    int taps, up, down;
    int flip;  // taps in given order (correlation) instead of mirrored (convolution)
};

// The taps that fall on pixels and not on inserted zeros: `first + j` meets tap `tap + j * up`, for j < count.
struct Span {
    int64_t first;
    int tap, count;
};

// For output pixel `o`, as if the line went on without end.
SHARED Span endless_span(const Axis& a, int64_t o) {
    const int64_t start = o * a.down - a.pad;  // where the first tap falls among pixels and inserted zeros
    const int64_t rest = start % a.up;         // of the sign of start
    const int tap = static_cast<int>(rest > 0 ? a.up - rest : -rest);
    const int count = tap < a.taps ? (a.taps - tap + a.up - 1) / a.up : 0;
    return {(start + tap) / a.up, tap, count};
}

// The same, cut to the pixels that there are.
SHARED Span span(const Axis& a, int64_t o) {
    Span s = endless_span(a, o);
    const int64_t before = s.first < 0 ? (-s.first < s.count ? -s.first : s.count) : 0;
    s.first += before;
    s.tap += static_cast<int>(before) * a.up;
    s.count -= static_cast<int>(before);
    const int64_t room = a.in > s.first ? a.in - s.first : 0;
    if (s.count > room) s.count = static_cast<int>(room);
    return s;
}

// Index in the caller's filter of the k-th tap along a line.
SHARED int given_tap(const Axis& a, int k) { return a.flip ? k : a.taps - 1 - k; }

}  // namespace resampling
