"""Inception-v3 as in TensorFlow's graph of 2015-12-05, the network of the Frechet inception distance (arXiv:1706.08500).

The architecture is that of arXiv:1512.00567, with 1008 outputs. It differs from torchvision's in three places: average
pooling excludes the padding, the last block uses max pooling, and images are resized as in TensorFlow 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT_SIZE = 299
NUM_LOGITS = 1008
DEPTHS = (64, 192, 768, 2048)  # widths of the features after the first and second pooling, Mixed_6e and the last block


@dataclass(frozen=True)
class Activations:
    """Features [N, D] by their width, and logits [N, 1008] without the bias (the inception score's convention)."""

    features: dict[int, Tensor]
    logits_unbiased: Tensor


class BasicConv2d(nn.Module):
    """Convolution, batch normalization, ReLU."""

    def __init__(self, fan_in: int, fan_out: int, kernel: tuple[int, int], stride: int = 1, pad: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(fan_in, fan_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(fan_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def same(fan_in: int, fan_out: int, rows: int, columns: int | None = None) -> BasicConv2d:
    """A convolution that preserves height and width."""
    return BasicConv2d(fan_in, fan_out, (rows, columns or rows))


def halve(fan_in: int, fan_out: int) -> BasicConv2d:
    """A 3x3 convolution of stride 2 without padding."""
    return BasicConv2d(fan_in, fan_out, (3, 3), stride=2, pad=False)


def average_pool(x: Tensor) -> Tensor:
    """3x3 average pooling that preserves height and width and excludes the padding."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x: Tensor) -> Tensor:
    """3x3 max pooling that preserves height and width."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


class MixedA(nn.Module):
    """35x35 block with 1x1, 5x5, double 3x3 and pooling branches."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = same(width, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = same(width, 48, 1), same(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = same(width, 64, 1), same(64, 96, 3)
        self.branch3x3dbl_3 = same(96, 96, 3)
        self.branch_pool = same(width, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        fives = self.branch5x5_2(self.branch5x5_1(x))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), fives, threes, self.branch_pool(average_pool(x))], dim=1)


class MixedB(nn.Module):
    """Downsampling block, 35x35 to 17x17."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch3x3 = halve(width, 384)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = same(width, 64, 1), same(64, 96, 3)
        self.branch3x3dbl_3 = halve(96, 96)

    def forward(self, x: Tensor) -> Tensor:
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), threes, F.max_pool2d(x, 3, stride=2)], dim=1)


class MixedC(nn.Module):
    """17x17 block with 7x7 convolutions factorized into 1x7 and 7x1, with `inner` channels."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = same(width, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = same(width, inner, 1), same(inner, inner, 1, 7)
        self.branch7x7_3 = same(inner, 192, 7, 1)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = same(width, inner, 1), same(inner, inner, 7, 1)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = same(inner, inner, 1, 7), same(inner, inner, 7, 1)
        self.branch7x7dbl_5 = same(inner, 192, 1, 7)
        self.branch_pool = same(width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        sevens = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), sevens, double, self.branch_pool(average_pool(x))], dim=1)


class MixedD(nn.Module):
    """Downsampling block, 17x17 to 8x8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = same(width, 192, 1), halve(192, 320)
        self.branch7x7x3_1, self.branch7x7x3_2 = same(width, 192, 1), same(192, 192, 1, 7)
        self.branch7x7x3_3, self.branch7x7x3_4 = same(192, 192, 7, 1), halve(192, 192)

    def forward(self, x: Tensor) -> Tensor:
        threes = self.branch3x3_2(self.branch3x3_1(x))
        sevens = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([threes, sevens, F.max_pool2d(x, 3, stride=2)], dim=1)


class MixedE(nn.Module):
    """8x8 block whose branches split into 1x3 and 3x1. The last block uses max pooling, the other average pooling."""

    def __init__(self, width: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.branch1x1 = same(width, 320, 1)
        self.branch3x3_1 = same(width, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = same(384, 384, 1, 3), same(384, 384, 3, 1)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = same(width, 448, 1), same(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = same(384, 384, 1, 3), same(384, 384, 3, 1)
        self.branch_pool = same(width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        forks = [self.branch3x3_2a(single), self.branch3x3_2b(single)]
        forks += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        pooled = max_pool(x) if self.last else average_pool(x)
        return torch.cat([self.branch1x1(x), *forks, self.branch_pool(pooled)], dim=1)


class InceptionV3(nn.Module):
    """Maps float images [N, 3, H, W] in 0..255, of any size, to Activations. Parameter names are those of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = halve(3, 32)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, (3, 3), pad=False)
        self.Conv2d_2b_3x3 = same(32, 64, 3)
        self.Conv2d_3b_1x1 = same(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, (3, 3), pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = MixedA(192, 32), MixedA(256, 64), MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b, self.Mixed_6c = MixedC(768, 128), MixedC(768, 160)
        self.Mixed_6d, self.Mixed_6e = MixedC(768, 160), MixedC(768, 192)
        self.Mixed_7a = MixedD(768)
        self.Mixed_7b, self.Mixed_7c = MixedE(1280, last=False), MixedE(2048, last=True)
        self.fc = nn.Linear(2048, NUM_LOGITS)

    def forward(self, images: Tensor) -> Activations:
        x = (resize_tf1(images, INPUT_SIZE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        first = F.max_pool2d(x, 3, stride=2)
        second = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(first)), 3, stride=2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(second))))
        third = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        last = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(third)))
        features = {x.shape[1]: x.mean(dim=(2, 3)) for x in (first, second, third, last)}
        return Activations(features, F.linear(features[2048], self.fc.weight))


def resize_tf1(images: Tensor, size: int) -> Tensor:
    """Bilinear interpolation [N, C, H, W] -> [N, C, size, size] as TensorFlow 1's default did.

    Output pixel i samples position i * H / size, without half-pixel centers and without antialiasing.
    """
    for axis in (2, 3):
        images = _resize_axis(images, size, axis)
    return images


def _resize_axis(images: Tensor, size: int, axis: int) -> Tensor:
    old = images.shape[axis]
    if old == size:
        return images
    # Positions in float64, so that rounding does not move a product such as 3 * (32 / 299) across an integer.
    source = torch.arange(size, dtype=torch.float64, device=images.device) * (old / size)
    lower = source.floor().long().clamp(max=old - 1)
    upper = (lower + 1).clamp(max=old - 1)
    shape = [1, 1, 1, 1]
    shape[axis] = size
    share = (source - lower).to(images.dtype).reshape(shape)
    low, high = images.index_select(axis, lower), images.index_select(axis, upper)
    return low + (high - low) * share
