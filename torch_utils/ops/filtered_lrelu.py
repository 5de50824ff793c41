"""StyleGAN3's activation without aliasing (arXiv:2106.12423, figure 4b), for sources embedded in pickles; no kernel of its own."""

from collections.abc import Sequence

import torch

from .bias_act import bias_act
from .upfirdn2d import upfirdn2d


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None = None,
    fd: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 2**0.5,
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """x + b at `up` times the resolution by the filter `fu`, through a leaky ReLU, and at 1 / `down` of that by `fd`.

    The ReLU has the `slope` below 0, its result is multiplied by `gain` and limited to [-clamp, clamp]. `padding` counts pixels of
    the higher resolution. `impl` is that of the operations it consists of. Keeps the dtype of `x`.
    """
    x = bias_act(x, b, impl=impl)
    x = upfirdn2d(x, fu, up=up, padding=padding, flip_filter=flip_filter, gain=up**2, impl=impl)
    x = bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp, impl=impl)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter, impl=impl)
