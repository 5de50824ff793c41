"""Moments of real images in other detectors: `python recipes/references.py fashion16 --data=DATA --checkpoint=FILE`.

Writes into --out, with an origin record each: NAME-pixels-reference.npz and efficientnet-lite0-SIZE-NAME-reference.npz, which also
holds the principal directions of the images' features. An interrupted run goes on from --checkpoint.
"""

import json
import sys
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.assets import sha256
from gan_refine.efficientnet import WIDTH
from gan_refine.files import atomic_file
from gan_refine.interfaces import ImageSpec, PixelBytes
from gan_refine.metrics.extra_detectors import EfficientNetDetector, EfficientNetOptions, open_efficientnet_detector
from gan_refine.metrics.free_detectors import PixelsDetector
from gan_refine.metrics.moments import Moments
from recipes import datasets
from recipes.datasets import licence_of
from recipes.training import Checkpoint

DIRECTIONS = 128
SIZE = 64
SAVE_EVERY = 2000  # images


def pooled_moments(detector: EfficientNetDetector, pixels: PixelBytes, checkpoint: Checkpoint) -> Moments:
    """Moments of the unprojected features of the images."""
    moments = Moments(WIDTH)
    if (state := checkpoint.load()) is not None:
        moments.count, moments.mean, moments.scatter = state["count"], state["mean"], state["scatter"]
    for start in range(moments.count, len(pixels), SAVE_EVERY):
        for part in pixels[start : start + SAVE_EVERY].split(detector.batch):
            with torch.no_grad():
                moments.update(detector.pooled(part))
        state = {"count": moments.count, "mean": moments.mean, "scatter": moments.scatter}
        checkpoint.save(state, images=moments.count)
        print(f"{moments.count} images, {checkpoint.origin['seconds']:.0f} s", flush=True)
    return moments


def principal_directions(moments: Moments) -> np.ndarray:
    """The eigenvectors [1280, DIRECTIONS] of the largest variances, in float16: the file stays small."""
    _, vectors = torch.linalg.eigh(moments.covariance())  # ascending
    return vectors.flip(1)[:, :DIRECTIONS].numpy().astype(np.float16)


def write(path: Path, moments: Moments, detector: str, directions: np.ndarray | None, origin: dict) -> None:
    """The moments, along the directions if there are any, as a reference in float32; and its origin record."""
    mean, covariance = moments.mean.numpy(), moments.covariance().numpy()
    arrays = {}
    if directions is not None:
        basis = directions.astype(np.float64)
        mean, covariance = mean @ basis, basis.T @ covariance @ basis
        arrays["directions"] = directions
    arrays |= {"mu": mean.astype(np.float32), "sigma": covariance.astype(np.float32)}
    arrays |= {"num_images": np.asarray(moments.count), "ddof": np.asarray(1), "detector": np.asarray(detector)}
    with atomic_file(path) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type] # its keyword for pickles is none of these
    record = {**origin, "sha256": sha256(path)}
    with atomic_file(path.with_suffix(".json")) as stream:
        stream.write((json.dumps(record, indent=2) + "\n").encode())
    print(
        f"{path.name}: {path.stat().st_size} bytes, {len(mean)} features, trace {np.trace(covariance):.4f}", flush=True
    )


@click.command()
@click.argument("name", type=click.Choice(sorted(datasets.SHAPES)))
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help=datasets.HELP)
@click.option("--checkpoint", "state_file", type=click.Path(path_type=Path), required=True, help="State to go on from.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("pretrained"), show_default=True, help="Folder.")
@click.option("--images", type=int, default=60_000, show_default=True, help="The first so many images.")
@click.option("--threads", type=int, default=1, show_default=True)
def main(name: str, data: Path, state_file: Path, out: Path, images: int, threads: int) -> None:
    torch.set_num_threads(threads)
    pixels, checkpoint = datasets.load(name, data).pixels[:images], Checkpoint(state_file)
    command = f"python recipes/references.py {name} --data=DATA --checkpoint=FILE --images={images} --threads={threads}"
    efficientnet = open_efficientnet_detector(EfficientNetOptions(SIZE), "cpu")
    moments = pooled_moments(efficientnet, pixels, checkpoint)
    # The folders of whoever ran it are of no use to anyone else.
    origin = {**checkpoint.origin, "command": command, "licence": licence_of(name)}
    options = EfficientNetOptions(SIZE, name)
    directions = principal_directions(moments)
    write(out / f"{options.name}-reference.npz", moments, options.name, directions, origin)
    detector = PixelsDetector(ImageSpec(pixels.shape[1], pixels.shape[-1]))
    moments = Moments(detector.num_features)
    for part in pixels.split(SAVE_EVERY):
        moments.update(detector(part))
    write(out / f"{name}-pixels-reference.npz", moments, detector.name, None, origin)


if __name__ == "__main__":
    main()
