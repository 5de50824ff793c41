"""Fused multiply-add."""

import torch


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """a * b + c with broadcasting."""
    return torch.addcmul(c, a, b)
