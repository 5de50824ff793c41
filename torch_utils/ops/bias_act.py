"""Bias, activation, gain and clamp in one operation."""

import math
from collections.abc import Callable
from ctypes import c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .. import custom_ops

Pointwise = Callable[[torch.Tensor, float], torch.Tensor]

MIN_ELEMENTS = 49_152  # below this the kernel, a call of which costs microseconds more than torch's, is slower


@dataclass(frozen=True)
class Activation:
    """A pointwise function of (x, alpha) with two derivatives, its default slope, and the gain that keeps unit variance."""

    func: Pointwise
    slope: Pointwise
    curvature: Pointwise
    def_alpha: float = 0.0
    def_gain: float = 1.0


def _below(x: torch.Tensor, inside: torch.Tensor | float, outside: float) -> torch.Tensor:
    return torch.where(x > 0, outside, inside)


def _sigmoid_slope(x: torch.Tensor) -> torch.Tensor:
    return x.sigmoid() * (-x).sigmoid()


def _swish_slope(x: torch.Tensor) -> torch.Tensor:
    return x.sigmoid() + x * _sigmoid_slope(x)


_SELU_SCALE = 1.0507009873554804934193349852946  # arXiv:1706.02515
_SELU_SLOPE = 1.6732632423543772848170429916717 * _SELU_SCALE

# The order is that of Kind in activations.h.
activation_funcs = {
    "linear": Activation(lambda x, alpha: x, lambda x, alpha: torch.ones_like(x), lambda x, alpha: torch.zeros_like(x)),
    "relu": Activation(
        lambda x, alpha: F.relu(x),
        lambda x, alpha: (x > 0).to(x.dtype),
        lambda x, alpha: torch.zeros_like(x),
        def_gain=math.sqrt(2),
    ),
    "lrelu": Activation(
        lambda x, alpha: F.leaky_relu(x, alpha),
        lambda x, alpha: _below(x, torch.full_like(x, alpha), 1),
        lambda x, alpha: torch.zeros_like(x),
        def_alpha=0.2,
        def_gain=math.sqrt(2),
    ),
    "tanh": Activation(
        lambda x, alpha: x.tanh(),
        lambda x, alpha: 1 - x.tanh().square(),
        lambda x, alpha: -2 * x.tanh() * (1 - x.tanh().square()),
    ),
    "sigmoid": Activation(
        lambda x, alpha: x.sigmoid(),
        lambda x, alpha: _sigmoid_slope(x),
        lambda x, alpha: _sigmoid_slope(x) * (1 - 2 * x.sigmoid()),
    ),
    "elu": Activation(
        lambda x, alpha: F.elu(x), lambda x, alpha: _below(x, x.exp(), 1), lambda x, alpha: _below(x, x.exp(), 0)
    ),
    "selu": Activation(
        lambda x, alpha: F.selu(x),
        lambda x, alpha: _below(x, _SELU_SLOPE * x.exp(), _SELU_SCALE),
        lambda x, alpha: _below(x, _SELU_SLOPE * x.exp(), 0),
    ),
    "softplus": Activation(
        lambda x, alpha: F.softplus(x),
        lambda x, alpha: torch.where(x > 20, 1, x.sigmoid()),  # torch's softplus is linear from there on
        lambda x, alpha: torch.where(x > 20, 0, _sigmoid_slope(x)),
    ),
    "swish": Activation(
        lambda x, alpha: F.silu(x),
        lambda x, alpha: _swish_slope(x),
        lambda x, alpha: _sigmoid_slope(x) * (2 + x * (1 - 2 * x.sigmoid())),
        def_gain=math.sqrt(2),
    ),
}
_KINDS = list(activation_funcs)
_PIECEWISE_LINEAR = ("linear", "relu", "lrelu")


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """clamp(gain * act(x + b)), with `b` [C] added along `dim` and the result limited to [-clamp, clamp].

    `alpha` and `gain` default to the activation's own. Shape and dtype of `x` are kept. `impl`: see docs/ops.md. Raises
    KeyError for an unknown activation, ValueError for a bias of another shape.
    """
    spec = activation_funcs[act]
    if b is not None:
        if b.ndim != 1 or b.shape[0] != x.shape[dim]:
            raise ValueError(f"a bias along dimension {dim} of {list(x.shape)} is not of shape {list(b.shape)}")
        b = b.to(x.dtype)
    alpha = float(spec.def_alpha if alpha is None else alpha)
    gain = float(spec.def_gain if gain is None else gain)
    clamp = -1.0 if clamp is None else float(clamp)
    if b is None and act == "linear" and gain == 1 and clamp < 0:
        return x
    if custom_ops.use_kernel(impl, x, MIN_ELEMENTS):
        return _operation(x, b, None, 0, dim % x.ndim, _KINDS.index(act), alpha, gain, clamp)
    return _reference(x, b, dim, spec.func, alpha, gain, clamp)


def _reference(
    x: torch.Tensor, b: torch.Tensor | None, dim: int, func: Pointwise, alpha: float, gain: float, clamp: float
) -> torch.Tensor:
    x = func(_biased(x, b, dim), alpha)
    if gain != 1:
        x = x * gain
    return x if clamp < 0 else x.clamp(-clamp, clamp)


def _biased(x: torch.Tensor, b: torch.Tensor | None, dim: int) -> torch.Tensor:
    return x if b is None else x + b.reshape([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)])


def _reference_derivative(x, b, g, order, dim, kind, alpha, gain, clamp) -> torch.Tensor:
    """What the op computes for order 1 and 2."""
    spec = activation_funcs[_KINDS[kind]]
    z = _biased(x, b, dim)
    derivative = g * gain * (spec.slope if order == 1 else spec.curvature)(z, alpha)
    if clamp < 0:
        return derivative
    return torch.where((gain * spec.func(z, alpha)).abs() <= clamp, derivative, 0)


# The operation: with z = x + b and y(z) the function of bias_act it is y for order 0, g dy/dz for order 1, and g d2y/dz2 for
# order 2, so that its derivatives are itself.

_ARGUMENTS = (
    *(c_int,) * 3,  # dtype, order, act
    *(c_void_p,) * 4,  # x, b, g, y
    *(c_int64,) * 3,  # size, channels, inner
    *(c_double,) * 3,  # alpha, gain, clamp
)


def _layout(x: torch.Tensor, dim: int) -> torch.memory_format:
    """The memory format of the result, into which arguments with other strides are converted."""
    last = x.ndim == 4 and dim == 1 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _fake(x, b, g, order, dim, act, alpha, gain, clamp) -> torch.Tensor:
    return torch.empty_like(x, memory_format=_layout(x, dim))


def _run(x, b, g, order, dim, act, alpha, gain, clamp) -> torch.Tensor:
    """The op on a CPU or GPU; by the reference path if there are no kernels."""
    device, layout = x.device.type, _layout(x, dim)
    if x.dtype not in custom_ops.SUPPORTED[device] or custom_ops.why_not(device) is not None:
        if order:
            y = _reference_derivative(x, b, g, order, dim, act, alpha, gain, clamp)
        else:
            y = _reference(x, b, dim, activation_funcs[_KINDS[act]].func, alpha, gain, clamp)
        return y.clone(memory_format=layout)
    x = x.contiguous(memory_format=layout)
    b = None if b is None else b.contiguous()
    g = None if g is None else g.contiguous(memory_format=layout)
    y = torch.empty_like(x)
    if y.numel() == 0:
        return y
    inner = 1 if layout == torch.channels_last else math.prod(x.shape[dim + 1 :])
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in (x, b, g, y)]
    arguments = [custom_ops.DTYPES[x.dtype], order, act, *pointers, x.numel(), x.shape[dim], inner, alpha, gain, clamp]
    custom_ops.launch("bias_act", _ARGUMENTS, arguments, x)
    return y


def _remember(ctx, inputs, output) -> None:
    x, b, g, *ctx.options = inputs
    ctx.plain = _is_plain(ctx.options)
    ctx.save_for_backward(*((None, None, None) if ctx.plain else (x, b, g)))


def _is_plain(options: list) -> bool:
    """Whether dy/dz is the gain everywhere, so that nothing need be kept for it."""
    order, _, act, _, _, clamp = options
    return order == 0 and _KINDS[act] == "linear" and clamp < 0


def _backward(ctx, h: torch.Tensor):
    order, dim, _, _, gain, _ = ctx.options
    x, b, g = ctx.saved_tensors
    dz = dg = db = None
    if any(ctx.needs_input_grad[:2]):
        dz = h * gain if ctx.plain else _derivative(x, b, h if g is None else h * g, order + 1, ctx.options[1:])
        if ctx.needs_input_grad[1]:
            db = dz.sum([axis for axis in range(dz.ndim) if axis != dim])
    if ctx.needs_input_grad[2]:
        dg = _derivative(x, b, h, order, ctx.options[1:])
    return dz, db, dg, None, None, None, None, None, None


def _derivative(x, b, g, order: int, options: list) -> torch.Tensor:
    """Raises NotImplementedError for third derivatives of smooth activations."""
    act = _KINDS[options[1]]
    if order >= 2 and act in _PIECEWISE_LINEAR:
        return torch.zeros_like(x)
    if order > 2:
        raise NotImplementedError(f"the kernels of bias_act have no third derivative of {act!r}; impl='ref' has")
    return _operation(x, b, g, order, *options)


def _over_batch(info, in_dims, x, b, g, order, dim, *options):
    """The mapped dimension becomes the first; a bias that differs between samples is added first."""
    tensors = []
    for tensor, axis in zip((x, b, g), in_dims[:3], strict=True):
        tensors.append(tensor if axis is None else tensor.movedim(axis, 0))
    x, b, g = tensors
    if in_dims[0] is None:
        x = x.expand(info.batch_size, *x.shape)
    if g is not None and in_dims[2] is None:
        g = g.expand_as(x)
    if b is not None and in_dims[1] is not None:
        x = x + b.reshape([size if axis in (0, dim + 1) else 1 for axis, size in enumerate(x.shape)])
        b = None
    return _operation(x, b, g, order, dim + 1, *options), 0


_operation = custom_ops.Operation(
    "bias_act",
    "(Tensor x, Tensor? b, Tensor? g, int order, int dim, int act, float alpha, float gain, float clamp) -> Tensor",
    _run,
    _fake,
    _remember,
    _backward,
    _over_batch,
)
