"""Fashion-MNIST (Zalando, MIT licence) as training images: `fashion16` averaged down, with or without classes, `fashion32` padded.

Debian ships the four files in its package `dataset-fashion-mnist`, under /usr/share/datasets.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

RESOLUTIONS = {"fashion16": 16, "fashion16-cond": 16, "fashion32": 32}
NUM_CLASSES = {"fashion16": 0, "fashion16-cond": 10, "fashion32": 0}


@dataclass(frozen=True)
class Images:
    """Grey images as uint8 [N, 1, R, R], their classes as int64 [N], and how many of these a network of that name is told."""

    pixels: torch.Tensor
    classes: torch.Tensor
    num_classes: int

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        """Float32 images in [-1, 1]."""
        return self.pixels[index.to(self.pixels.device)].to(torch.float32) / 127.5 - 1

    def labels(self, index: torch.Tensor) -> torch.Tensor:
        """One-hot labels [N, num_classes] of those images: empty for a network without classes."""
        if not self.num_classes:
            return torch.zeros([len(index), 0], device=self.pixels.device)
        return F.one_hot(self.classes[index.to(self.classes.device)], self.num_classes).to(torch.float32)


def load(folder: Path, name: str, split: str = "train", device: str = "cpu") -> Images:
    """The 60,000 'train' or 10,000 't10k' images at the resolution of `name`."""
    raw = _read_idx(folder / f"{split}-images-idx3-ubyte.gz", ndim=3)
    classes = _read_idx(folder / f"{split}-labels-idx1-ubyte.gz", ndim=1)
    padded = np.pad(raw, ((0, 0), (2, 2), (2, 2)))  # 28x28 -> 32x32 on the same black ground
    pixels = torch.from_numpy(padded)[:, None]
    if RESOLUTIONS[name] == 16:
        pixels = F.avg_pool2d(pixels.to(torch.float32), 2).round().to(torch.uint8)
    return Images(pixels.to(device), torch.from_numpy(classes.astype(np.int64)).to(device), NUM_CLASSES[name])


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes: two zero bytes, type 8, the number of dimensions, big-endian sizes, data."""
    data = gzip.decompress(path.read_bytes())
    if data[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(f"{path} is not an IDX file of {ndim}-dimensional bytes")
    shape = np.frombuffer(data, dtype=">u4", count=ndim, offset=4).astype(int)
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * ndim).reshape(shape)
