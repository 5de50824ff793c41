"""Fashion-MNIST (Zalando, MIT licence) as training images: `fashion16` averaged down, `fashion32` padded.

Debian ships the four files in its package `dataset-fashion-mnist`, under /usr/share/datasets.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

RESOLUTIONS = {"fashion16": 16, "fashion32": 32}


@dataclass(frozen=True)
class Images:
    """Grey images as uint8 [N, 1, R, R] and their classes as int64 [N]."""

    pixels: torch.Tensor
    classes: torch.Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        """Float32 images in [-1, 1]."""
        return self.pixels[index].to(torch.float32) / 127.5 - 1


def load(folder: Path, name: str, split: str = "train") -> Images:
    """The 60,000 'train' or 10,000 't10k' images at the resolution of `name`."""
    raw = _read_idx(folder / f"{split}-images-idx3-ubyte.gz", ndim=3)
    classes = _read_idx(folder / f"{split}-labels-idx1-ubyte.gz", ndim=1)
    padded = np.pad(raw, ((0, 0), (2, 2), (2, 2)))  # 28x28 -> 32x32 on the same black ground
    pixels = torch.from_numpy(padded)[:, None]
    if RESOLUTIONS[name] == 16:
        pixels = torch.nn.functional.avg_pool2d(pixels.to(torch.float32), 2).round().to(torch.uint8)
    return Images(pixels, torch.from_numpy(classes.astype(np.int64)))


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes: two zero bytes, type 8, the number of dimensions, big-endian sizes, data."""
    data = gzip.decompress(path.read_bytes())
    if data[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(f"{path} is not an IDX file of {ndim}-dimensional bytes")
    shape = np.frombuffer(data, dtype=">u4", count=ndim, offset=4).astype(int)
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * ndim).reshape(shape)
