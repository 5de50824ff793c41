"""The run folder: options, log, figures as JSON lines, image grids, summary. Also the lines on the terminal."""

import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from gan_refine.errors import UserError
from gan_refine.interfaces import PixelBytes


class RunLog:
    """A numbered folder below `outdir`, made on construction: 00000-DESC, 00001-DESC, ... as StyleGAN's tools name theirs."""

    def __init__(self, outdir: Path, description: str) -> None:
        try:
            outdir.mkdir(parents=True, exist_ok=True)
            self.folder = _next_folder(outdir, description)
            self.folder.mkdir()
        except OSError as error:
            raise UserError(
                f"cannot write to --outdir={outdir} ({error.strerror}); choose a folder that you may write to"
            ) from error
        self.started = time.time()

    def say(self, text: str) -> None:
        """One line (or a table) on standard error and in log.txt."""
        tqdm.write(text, file=sys.stderr)  # keeps a progress bar below the text
        with open(self.folder / "log.txt", "a") as file:
            file.write(text + "\n")

    def append(self, name: str, record: dict) -> None:
        """One JSON line in the file of that name."""
        with open(self.folder / name, "a") as file:
            file.write(json.dumps(record) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """A whole file, atomically."""
        write_atomic(self.folder / name, text.encode())

    def save_grid(self, name: str, images: PixelBytes) -> None:
        """Images [N, C, H, W] as one PNG, as square as N allows."""
        save_png(self.folder / name, tile(images))

    @property
    def seconds(self) -> float:
        return time.time() - self.started


def _next_folder(outdir: Path, description: str) -> Path:
    numbers = [int(match[1]) for entry in outdir.iterdir() if (match := re.match(r"(\d{5,})-", entry.name + "-"))]
    return outdir / f"{max(numbers, default=-1) + 1:05d}-{description}"


def write_atomic(path: Path, data: bytes) -> None:
    """Writes under a temporary name in the same folder, flushes, renames."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def tile(images: PixelBytes, columns: int | None = None) -> np.ndarray:
    """[N, C, H, W] -> [rows H, columns W, C]; cells beyond N stay black."""
    n, c, h, w = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    padded = torch.zeros([rows * columns, c, h, w], dtype=torch.uint8)
    padded[:n] = images.cpu()
    grid = padded.reshape(rows, columns, c, h, w).permute(0, 3, 1, 4, 2)
    return grid.reshape(rows * h, columns * w, c).numpy()


def save_png(path: Path, pixels: np.ndarray) -> None:
    """uint8 [H, W, 1 or 3] as a PNG file."""
    mode = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    temporary = path.with_name(f".{path.name}.tmp")
    Image.fromarray(mode).save(temporary, format="PNG")
    os.replace(temporary, path)


def table(rows: list[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
