"""From training checkpoints to the files in pretrained/.

python recipes/export.py teacher emoji32 teacher32.pt --log=teacher32.log     the network pickle and its origin record
python recipes/export.py gan emoji32 gan32.pt --log=gan32.log
python recipes/export.py lighten fashion16-cond             half of a pair's size
python recipes/export.py samples fashion16                  the teacher's samples for the default options
python recipes/export.py catalog                            digests and licences of everything there, into catalog.json
"""

import json
import math
import re
import sys
from pathlib import Path

import click
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.assets import KINDS, PRETRAINED, catalog, sha256
from gan_refine.config import LEARNING_SAMPLES
from gan_refine.evaluation import NUM_IMAGES, SamplingOptions, Teacher, teacher_samples
from gan_refine.evaluation.samples import cache_key, store_samples
from gan_refine.generators import StyleGan2
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.objectives import build_objective
from gan_refine.pickles import read_pickle, write_networks
from gan_refine.run.build import learning_samples
from gan_refine.sampling import DEFAULT_STEPS
from gan_refine.teachers import load_edm
from recipes import train_gan, train_teacher
from recipes.datasets import licence_of

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


@main.command()
@click.argument("name")
def lighten(name: str) -> None:
    """Halves the size of an embedded pair: the teacher's weights in float16 (which are used in float32), a GAN file without G."""
    path = file_of("teacher", name)
    net = EDMPrecond(**train_teacher.network_kwargs(name))  # that in memory has faster blocks, which are for no file
    net.load_state_dict(load_edm(path).net.state_dict())
    write_networks(path, {"ema": net.half()})
    _change_origin(path, {"weights": "rounded to float16 by recipes/export.py lighten"})
    path = file_of("gan", name)
    if "G" in read_pickle(path).networks():
        average = StyleGan2.load(path, "G_ema")
        networks = {"D": average.discriminator(), "G_ema": average.net}
        write_networks(path, {**networks, "training_set_kwargs": None, "augment_pipe": None})
        _change_origin(path, {})


def _change_origin(path: Path, changes: dict[str, str]) -> None:
    record_path = path.with_suffix(".json")
    record = json.loads(record_path.read_text()) | {"sha256": sha256(path)} | changes
    record_path.write_text(json.dumps(record, indent=2) + "\n")
    click.echo(f"{path.name}: {path.stat().st_size} bytes")


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
    """Rewrites catalog.json from the files that are there."""
    path = PRETRAINED / "catalog.json"
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
        pairs[name] = entry
    path.write_text(json.dumps({"pairs": pairs}, indent=2) + "\n")
    click.echo(f"{path.name}: {', '.join(pairs)}")


@main.command()
@click.argument("name")
@click.option("--threads", type=int, default=2, show_default=True)
def samples(name: str, threads: int) -> None:
    """The teacher's samples that runs compare with and learn from by default, so that nobody need make them."""
    torch.set_num_threads(threads)
    path = PRETRAINED / catalog()[name].files["teacher"]
    teacher = Teacher(path, load_edm(path))
    for old in PRETRAINED.glob(f"{name}-samples-*.npz"):
        old.unlink()
    wanted = build_objective("di-gan", teacher.denoiser).wanted_samples
    assert wanted is not None, "the default objective learns from samples"
    learned = learning_samples(wanted, LEARNING_SAMPLES)
    for options in (SamplingOptions(NUM_IMAGES, DEFAULT_STEPS), learned):
        with tqdm(total=2 * options.images) as bar:
            made = teacher_samples(Teacher(None, teacher.denoiser), options, bar.update)
        target = PRETRAINED / f"{name}-samples-{cache_key(teacher, options)}.npz"
        store_samples(target, torch.cat([made.reference, made.others]))


if __name__ == "__main__":
    main()
