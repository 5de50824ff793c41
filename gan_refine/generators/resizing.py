"""Downscaling by a whole factor as data sets are downscaled, its pseudo-inverse, and what it removes."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

FilterName = Literal["lanczos", "box"]
Large = Float[Tensor, "n c large large"]
Small = Float[Tensor, "n c small small"]
LOBES = 3  # of Pillow's Lanczos filter on each side


def lanczos(x: Float64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
    """sinc(x) sinc(x / 3) for |x| < 3, else 0."""
    return torch.where(x.abs() < LOBES, torch.sinc(x) * torch.sinc(x / LOBES), 0.0)


def box(x: Float64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
    """1 for |x| < 1/2, else 0: the mean of the pixels that one pixel replaces."""
    return (x.abs() < 0.5).double()


FILTERS: dict[FilterName, Callable[[Tensor], Tensor]] = {"lanczos": lanczos, "box": box}


def axis_weights(large: int, small: int, name: FilterName) -> Float64[Tensor, "small large"]:
    """The weight of each of `large` pixels in each of `small` along one axis: Pillow's anti-aliased resize, edges renormalized."""
    factor = large / small
    centers = (torch.arange(small, dtype=torch.float64) + 0.5) * factor
    pixels = torch.arange(large, dtype=torch.float64) + 0.5
    weights = FILTERS[name]((pixels - centers[:, None]) / factor)
    return weights / weights.sum(1, keepdim=True)


class Resize(nn.Module):
    """The linear map `down` from `large` to `small` pixels a side, and its pseudo-inverse `up`: down(up(y)) = y.

    So up(down(x)) is the orthogonal projection of x onto what `down` keeps, and `removed(x)` is the rest.
    """

    weights: Float[Tensor, "small large"]
    inverse: Float[Tensor, "large small"]

    def __init__(self, large: int, small: int, name: FilterName = "lanczos") -> None:
        super().__init__()
        self.factor = large // small
        weights = axis_weights(large, small, name)
        self.register_buffer("weights", weights.float(), persistent=False)
        self.register_buffer("inverse", torch.linalg.pinv(weights).float(), persistent=False)

    def down(self, images: Large) -> Small:
        """[n, c, large, large] -> [n, c, small, small]; may overshoot [-1, 1]."""
        return self.weights @ images @ self.weights.T

    def up(self, images: Small) -> Large:
        """The image of smallest norm that `down` maps to `images`."""
        return self.inverse @ images @ self.inverse.T

    def removed(self, images: Large) -> Large:
        """x - up(down(x)): what `down` removes."""
        return images - self.up(self.down(images))
