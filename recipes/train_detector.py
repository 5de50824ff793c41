"""Trains a detector on Fashion-MNIST: `python recipes/train_detector.py fashion16 --data=FOLDER --checkpoint=FILE`.

Writes NAME-detector.safetensors, NAME-reference.npz (moments of its features over the 60,000 training images) and
NAME-detector.json (their origin) into --out. An interrupted run goes on from --checkpoint. `fashion16-b` is another network
on the images of fashion16, of another depth, width and seed: results are reported in its features, no setting is chosen by them.
"""

import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.files import atomic_file
from gan_refine.metrics.classifiers import Classifier, FashionClassifier, ResidualClassifier
from gan_refine.metrics.detectors import Detector, load_detector, save_detector
from gan_refine.metrics.frechet import frechet_distance
from gan_refine.metrics.moments import Moments
from gan_refine.metrics.references import Reference, save_reference
from recipes import fashion
from recipes.training import Checkpoint, prepare


@dataclass(frozen=True)
class Design:
    """What distinguishes the detectors: the data set in recipes/fashion.py, the network and its seed."""

    images: str
    network: type[FashionClassifier] | type[ResidualClassifier]
    seed: int = 0


DESIGNS = {
    "fashion16": Design("fashion16", FashionClassifier),
    "fashion16-b": Design("fashion16", ResidualClassifier, seed=1),
}


def shifted(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Each image [N, 1, R, R] moved by -1, 0 or 1 pixels along both axes, black coming in."""
    count, _, size, _ = images.shape
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    offsets = torch.randint(3, [2, count, 1], generator=rng) + torch.arange(size)
    rows, columns = offsets[0][:, :, None], offsets[1][:, None, :]
    return padded[torch.arange(count)[:, None, None], 0, rows, columns][:, None]


def train_epoch(
    network: Classifier,
    optimizer: torch.optim.Optimizer,
    data: fashion.Images,
    epoch: int,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
) -> float:
    """One pass over shuffled, shifted images at a learning rate on a cosine over all epochs; the mean cross-entropy."""
    network.train()
    rng = torch.Generator().manual_seed(1000 * seed + epoch)
    parts = torch.randperm(len(data), generator=rng).split(batch)
    total = 0.0
    for index, part in enumerate(parts):
        done = (epoch + index / len(parts)) / epochs
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * done))
        images = shifted(data.batch(part), rng).contiguous(memory_format=torch.channels_last)
        loss = torch.nn.functional.cross_entropy(network(images), data.classes[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
    return total / len(parts)


@torch.no_grad()
def accuracy(network: Classifier, data: fashion.Images) -> float:
    """Share of images whose class is the most probable one."""
    network.eval()
    parts = torch.arange(len(data)).split(500)
    hits = [network(data.batch(part)).argmax(dim=1) == data.classes[part] for part in parts]
    return float(torch.cat(hits).float().mean())


def feature_moments(detector: Detector, data: fashion.Images) -> Moments:
    """Moments of the features of every image."""
    moments = Moments(detector.num_features)
    for part in data.pixels.split(1000):
        moments.update(detector(part))
    return moments


def write_all(name: str, out: Path, network: Classifier, folder: Path, origin: dict) -> None:
    """Weights, reference and origin; the reference is made by the detector as it reads back from its file."""
    weights, reference = out / f"{name}-detector.safetensors", out / f"{name}-reference.npz"
    record = out / f"{name}-detector.json"
    out.mkdir(parents=True, exist_ok=True)
    save_detector(weights, name, network)
    detector = load_detector(weights)
    train_images, test_images = (fashion.load(folder, DESIGNS[name].images, split) for split in ("train", "t10k"))
    train, test = feature_moments(detector, train_images), feature_moments(detector, test_images)
    save_reference(reference, Reference(train.mean, train.covariance(), train.count, 1, name))
    floor = frechet_distance(test.mean, test.covariance(), train.mean, train.covariance())
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (weights, reference)}
    facts = {"test_accuracy": accuracy(network, test_images), "distance_of_test_images": floor}
    licence = "Apache-2.0; trained on Fashion-MNIST (Zalando SE, MIT licence)"
    text = json.dumps({**origin, **facts, "licence": licence, "sha256": digests}, indent=2) + "\n"
    with atomic_file(record) as stream:
        stream.write(text.encode())
    print(f"test accuracy {facts['test_accuracy']:.4f}, distance of the test images {floor:.4f}", flush=True)


@click.command()
@click.argument("name", type=click.Choice(sorted(DESIGNS)))
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of the IDX files.")
@click.option("--checkpoint", "state_file", type=click.Path(path_type=Path), required=True, help="State to go on from.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("pretrained"), show_default=True, help="Folder.")
@click.option("--epochs", type=int, default=6, show_default=True)
@click.option("--batch", type=int, default=128, show_default=True)
@click.option("--lr", type=float, default=2e-3, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
def main(name: str, data: Path, state_file: Path, out: Path, epochs: int, batch: int, lr: float, threads: int) -> None:
    prepare(threads)
    design = DESIGNS[name]
    torch.manual_seed(design.seed)
    dataset = fashion.load(data, design.images)
    network = design.network(fashion.RESOLUTIONS[design.images])
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    checkpoint = Checkpoint(state_file)
    first = 0
    if (state := checkpoint.load()) is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    for epoch in range(first, epochs):
        loss = train_epoch(network, optimizer, dataset, epoch, epochs, batch, lr, design.seed)
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
        checkpoint.save(state, images=(epoch + 1) * len(dataset))
        print(f"epoch {epoch + 1}, {checkpoint.origin['seconds']:.0f} s, loss {loss:.4f}", flush=True)
    # the folders of whoever ran it are of no use to anyone else
    settings = f"--epochs={epochs} --batch={batch} --lr={lr:g} --threads={threads}"
    command = f"python recipes/train_detector.py {name} --data=FOLDER --checkpoint=FILE {settings}"
    write_all(name, out, network, data, {**checkpoint.origin, "command": command})


if __name__ == "__main__":
    main()
