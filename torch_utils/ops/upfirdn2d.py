"""Upsample with zeros, pad, filter, downsample: the resampling operation of StyleGAN."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

Factor = int | Sequence[int]


def setup_filter(
    f: torch.Tensor | Sequence[float] | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """A float32 filter for `upfirdn2d`: [taps] if kept separable (8 taps or more by default), else [height, width].

    `gain` is that of the 2-D filter: a separable one carries its square root.
    """
    taps = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32)
    if taps.ndim == 0:
        taps = taps[None]
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"a filter has one or two dimensions and at least one tap, got shape {list(taps.shape)}")
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= 8
    if taps.ndim == 1 and not separable:
        taps = torch.outer(taps, taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    return (taps * gain ** (taps.ndim / 2)).to(device)


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Factor = 1,
    down: Factor = 1,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "ref",
) -> torch.Tensor:
    """[N, C, H, W] -> [N, C, H', W'] with H' = (H up_y + pad_y0 + pad_y1 - taps_y) // down_y + 1, and W' alike.

    Inserts up - 1 zeros after each pixel, pads (x0, x1, y0, y1; negative crops), convolves with `f` (correlates if
    `flip_filter`), scales by `gain` and keeps every `down`-th pixel. `impl` is accepted because embedded sources pass it.
    """
    up_x, up_y = _pair(up)
    down_x, down_y = _pair(down)
    pad_x0, pad_x1, pad_y0, pad_y1 = _padding(padding)
    n, c, h, w = x.shape
    if up_x > 1 or up_y > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up_x - 1, 0, 0, 0, up_y - 1]).reshape(n, c, h * up_y, w * up_x)
    if (pad_x0, pad_x1, pad_y0, pad_y1) != (0, 0, 0, 0):
        x = F.pad(x, [pad_x0, pad_x1, pad_y0, pad_y1])
    if f is None:
        return (x if gain == 1 else x * gain)[:, :, ::down_y, ::down_x]
    taps = (f * gain ** (f.ndim / 2)).to(x.dtype)
    if not flip_filter:
        taps = taps.flip(list(range(taps.ndim)))  # conv2d correlates; a convolution needs the mirrored taps
    if taps.ndim == 1:
        x = F.conv2d(x, taps[None, None, None, :].expand(c, -1, -1, -1), groups=c, stride=(1, down_x))
        return F.conv2d(x, taps[None, None, :, None].expand(c, -1, -1, -1), groups=c, stride=(down_y, 1))
    return F.conv2d(x, taps[None, None].expand(c, -1, -1, -1), groups=c, stride=(down_y, down_x))


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "ref",
) -> torch.Tensor:
    """Filters at the same resolution; `padding` is on top of what keeps the size."""
    pads = _around(f, padding, lambda taps: (taps // 2, (taps - 1) // 2))
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "ref",
) -> torch.Tensor:
    """Enlarges by `up`, keeping brightness; `padding` is on top of what aligns the pixels' centres."""
    up_x, up_y = _pair(up)
    x0, x1, y0, y1 = _padding(padding)
    taps_x, taps_y = _filter_size(f)
    pads = [
        x0 + (taps_x + up_x - 1) // 2,
        x1 + (taps_x - up_x) // 2,
        y0 + (taps_y + up_y - 1) // 2,
        y1 + (taps_y - up_y) // 2,
    ]
    return upfirdn2d(x, f, up=up, padding=pads, flip_filter=flip_filter, gain=gain * up_x * up_y, impl=impl)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "ref",
) -> torch.Tensor:
    """Shrinks by `down`, keeping brightness; `padding` is on top of what aligns the pixels' centres."""
    down_x, down_y = _pair(down)
    x0, x1, y0, y1 = _padding(padding)
    taps_x, taps_y = _filter_size(f)
    pads = [
        x0 + (taps_x - down_x + 1) // 2,
        x1 + (taps_x - down_x) // 2,
        y0 + (taps_y - down_y + 1) // 2,
        y1 + (taps_y - down_y) // 2,
    ]
    return upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def _around(f, padding: Factor, split) -> list[int]:
    x0, x1, y0, y1 = _padding(padding)
    taps_x, taps_y = _filter_size(f)
    before_x, after_x = split(taps_x)
    before_y, after_y = split(taps_y)
    return [x0 + before_x, x1 + after_x, y0 + before_y, y1 + after_y]


def _pair(factor: Factor) -> tuple[int, int]:
    """(x, y) from one factor or two."""
    x, y = (factor, factor) if isinstance(factor, int) else factor
    if x < 1 or y < 1:
        raise ValueError(f"a resampling factor is at least 1, got {factor}")
    return x, y


def _padding(padding: Factor) -> tuple[int, int, int, int]:
    """(x0, x1, y0, y1) from one number, (x, y) or all four."""
    values = [padding] if isinstance(padding, int) else list(padding)
    if len(values) == 1:
        values *= 2
    if len(values) == 2:
        x, y = values
        values = [x, x, y, y]
    x0, x1, y0, y1 = values
    return x0, x1, y0, y1


def _filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    """Taps along x and y."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])
