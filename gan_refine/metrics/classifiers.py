"""The networks of the embedded detectors: small classifiers of grey images whose penultimate activations are the features."""

from abc import ABC, abstractmethod
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from gan_refine.errors import MismatchError
from gan_refine.interfaces import Images, ImageSpec

Logits = Float[Tensor, "n classes"]


class Classifier(nn.Module, ABC):
    """A classifier of grey images [N, 1, R, R] in [-1, 1] with 10 classes; `num_features` penultimate activations.

    Raises MismatchError for a resolution that is not in `resolutions`.
    """

    num_classes = 10
    resolutions: tuple[int, ...]
    head: nn.Linear

    def __init__(self, resolution: int, num_features: int) -> None:
        super().__init__()
        if resolution not in self.resolutions:
            raise MismatchError(
                f"{type(self).__name__} supports the resolutions {list(self.resolutions)}, got {resolution}"
            )
        self.spec = ImageSpec(channels=1, resolution=resolution)
        self.num_features = num_features

    @abstractmethod
    def features(self, images: Images) -> Float[Tensor, "n d"]:
        """Penultimate activations [N, num_features] of images in [-1, 1]."""

    def forward(self, images: Images) -> Logits:
        return self.head(self.features(images))


class FashionClassifier(Classifier):
    """Four or five convolutions and a SiLU after the penultimate layer."""

    widths = {16: (32, 64, 64, 96), 32: (16, 32, 64, 64, 96)}
    strides = {16: (1, 2, 1, 2), 32: (1, 2, 2, 1, 2)}
    resolutions = (16, 32)

    def __init__(self, resolution: int, num_features: int = 128) -> None:
        super().__init__(resolution, num_features)
        widths = self.widths[resolution]
        layers: list[nn.Module] = []
        for fan_in, fan_out, stride in zip((1, *widths[:-1]), widths, self.strides[resolution], strict=True):
            convolution = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(fan_out), nn.SiLU()]
        layers += [nn.AvgPool2d(2), nn.Flatten()]  # 4x4 -> 2x2: keeps coarse position at a quarter of the weights
        self.body = nn.Sequential(*layers)
        self.penultimate = nn.Sequential(nn.Linear(4 * widths[-1], num_features), nn.SiLU())
        self.head = nn.Linear(num_features, self.num_classes)

    def features(self, images: Images) -> Float[Tensor, "n d"]:
        return self.penultimate(self.body(images))


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + two convolutions), with batch normalization (arXiv:1512.03385); `stride` divides height and width."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(),
            nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
        )
        same = fan_in == fan_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


class ResidualClassifier(Classifier):
    """Six residual blocks, 13 convolutions deep, and a ReLU after the penultimate layer: unlike FashionClassifier throughout."""

    widths = (20, 32, 48)
    resolutions = (16,)

    def __init__(self, resolution: int, num_features: int = 96) -> None:
        super().__init__(resolution, num_features)
        layers: list[nn.Module] = [
            nn.Conv2d(1, self.widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(self.widths[0]),
        ]
        layers += [nn.ReLU()]
        for fan_in, fan_out in pairwise((self.widths[0], *self.widths)):
            stride = 1 if fan_in == fan_out else 2
            layers += [ResidualBlock(fan_in, fan_out, stride), ResidualBlock(fan_out, fan_out, 1)]
        layers += [nn.AvgPool2d(2), nn.Flatten()]
        self.body = nn.Sequential(*layers)
        self.penultimate = nn.Sequential(nn.Linear(4 * self.widths[-1], num_features), nn.ReLU())
        self.head = nn.Linear(num_features, self.num_classes)

    def features(self, images: Images) -> Float[Tensor, "n d"]:
        return self.penultimate(self.body(images))


ARCHITECTURES: dict[str, type[FashionClassifier] | type[ResidualClassifier]] = {
    cls.__name__: cls for cls in (FashionClassifier, ResidualClassifier)
}
