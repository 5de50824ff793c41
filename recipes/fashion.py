"""Fashion-MNIST (Zalando, MIT licence) as training images: `fashion16` averaged down, with or without classes.

Debian ships the four files in its package `dataset-fashion-mnist`, under /usr/share/datasets.
"""

import gzip
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from recipes.images import Images

RESOLUTIONS = {"fashion16": 16, "fashion16-cond": 16}
NUM_CLASSES = {"fashion16": 0, "fashion16-cond": 10}


def load(folder: Path, name: str, split: str = "train", device: str = "cpu") -> Images:
    """The 60,000 'train' or 10,000 't10k' images, with the classes of `name`."""
    raw = _read_idx(folder / f"{split}-images-idx3-ubyte.gz", ndim=3)
    classes = _read_idx(folder / f"{split}-labels-idx1-ubyte.gz", ndim=1)
    padded = np.pad(raw, ((0, 0), (2, 2), (2, 2)))  # 28x28 -> 32x32 on the same black ground
    pixels = F.avg_pool2d(torch.from_numpy(padded)[:, None].to(torch.float32), 2).round().to(torch.uint8)
    return Images(pixels.to(device), torch.from_numpy(classes.astype(np.int64)).to(device), NUM_CLASSES[name])


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes: two zero bytes, type 8, the number of dimensions, big-endian sizes, data."""
    data = gzip.decompress(path.read_bytes())
    if data[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(f"{path} is not an IDX file of {ndim}-dimensional bytes")
    shape = np.frombuffer(data, dtype=">u4", count=ndim, offset=4).astype(int)
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * ndim).reshape(shape)
