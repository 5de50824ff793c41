"""Convolution together with up- or downsampling by an integer factor."""

import torch
import torch.nn.functional as F

from . import conv3x3
from .upfirdn2d import Factor, _filter_size, _padding, upfirdn2d


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Factor = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> torch.Tensor:
    """[N, C, H, W] convolved with `w` [C', C / groups, k, k] at `up` times the resolution, kept at every `down`-th pixel.

    `f` comes from `setup_filter` and guards against aliasing on either side. `padding` is at the upsampled resolution.
    `flip_weight=False` means convolution, True (as conv2d) correlation.
    """
    taps_x, taps_y = _filter_size(f)
    x0, x1, y0, y1 = _padding(padding)
    if up > 1:
        x0, x1 = x0 + (taps_x + up - 1) // 2, x1 + (taps_x - up) // 2
        y0, y1 = y0 + (taps_y + up - 1) // 2, y1 + (taps_y - up) // 2
    if down > 1:
        x0, x1 = x0 + (taps_x - down + 1) // 2, x1 + (taps_x - down) // 2
        y0, y1 = y0 + (taps_y - down + 1) // 2, y1 + (taps_y - down) // 2
    pads = [x0, x1, y0, y1]
    kernel_x, kernel_y = int(w.shape[3]), int(w.shape[2])
    if kernel_x == kernel_y == 1 and down > 1 and up == 1:  # pointwise: shrink first, there is less to multiply
        x = upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter)
        return _conv(x, w, groups, flip_weight)
    if kernel_x == kernel_y == 1 and up > 1 and down == 1:  # pointwise: enlarge last
        x = _conv(x, w, groups, flip_weight)
        return upfirdn2d(x, f, up=up, padding=pads, gain=up**2, flip_filter=flip_filter)
    if down > 1 and up == 1:
        x = upfirdn2d(x, f, padding=pads, flip_filter=flip_filter)
        return _conv(x, w, groups, flip_weight, stride=down)
    if up > 1:
        return _transposed(x, w, f, up, down, pads, groups, flip_weight, flip_filter)
    if x0 == x1 and y0 == y1 and x0 >= 0 and y0 >= 0:
        return _conv(x, w, groups, flip_weight, padding=(y0, x0))
    return _conv(upfirdn2d(x, None, padding=pads), w, groups, flip_weight)


def _transposed(x, w, f, up, down, pads, groups, flip_weight, flip_filter) -> torch.Tensor:
    """Upsampling as a transposed convolution (no multiplications with inserted zeros), then the filter."""
    out_channels, in_channels, kernel_y, kernel_x = (int(size) for size in w.shape)
    # conv_transpose2d wants [in, out / groups, ...]
    split = w.reshape(groups, out_channels // groups, in_channels, kernel_y, kernel_x)
    transposed = split.transpose(1, 2).reshape(groups * in_channels, out_channels // groups, kernel_y, kernel_x)
    if flip_weight:
        transposed = transposed.flip([2, 3])
    # A transposed convolution pads by kernel - 1 on the left and kernel - up on the right; the rest is left to the filter.
    x0, x1, y0, y1 = pads
    x0, x1 = x0 - (kernel_x - 1), x1 - (kernel_x - up)
    y0, y1 = y0 - (kernel_y - 1), y1 - (kernel_y - up)
    crop_x, crop_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    x = F.conv_transpose2d(x, transposed, stride=up, padding=(crop_y, crop_x), groups=groups)
    rest = [x0 + crop_x, x1 + crop_x, y0 + crop_y, y1 + crop_y]
    x = upfirdn2d(x, f, padding=rest, gain=up**2, flip_filter=flip_filter)
    return x if down == 1 else upfirdn2d(x, f, down=down, flip_filter=flip_filter)


def _conv(x, w, groups, flip_weight, stride=1, padding=(0, 0)) -> torch.Tensor:
    w = w if flip_weight else w.flip([2, 3])
    if groups == stride == 1 and tuple(padding) == (1, 1) and (prepared := conv3x3.prepare(x, w)) is not None:
        return conv3x3.conv3x3(*prepared)
    return F.conv2d(x, w, stride=stride, padding=padding, groups=groups)
