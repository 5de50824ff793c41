"""The run folder: options, log, figures as JSON lines, image grids, summary. Also the lines on the terminal."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from gan_refine.errors import UserError
from gan_refine.files import atomic_file
from gan_refine.interfaces import PixelBytes
from gan_refine.run.trackers import Tracker, figures_of

SIDE = 64  # pixels of an image in a grid, so that one of 16x16 can be seen

SHOWN = {1: 1, 2: 1, 3: 3, 4: 4}  # channels of images -> channels of pictures
MOST_SHOWN = 3


class RunFolder:
    """Writes into the folder `path` and onto standard error; on ranks other than 0 `writes` is off, and it does neither."""

    def __init__(self, path: Path, writes: bool = True, trackers: Sequence[Tracker] = ()) -> None:
        self.trackers = trackers
        self.path = path
        self.writes = writes

    def say(self, text: str) -> None:
        """One line (or a table) on standard error and in log.txt."""
        if self.writes:
            tqdm.write(text, file=sys.stderr)  # keeps a progress bar below the text
            with open(self.path / "log.txt", "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")

    def append(self, name: str, record: dict) -> None:
        """One JSON line in the file of that name."""
        if self.writes:
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            for tracker in self.trackers:
                tracker.log(figures_of(record), round(1000 * record["kimg"]))

    def write_text(self, name: str, text: str) -> None:
        """A whole file, atomically."""
        if self.writes:
            with atomic_file(self.path / name) as stream:
                stream.write(text.encode())

    def save_grid(self, name: str, images: PixelBytes) -> None:
        """Images [N, C, H, W] as one PNG, as square as N allows; small images are enlarged to SIDE pixels at least."""
        if self.writes:
            factor = max(SIDE // images.shape[-1], 1)
            save_png(self.path / name, tile(images).repeat(factor, axis=0).repeat(factor, axis=1))

    def forget_after(self, kimg: float) -> None:
        """Removes the JSON lines of later states, and torn ones: a resumed run writes them again."""
        for path in self.path.glob("*.jsonl") if self.writes else ():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _kimg(line) <= kimg]
            if kept != lines:
                self.write_text(path.name, "".join(kept))

    def forget_metrics(self) -> None:
        """Removes the lines of all metrics."""
        for path in self.path.glob("metric-*.jsonl") if self.writes else ():
            path.unlink()


def _kimg(line: str) -> float:
    try:
        return float(json.loads(line)["kimg"])
    except json.JSONDecodeError:
        return float("inf")


def new_folder(outdir: Path, description: str) -> Path:
    """A numbered folder below `outdir`: 00000-DESC, 00001-DESC, ... as StyleGAN's tools name theirs. Raises UserError."""
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        folder = outdir / f"{max((number for number, _ in numbered_folders(outdir)), default=-1) + 1:05d}-{description}"
        folder.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot write to --outdir={outdir} ({error.strerror}); choose a folder that you may write to"
        ) from error
    return folder


def numbered_folders(outdir: Path) -> list[tuple[int, Path]]:
    """The run folders below `outdir` with their numbers, in order."""
    found = ((re.match(r"(\d{5,})-", entry.name + "-"), entry) for entry in outdir.iterdir())
    return sorted((int(match[1]), entry) for match, entry in found if match)


def tile(images: PixelBytes, columns: int | None = None) -> np.ndarray:
    """[N, C, H, W] -> [rows H, columns W, C]; cells beyond N are black."""
    n, c, h, w = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    padded = torch.zeros([rows * columns, c, h, w], dtype=torch.uint8)
    padded[:n] = images.cpu()
    grid = padded.reshape(rows, columns, c, h, w).permute(0, 3, 1, 4, 2)
    return grid.reshape(rows * h, columns * w, c).numpy()


def picture_notice(channels: int) -> str | None:
    """What pictures of images with so many channels do not show; None if they show all of it."""
    shown = SHOWN.get(channels, MOST_SHOWN)
    return None if shown == channels else f"Pictures show the first {shown} of {channels} channels."


def save_png(path: Path, pixels: np.ndarray) -> None:
    """uint8 [H, W, C] as a PNG file: grey, RGB or RGBA, of other channels the first."""
    shown = SHOWN.get(pixels.shape[2], MOST_SHOWN)
    mode = pixels[:, :, 0] if shown == 1 else np.ascontiguousarray(pixels[:, :, :shown])
    with atomic_file(path) as stream:
        Image.fromarray(mode).save(stream, format="PNG")
