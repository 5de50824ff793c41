"""The data sets of the recipes by the name of the pair."""

from dataclasses import dataclass
from pathlib import Path

from recipes import emoji, fashion
from recipes.images import Images


@dataclass(frozen=True)
class Shape:
    """Channels and resolution of the images, and how many classes the networks are told."""

    channels: int
    resolution: int
    classes: int


SHAPES = {name: Shape(1, fashion.RESOLUTIONS[name], fashion.NUM_CLASSES[name]) for name in fashion.RESOLUTIONS}
SHAPES["emoji32"] = Shape(3, emoji.RESOLUTION, 0)
LICENCES = {
    "fashion": "Apache-2.0; trained on Fashion-MNIST (MIT, Zalando SE)",
    "emoji": "Apache-2.0; trained on Noto Emoji (Apache-2.0, Google LLC) and Fluent Emoji (MIT, Microsoft Corporation)",
}
HELP = "Folder of the IDX files of Fashion-MNIST, or the file that recipes/emoji.py wrote."


def load(name: str, path: Path, split: str = "train", device: str = "cpu") -> Images:
    """The 'train' or 'test' images: `path` is the folder of the IDX files of Fashion-MNIST or the file of recipes/emoji.py."""
    if name in fashion.RESOLUTIONS:
        return fashion.load(path, name, {"train": "train", "test": "t10k"}[split], device)
    return emoji.load(path, split, device)


def licence_of(name: str) -> str:
    """The licence of the files of that pair, which names what they were trained on."""
    return next(text for images, text in LICENCES.items() if images in name)
