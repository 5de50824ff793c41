"""U-Net blocks whose group norms, shifts and SiLUs are one pass each, and whose 3x3 convolutions take a faster kernel.

Only the classes of blocks and convolutions change: weights, state dicts and results up to rounding stay. Pickles hold plain ones.
"""

import torch
import torch.nn.functional as F
from torch import nn

from gan_refine.foundation import persistence
from gan_refine.foundation.ops import conv3x3, group_norm_silu
from gan_refine.networks.edm_unet import Conv2d, GroupNorm, UNetBlock


@persistence.persistent_class
class FusedUNetBlock(UNetBlock):
    """A UNetBlock in every respect but its speed."""

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        if not group_norm_silu.is_fast(x):
            return super().forward(x, emb)
        hidden = self.conv0(_normalize(self.norm0, x, None, None))
        scale, shift = None, self.affine(emb)
        if self.adaptive_scale:
            scale, shift = shift.chunk(2, dim=1)
        hidden = self.conv1(F.dropout(_normalize(self.norm1, hidden, scale, shift), self.dropout, self.training))
        x = self._add(hidden, x if self.skip is None else self.skip(x))
        if self.num_heads:
            x = self._add(self._attend(_normalize(self.norm2, x, None, None, silu=False)), x)
        return x

    def _add(self, hidden: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        total = hidden + x
        return total if self.skip_scale == 1 else total.mul_(self.skip_scale)


@persistence.persistent_class
class FastConv2d(Conv2d):
    """A Conv2d in every respect but its speed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight is None or self.fused_resample or self.weight.shape[-1] != 3:
            return super().forward(x)
        if self.up or self.down:
            padding = (self.get_buffer("resample_filter").shape[-1] - 1) // 2
            x = self._upsample(x, padding) if self.up else self._downsample(x, padding)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return conv3x3.conv3x3(x, self.weight.to(x.dtype), bias)


def _normalize(
    norm: GroupNorm, x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, silu: bool = True
) -> torch.Tensor:
    """SiLU(norm(x) (1 + scale) + shift), or SiLU(norm(x + shift)) without a scale; without SiLU if told so."""
    if scale is None:
        return group_norm_silu.group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, shift, norm.eps, silu)
    assert shift is not None, "a scale comes with a shift"
    gamma = norm.weight * (scale + 1)
    beta = torch.addcmul(shift, norm.bias, scale + 1)
    return group_norm_silu.group_norm_silu(x, norm.num_groups, gamma, beta, None, norm.eps)


def fuse_blocks(net: nn.Module) -> None:
    """From now on the blocks and convolutions of `net` take the fast path where there is one."""
    _change(net, {plain: fast for fast, plain in FAST.items()})


def unfuse_blocks(net: nn.Module) -> None:
    """The inverse of `fuse_blocks`, before `net` is written into a file."""
    _change(net, FAST)


FAST: dict[type[nn.Module], type[nn.Module]] = {FusedUNetBlock: UNetBlock, FastConv2d: Conv2d}


def _change(net: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for module in net.modules():
        if (found := classes.get(type(module))) is not None:
            module.__class__ = found
