"""From training checkpoints to the files in pretrained/.

python recipes/export.py teacher emoji32 teacher32.pt --log=teacher32.log     the network pickle and its origin record
python recipes/export.py gan emoji32 gan32.pt --log=gan32.log
python recipes/export.py measure fashion16                  the teacher's own distance, into catalog.json
python recipes/export.py measure fashion16 --keep=samples   the same, which goes on where it was stopped
python recipes/export.py catalog                            digests and licences of everything there, into catalog.json
"""

import json
import math
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.assets import KINDS, PRETRAINED, catalog, sha256
from gan_refine.evaluation import Teacher, measure_teacher
from gan_refine.evaluation.images import CHUNK, TEACHER_STREAM
from gan_refine.files import atomic_file
from gan_refine.interfaces import Denoiser, PixelBytes
from gan_refine.metrics import MetricCollection, load_detector, load_reference, to_uint8
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.noise import rng_for
from gan_refine.pickles import write_networks
from gan_refine.sampling import DEFAULT_STEPS, sample_images
from gan_refine.teachers import load_edm
from recipes import train_gan, train_teacher
from recipes.training import commit, hardware

LICENCES = {
    "fashion": "Apache-2.0; trained on Fashion-MNIST (MIT, Zalando SE)",
    "emoji": "Apache-2.0; trained on Noto Emoji (Apache-2.0, Google LLC) and Fluent Emoji (MIT, Microsoft Corporation)",
}
CURVE_LINES = 32  # of a log that an origin record keeps
FILES = {
    "gan": "{}-gan.pkl",
    "teacher": "{}-teacher.pkl",
    "detector": "{}-detector.safetensors",
    "reference": "{}-reference.npz",
}
SHARED = {"fashion16-cond": "fashion16"}  # whose detector and reference a pair has: those of the same images


def file_of(kind: str, name: str) -> Path:
    """The file in pretrained/ of that kind for the pair of that name."""
    owner = SHARED.get(name, name) if kind in ("detector", "reference") else name
    return PRETRAINED / FILES[kind].format(owner)


def licence_of(name: str) -> str:
    """The licence of the files of that pair, which names what they were trained on."""
    return next(text for images, text in LICENCES.items() if name.startswith(images))


LOG = click.option("--log", type=click.Path(exists=True, path_type=Path), help="What the training printed: its curve.")


@click.group()
def main() -> None:
    """Make the files in pretrained/ from checkpoints of the training recipes."""


@main.command()
@click.argument("name")
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@LOG
def teacher(name: str, checkpoint: Path, log: Path | None) -> None:
    """The averaged weights of a train_teacher.py checkpoint as an EDM network pickle."""
    saved = torch.load(checkpoint, weights_only=True)
    net = EDMPrecond(**train_teacher.network_kwargs(name))
    net.load_state_dict(saved["state"]["ema"])
    path = file_of("teacher", name)
    write_networks(path, {"ema": net})
    _write_origin(name, path, saved["origin"], log)


@main.command()
@click.argument("name")
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@LOG
def gan(name: str, checkpoint: Path, log: Path | None) -> None:
    """D and G_ema of a train_gan.py checkpoint as a StyleGAN2-ADA network pickle; without G, a third of the size."""
    saved = torch.load(checkpoint, weights_only=True)
    networks = {
        "D": Discriminator(**train_gan.discriminator_kwargs(name)),
        "G_ema": Generator(**train_gan.generator_kwargs(name)),
    }
    for key, part in {"D": "discriminator", "G_ema": "average"}.items():
        networks[key].load_state_dict(saved["state"]["trainer"][part])
    path = file_of("gan", name)
    write_networks(path, {**networks, "training_set_kwargs": None, "augment_pipe": None})
    _write_origin(name, path, saved["origin"], log)


def curve(log: Path) -> list[str]:
    """At most CURVE_LINES of the lines that a training printed, evenly spaced and with the last; repeated steps once."""
    by_images = {}
    for line in log.read_text().splitlines():
        if found := re.match(r"(\d+) images, ", line):
            by_images[int(found[1])] = line
    lines = [by_images[images] for images in sorted(by_images)]
    every = math.ceil(len(lines) / CURVE_LINES)
    return lines[::-1][:: max(every, 1)][::-1]


def _write_origin(name: str, path: Path, origin: str, log: Path | None) -> None:
    record = json.loads(origin)
    # The folders of whoever ran it are of no use to anyone else.
    command = re.sub(r"\S*/(\w+\.py)", r"recipes/\1", re.sub(r"--data=\S+", "--data=DATA", record["command"]))
    command = re.sub(r"--out=\S*/", "--out=", command)
    record |= {"command": command, "sha256": sha256(path), "licence": licence_of(name)}
    if log is not None:
        record["curve"] = curve(log)
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    click.echo(f"{path.name}: {path.stat().st_size} bytes")


@main.command(name="catalog")
def write_catalog() -> None:
    """Rewrites catalog.json from the files that are there; measurements of unchanged teachers are kept."""
    path = PRETRAINED / "catalog.json"
    known = catalog() if path.exists() else {}
    pairs = {}
    names = {
        file.name.removesuffix(f"-{kind}{file.suffix}") for kind in KINDS for file in PRETRAINED.glob(f"*-{kind}.*")
    }
    for name in sorted(names):
        files = {kind: file_of(kind, name) for kind in KINDS}
        entry: dict[str, dict] = {
            kind: {"file": file.name, "sha256": sha256(file), "licence": licence_of(name)}
            for kind, file in files.items()
            if file.exists()
        }
        if name in known and "teacher" in entry and known[name].sha256["teacher"] == entry["teacher"]["sha256"]:
            entry["teacher"]["measured"] = [vars(m) for m in known[name].teacher_measurements]
        pairs[name] = entry
    path.write_text(json.dumps({"pairs": pairs}, indent=2) + "\n")
    click.echo(f"{path.name}: {', '.join(pairs)}")


@main.command()
@click.argument("name")
@click.option("--images", type=int, default=10_000, show_default=True)
@click.option("--steps", type=int, default=DEFAULT_STEPS, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keeps samples here and reuses them.")
def measure(name: str, images: int, steps: int, seed: int, threads: int, keep: Path | None) -> None:
    """The distance of the teacher's own samples, by the deterministic sampler, recorded in catalog.json."""
    torch.set_num_threads(threads)
    pair = catalog()[name]
    if "detector" not in pair.files:
        raise click.UsageError(
            f"{name} has no detector of its own; measure it with `gan-refine evaluate --detector=NAME`"
        )
    detector = load_detector(PRETRAINED / pair.files["detector"])
    reference = load_reference(PRETRAINED / pair.files["reference"])
    net = load_edm(PRETRAINED / pair.files["teacher"])

    metric = MetricCollection(detector, reference, images)
    started = time.time()
    with tqdm(total=images) as bar:
        if keep is None:
            value = measure_teacher(Teacher(None, net), metric, steps, seed, bar.update)[0].value
        else:
            for batch in kept_samples(net, keep, images, steps, seed):
                metric.update(batch)
                bar.update(len(batch))
            value = metric.result()[metric.name]
    record = {"metric": metric.name, "value": value, "sampler": "unipc", "steps": steps}
    click.echo(f"{record}, {time.time() - started:.0f} s, {hardware()}, commit {commit()}")
    path = PRETRAINED / "catalog.json"
    content = json.loads(path.read_text())
    others = content["pairs"][name]["teacher"].get("measured", [])
    others = [m for m in others if m["metric"] != metric.name]
    content["pairs"][name]["teacher"]["measured"] = [*others, record]
    path.write_text(json.dumps(content, indent=2) + "\n")


def kept_samples(net: Denoiser, folder: Path, images: int, steps: int, seed: int) -> Iterator[PixelBytes]:
    """The samples of `measure_teacher`, batch by batch; those in `folder` are read, the others made and put there."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = math.ceil(images / CHUNK)
    for number in range(batches):
        path = folder / f"seed{seed}-steps{steps}-{number:04d}.npy"
        if not path.exists():
            rng = rng_for(seed, 0, 0, TEACHER_STREAM)
            ((made, _),) = sample_images(net, images, steps=steps, batch=CHUNK, rng=rng, part=(number, batches))
            with atomic_file(path) as stream:
                np.save(stream, to_uint8(made).numpy())
        yield torch.from_numpy(np.load(path))


if __name__ == "__main__":
    main()
