"""Calls of the teacher against the worth of its samples: `python recipes/samplers.py fashion16 --data=DATA --keep=FOLDER`.

All samplers start from the same noise; samples are bytes. The columns: calls; mean squared difference of an image to that of 200
calls, in levels of 255, a median over the images (a few in a hundred end elsewhere and dominate the mean); share of the values
that are 0 or 255; Frechet distances to those samples and to the training images in the features of the first detector of `auto`
(it may choose settings). A study that was interrupted goes on with what is in --keep.
"""

import sys
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine import assets
from gan_refine.config import parse_spec
from gan_refine.evaluation.images import CHUNK
from gan_refine.files import atomic_file
from gan_refine.interfaces import Denoiser, PixelBytes
from gan_refine.labels import draw_labels
from gan_refine.metrics import Detector, Moments, choose_detectors, frechet_distance
from gan_refine.noise import rng_for
from gan_refine.pixels import to_uint8
from gan_refine.sampling import SAMPLERS
from gan_refine.teachers import load_edm
from recipes import datasets

CONVERGED = "unipc,steps=200"
STUDY = [f"heun,steps={n}" for n in (8, 10, 14, 18, 20)] + [
    f"unipc,steps={n}" for n in (10, 12, 14, 16, 18, 20, 28, 40)
]
STREAM = 4001  # of `rng_for`


def calls_of(spec: str) -> int:
    """Calls of the denoiser for each image."""
    name, options = parse_spec(spec)
    return 2 * int(options["steps"]) - 1 if name == "heun" else int(options["steps"])


def samples(teacher: Denoiser, spec: str, images: int, folder: Path) -> PixelBytes:
    """The first `images` samples of `spec`; the chunks that are in `folder` are read, the others made and put there."""
    name, options = parse_spec(spec)
    numbers = {key: int(value) if key == "steps" else float(value) for key, value in options.items()}
    shape = [teacher.spec.channels, teacher.spec.resolution, teacher.spec.resolution]
    chunks = []
    for start in range(0, images, CHUNK):
        path = folder / f"{spec}-{start:06d}.npy"
        if not path.exists():
            rng = rng_for(0, 0, start, STREAM)
            labels = draw_labels(CHUNK, teacher.spec.num_classes, rng)
            made = SAMPLERS[name](teacher, torch.randn([CHUNK, *shape], generator=rng), labels, **numbers)
            with atomic_file(path) as stream:
                np.save(stream, to_uint8(made).numpy())
        chunks.append(torch.from_numpy(np.load(path)))
    return torch.cat(chunks)[:images]


def moments(detector: Detector, images: PixelBytes) -> Moments:
    """The moments of the features of all images."""
    found = Moments(detector.num_features)
    for part in images.split(CHUNK):
        found.update(detector(part))
    return found


@click.command()
@click.argument("name")
@click.argument("specs", nargs=-1)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help=datasets.HELP)
@click.option("--images", type=int, default=1000, show_default=True)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the samples.")
@click.option("--threads", type=int, default=1, show_default=True)
def main(name: str, specs: tuple[str, ...], data: Path, images: int, keep: Path, threads: int) -> None:
    """Prints the table for the teacher of the pair NAME: of SPECS such as unipc,steps=16,sigma_min=0.02, or of the whole study."""
    torch.set_num_threads(threads)
    teacher = load_edm(assets.resolve("teacher", name))
    detector = choose_detectors(["auto"], teacher.spec, teacher, "cpu")[0]
    folder = keep / assets.sha256(assets.resolve("teacher", name))[:12]
    folder.mkdir(parents=True, exist_ok=True)
    converged = samples(teacher, CONVERGED, images, folder)
    references = [moments(detector, converged), moments(detector, datasets.load(name, data).pixels)]
    for spec in (CONVERGED, *(specs or STUDY)):
        made = samples(teacher, spec, images, folder)
        found = moments(detector, made)
        difference = float((made.double() - converged.double()).square().flatten(1).mean(dim=1).median())
        clipped = float(((made == 0) | (made == 255)).double().mean())
        to_converged, to_data = (
            frechet_distance(found.mean, found.covariance(), other.mean, other.covariance()) for other in references
        )
        row = f"{spec} | {calls_of(spec)} | {difference:.3f} | {clipped:.3f} | {to_converged:.4f} | {to_data:.3f}"
        click.echo(f"| {row} |")


if __name__ == "__main__":
    main()
