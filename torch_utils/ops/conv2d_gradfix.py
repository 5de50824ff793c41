"""Convolutions under the name by which sources embedded in StyleGAN pickles import them. torch needs no correction any more."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.functional import conv2d, conv_transpose2d

__all__ = ["conv2d", "conv_transpose2d", "no_weight_gradients"]


@contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Changes nothing: gradients of weights that nobody asks for are not computed anyway."""
    yield
