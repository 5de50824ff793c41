"""Emoji as RGB training images of 32x32: `python recipes/emoji.py GOOGLE.tgz FLUENT.tgz --out=emoji32.npz`.

The two files are the npm packages emoji-datasource-google 16.0.0 (Noto, Apache-2.0) and @lobehub/fluent-emoji-3d 1.1.0 (Fluent,
MIT). Both draw the same emoji, most of them in six skin tones.
"""

import hashlib
import io
import json
import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.files import atomic_file
from gan_refine.run.folder import save_png, tile
from recipes.images import Images

RESOLUTION = 32
CATEGORIES = ("Smileys & Emotion", "People & Body")
SHEET_COLUMNS = 40
NEUTRAL = (
    ("-200D-(2640|2642|27A1|1F9B[0-3])", ""),  # woman, man, facing right, four kinds of hair
    ("1F46[89]", "1F9D1"),  # man or woman: person
    ("1F46[67]", "1F9D2"),  # boy or girl: child
    ("1F47[45]", "1F9D3"),  # old man or woman: older person
    ("^1F46A$", "1F9D1-200D-1F9D1-200D-1F9D2"),  # family
    ("^1F5EF$", "1F5E8"),  # one speech bubble is the other's mirror image
)


@dataclass(frozen=True)
class Glyph:
    """One emoji in one skin tone: the base emoji that it is a variation of, and its class."""

    base: str
    subcategory: str


def key(unified: str) -> str:
    """Code points in upper case without FE0F, which some file names have and others do not."""
    return unified.upper().replace("-FE0F", "")


def glyphs(table: list[dict]) -> dict[str, Glyph]:
    """The emoji of CATEGORIES in emoji.json, skin tones included, by `key`."""
    found = {}
    for entry in table:
        if entry["category"] in CATEGORIES:
            glyph = Glyph(key(entry["unified"]), entry["subcategory"])
            for variant in (entry, *entry.get("skin_variations", {}).values()):
                found[key(variant["unified"])] = glyph
    return found


def motif(base: str) -> str:
    """The base emoji without gender, hair and direction, in which drawings of one vendor differ by a few pixels or not at all."""
    for pattern, neutral in NEUTRAL:
        base = re.sub(pattern, neutral, base)
    return base


def held_out(base: str) -> bool:
    """Whether the drawings of that base emoji's motif, of both vendors and in all skin tones, are test images: about one in ten."""
    return hashlib.sha256(motif(base).encode()).digest()[0] < 26


def flatten(drawing: Image.Image) -> np.ndarray:
    """The drawing on white, averaged to uint8 [3, 32, 32]; a transparent pixel weighs nothing, whatever its colour."""
    rgba = np.asarray(drawing.convert("RGBA"), dtype=np.float32)
    alpha = rgba[..., 3:] / 255
    on_white = rgba[..., :3] * alpha + 255 * (1 - alpha)
    height, width, _ = on_white.shape
    side = min(height, width)
    if side % RESOLUTION:
        raise ValueError(
            f"a drawing of {width}x{height} pixels; need a shorter side that is a multiple of {RESOLUTION}"
        )
    top, left, cell = (height - side) // 2, (width - side) // 2, side // RESOLUTION
    on_white = on_white[top : top + side, left : left + side]  # two drawings of Fluent's are a little higher than wide
    small = on_white.reshape(RESOLUTION, cell, RESOLUTION, cell, 3).mean(axis=(1, 3))
    return small.round().astype(np.uint8).transpose(2, 0, 1)


def drawings(package: Path, folder: str) -> Iterator[tuple[str, Image.Image]]:
    """Key and drawing of every file in that folder of an npm package."""
    with tarfile.open(package) as archive:
        for member in archive:
            path = Path(member.name)
            if member.isfile() and str(path.parent) == folder:
                stream = archive.extractfile(member)
                assert stream is not None, "a regular file of an archive can be read"
                yield key(path.stem), Image.open(io.BytesIO(stream.read()))


def read_table(google: Path) -> list[dict]:
    """emoji.json of the package."""
    with tarfile.open(google) as archive:
        stream = archive.extractfile("package/emoji.json")
        assert stream is not None, "emoji.json is a file"
        return json.load(stream)


def collect(google: Path, fluent: Path) -> dict[str, np.ndarray]:
    """Both packages as the arrays of the data set, sorted by base emoji: `pixels`, `classes`, `class_names`, `names`, `test`."""
    known = glyphs(read_table(google))
    rows = []
    for vendor, package, folder in (
        ("noto", google, "package/img/google/64"),
        ("fluent", fluent, "package/assets"),
    ):
        for code, drawing in drawings(package, folder):
            if code in known:
                rows.append((known[code].base, vendor, code, flatten(drawing)))
    rows.sort(key=lambda row: row[:3])
    class_names = sorted({glyph.subcategory for glyph in known.values()})
    return {
        "pixels": np.stack([pixels for *_, pixels in rows]),
        "classes": np.array([class_names.index(known[code].subcategory) for _, _, code, _ in rows]),
        "class_names": np.array(class_names),
        "names": np.array([f"{vendor}/{code}" for _, vendor, code, _ in rows]),
        "test": np.array([held_out(base) for base, *_ in rows]),
    }


def load(path: Path, split: str = "train", device: str = "cpu") -> Images:
    """The 'train' or 'test' images of a file that this recipe wrote, without classes."""
    with np.load(path, allow_pickle=False) as data:
        chosen = data["test"] == (split == "test")
        pixels, classes = data["pixels"][chosen], data["classes"][chosen]
    return Images(torch.from_numpy(pixels).to(device), torch.from_numpy(classes).to(device), 0)


@click.command()
@click.argument("google", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("fluent", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .npz file to write.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Also write all images as one PNG.")
def main(google: Path, fluent: Path, out: Path, sheet: Path | None) -> None:
    """Build the data set from the npm packages GOOGLE and FLUENT (.tgz)."""
    arrays = collect(google, fluent)
    with atomic_file(out) as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    if sheet is not None:
        save_png(sheet, tile(torch.from_numpy(arrays["pixels"]), SHEET_COLUMNS))
    test = int(arrays["test"].sum())
    click.echo(
        f"{out}: {len(arrays['test']) - test} training images and {test} test images, {len(arrays['class_names'])} classes"
    )


if __name__ == "__main__":
    main()
