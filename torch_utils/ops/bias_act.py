"""Bias, activation, gain and clamp in one operation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Activation:
    """A pointwise function of (x, alpha), its default slope, and the gain that keeps unit variance."""

    func: Callable[[torch.Tensor, float], torch.Tensor]
    def_alpha: float = 0.0
    def_gain: float = 1.0


activation_funcs = {
    "linear": Activation(lambda x, alpha: x),
    "relu": Activation(lambda x, alpha: F.relu(x), def_gain=math.sqrt(2)),
    "lrelu": Activation(lambda x, alpha: F.leaky_relu(x, alpha), def_alpha=0.2, def_gain=math.sqrt(2)),
    "tanh": Activation(lambda x, alpha: x.tanh()),
    "sigmoid": Activation(lambda x, alpha: x.sigmoid()),
    "elu": Activation(lambda x, alpha: F.elu(x)),
    "selu": Activation(lambda x, alpha: F.selu(x)),
    "softplus": Activation(lambda x, alpha: F.softplus(x)),
    "swish": Activation(lambda x, alpha: F.silu(x), def_gain=math.sqrt(2)),
}


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "ref",
) -> torch.Tensor:
    """clamp(gain * act(x + b)), with `b` [C] added along `dim` and the result limited to [-clamp, clamp].

    `alpha` and `gain` default to the activation's own. Shape and dtype of `x` are kept. `impl` is accepted because embedded
    sources pass it; there is one implementation today. Raises KeyError for an unknown activation.
    """
    spec = activation_funcs[act]
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + b.reshape(shape)
    x = spec.func(x, spec.def_alpha if alpha is None else alpha)
    gain = spec.def_gain if gain is None else gain
    if gain != 1:
        x = x * gain
    return x if clamp is None or clamp < 0 else x.clamp(-clamp, clamp)
