"""U-Net blocks whose group norms, shifts and SiLUs are one pass each, and whose 3x3 convolutions take a faster kernel.

Only the classes of blocks, norms and convolutions change: weights, state dicts and results up to rounding stay. Pickles hold
plain ones.
"""

from collections.abc import Callable

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

    def _attend(self, normalized: torch.Tensor) -> torch.Tensor:
        """UNetBlock's, with one copy of queries, keys and values to where attention is fast; the result has channels last."""
        n, c, h, w = normalized.shape
        qkv = self.qkv(normalized).permute(0, 2, 3, 1).reshape(n, h * w, self.num_heads, c // self.num_heads, 3)
        q, k, v = qkv.permute(4, 0, 2, 1, 3).contiguous().unbind(0)  # each [N, heads, pixels, channels]
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, h, w, c).permute(0, 3, 1, 2))

    def _add(self, hidden: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        total = hidden + x
        return total if self.skip_scale == 1 else total.mul_(self.skip_scale)


@persistence.persistent_class
class FastGroupNorm(GroupNorm):
    """A GroupNorm in every respect but its speed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _normalize(self, x, None, None, silu=False) if group_norm_silu.is_fast(x) else super().forward(x)


@persistence.persistent_class
class FastConv2d(Conv2d):
    """A Conv2d in every respect but its speed. Its weight has the layout that is fast on its device."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "FastConv2d":
        super()._apply(fn, recurse)  # torch calls this wherever a module moves to a device, a dtype or a layout
        if self.weight is not None:
            layout = torch.contiguous_format if self.weight.device.type == "cpu" else torch.channels_last
            self.weight.data = self.weight.data.contiguous(memory_format=layout)
        return self

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
    """From now on the blocks, norms and convolutions of `net` take the fast path where there is one, with channels last."""
    _change(net, {plain: fast for fast, plain in FAST.items()})
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def unfuse_blocks(net: nn.Module) -> None:
    """The inverse of `fuse_blocks`, before `net` is written into a file."""
    _change(net, FAST)


FAST: dict[type[nn.Module], type[nn.Module]] = {FusedUNetBlock: UNetBlock, FastConv2d: Conv2d, FastGroupNorm: GroupNorm}


def _change(net: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for module in net.modules():
        if (found := classes.get(type(module))) is not None:
            module.__class__ = found
