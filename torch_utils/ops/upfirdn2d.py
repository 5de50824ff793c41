"""Upsample with zeros, pad, filter, downsample: the resampling operation of StyleGAN."""

import contextlib
import sys
from collections.abc import Sequence
from ctypes import c_double, c_int, c_int64, c_void_p

import torch
import torch.nn.functional as F

from .. import custom_ops

Factor = int | Sequence[int]

MIN_ELEMENTS = 4096  # below this a kernel's call costs more than it saves: benchmarks/ops.py


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
    impl: str = "auto",
) -> torch.Tensor:
    """[N, C, H, W] -> [N, C, H', W'] with H' = (H up_y + pad_y0 + pad_y1 - taps_y) // down_y + 1, and W' alike.

    Inserts up - 1 zeros after each pixel, pads (x0, x1, y0, y1; negative crops), convolves with `f` (correlates if
    `flip_filter`), scales by `gain` and keeps every `down`-th pixel. The dtype of `x` is kept. `impl`: see docs/ops.md.
    Raises ValueError for factors below 1 and where no pixel would be left.
    """
    ups, downs, pads = _pair(up), _pair(down), _padding(padding)
    _out_size(x, f, ups, downs, pads)
    min_elements = sys.maxsize if f is None else MIN_ELEMENTS  # torch's own slices and padding are as fast as can be
    fixed = f is None or not f.requires_grad or not torch.is_grad_enabled()
    if custom_ops.use_kernel(impl, x, min_elements, differentiable=fixed):
        return _operation(x, f, ups, downs, pads, flip_filter, gain)
    return _reference(x, f, ups, downs, pads, flip_filter, gain)


def _reference(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip_filter: bool,
    gain: float,
) -> torch.Tensor:
    """The definition, one step after the other; all factors as (x, y), the padding as (x0, x1, y0, y1)."""
    n, c, h, w = x.shape if not torch.jit.is_tracing() else (x.shape[0], *map(int, x.shape[1:]))
    if max(up) > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up[0] - 1, 0, 0, 0, up[1] - 1]).reshape(n, c, h * up[1], w * up[0])
    for signed in ([max(p, 0) for p in padding], [min(p, 0) for p in padding]):  # crops may reach into the padding
        if any(signed):
            x = F.pad(x, signed)
    if f is None:
        return (x if gain == 1 else x * gain)[:, :, :: down[1], :: down[0]]
    taps = f.to(x.dtype)
    if not flip_filter:
        taps = taps.flip(list(range(taps.ndim)))  # conv2d correlates; a convolution needs the mirrored taps
    with _no_autocast(x):
        if taps.ndim == 1:
            x = F.conv2d(x, taps[None, None, None, :].expand(c, -1, -1, -1), groups=c, stride=(1, down[0]))
            return F.conv2d(x, gain * taps[None, None, :, None].expand(c, -1, -1, -1), groups=c, stride=(down[1], 1))
        return F.conv2d(x, gain * taps[None, None].expand(c, -1, -1, -1), groups=c, stride=(down[1], down[0]))


def _no_autocast(x: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """Filters run in the dtype that they are given: rounding here would blur what a network resamples several times."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Filters at the same resolution; `padding` is on top of what keeps the size."""
    x0, x1, y0, y1 = _padding(padding)
    taps_x, taps_y = _filter_size(f)
    pads = [x0 + taps_x // 2, x1 + (taps_x - 1) // 2, y0 + taps_y // 2, y1 + (taps_y - 1) // 2]
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Enlarges by `up`, keeping brightness; `padding` is on top of what aligns the pixel centers."""
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
    impl: str = "auto",
) -> torch.Tensor:
    """Shrinks by `down`, keeping brightness; `padding` is on top of what aligns the pixel centers."""
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
    return (1, 1) if f is None else (int(f.shape[-1]), int(f.shape[0]))  # torch.jit.trace makes tensors of sizes


def _out_size(
    x: torch.Tensor, f: torch.Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """(height, width) of the result. Raises ValueError where there would be none, and for tensors of other dimensions."""
    if x.ndim != 4 or (f is not None and f.ndim not in (1, 2)):
        shapes = f"{list(x.shape)} and {None if f is None else list(f.shape)}"
        raise ValueError(f"upfirdn2d takes images [N, C, H, W] and a filter [taps] or [height, width], got {shapes}")
    taps_x, taps_y = _filter_size(f)
    height = (x.shape[2] * up[1] + padding[2] + padding[3] - taps_y) // down[1] + 1
    width = (x.shape[3] * up[0] + padding[0] + padding[1] - taps_x) // down[0] + 1
    if height < 1 or width < 1:
        raise ValueError(
            f"nothing is left of {x.shape[2]}x{x.shape[3]} pixels: up={up}, down={down}, padding={padding} and "
            f"{taps_y}x{taps_x} taps make {height}x{width}"
        )
    return height, width


_ARGUMENTS = (
    *(c_int, c_void_p, c_void_p, c_void_p),  # dtype, x, y, f
    *(c_int64,) * 6,  # planes, inner, in_h, in_w, out_h, out_w
    *(c_int,) * 7,  # taps_h, taps_w, separable, up_y, up_x, down_y, down_x
    *(c_int64, c_int64, c_int, c_double),  # pad_y, pad_x, flip, gain
)


def _fake(x, f, up, down, padding, flip, gain) -> torch.Tensor:
    height, width = _out_size(x, f, up, down, padding)
    return x.new_empty([x.shape[0], x.shape[1], height, width]).to(memory_format=_layout(x))


def _layout(x: torch.Tensor) -> torch.memory_format:
    """The memory format of the result, into which `x` is converted if it has other strides."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _run(x, f, up, down, padding, flip, gain) -> torch.Tensor:
    """The op on a CPU or GPU; by the reference path if there are no kernels."""
    device = x.device.type
    if x.dtype not in custom_ops.SUPPORTED[device] or custom_ops.why_not(device) is not None:
        return _reference(x, f, up, down, padding, flip, gain).clone(memory_format=_layout(x))
    layout = _layout(x)
    x = x.contiguous(memory_format=layout)
    height, width = _out_size(x, f, up, down, padding)
    n, c, in_h, in_w = x.shape
    y = torch.empty([n, c, height, width], dtype=x.dtype, device=x.device, memory_format=layout)
    if y.numel() == 0:
        return y
    planes, inner = (n * c, 1) if layout == torch.contiguous_format else (n, c)
    taps = torch.ones([1, 1], dtype=torch.float64, device=x.device) if f is None else f.double().contiguous()
    taps_x, taps_y = _filter_size(taps)
    arguments = [custom_ops.DTYPES[x.dtype], x.data_ptr(), y.data_ptr(), taps.data_ptr()]
    arguments += [planes, inner, in_h, in_w, height, width, taps_y, taps_x, taps.ndim == 1]
    arguments += [up[1], up[0], down[1], down[0], padding[2], padding[0], flip, gain]
    custom_ops.launch("upfirdn2d", _ARGUMENTS, arguments, x)
    return y


def _remember(ctx, inputs, output) -> None:
    x, f, ctx.up, ctx.down, ctx.padding, ctx.flip, ctx.gain = inputs
    ctx.size = x.shape[2:]
    ctx.save_for_backward(f)


def _backward(ctx, h: torch.Tensor):
    """The transposed operation: up and down change places, the filter is mirrored, the padding brings back the size."""
    if ctx.needs_input_grad[1]:
        raise NotImplementedError("the kernels of upfirdn2d have no gradient of the filter; impl='ref' has")
    (f,) = ctx.saved_tensors
    taps = _filter_size(f)
    padding = []
    for axis in (0, 1):
        before, size, out = ctx.padding[2 * axis], ctx.size[1 - axis], h.shape[3 - axis]
        padding += [taps[axis] - 1 - before, size * ctx.up[axis] - out * ctx.down[axis] + before - ctx.up[axis] + 1]
    dx = _operation(h, f, ctx.down, ctx.up, padding, not ctx.flip, ctx.gain)
    return dx, None, None, None, None, None, None


def _over_batch(info, in_dims, x, f, up, down, padding, flip, gain):
    """A batch of batches is a larger batch; a batch of filters is refused."""
    if in_dims[1] is not None:
        raise NotImplementedError("upfirdn2d cannot be mapped over filters; call it once for each filter")
    x = x.movedim(in_dims[0], 0)
    y = _operation(x.flatten(0, 1), f, up, down, padding, flip, gain)
    return y.unflatten(0, x.shape[:2]), 0


_operation = custom_ops.Operation(
    "upfirdn2d",
    "(Tensor x, Tensor? f, int[] up, int[] down, SymInt[] padding, bool flip, float gain) -> Tensor",
    _run,
    _fake,
    _remember,
    _backward,
    _over_batch,
)
