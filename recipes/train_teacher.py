"""Trains an EDM teacher: `python recipes/train_teacher.py fashion16 --data=FOLDER --out=teacher16.pt`.

The loss is eq. 2 with the weight and noise distribution of Table 1 of arXiv:2206.00364; `emoji32` has its augmentation
(appendix F.2). An interrupted run goes on from --out.
"""

import copy
import sys
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.fused_blocks import fuse_blocks
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.teachers import load_edm
from recipes import augment, datasets
from recipes.images import Images
from recipes.training import Checkpoint, learning_rate, prepare

ARCHITECTURES = {
    "fashion16": {"model_channels": 32, "channel_mult": [1, 2, 2]},
    "fashion16-cond": {"model_channels": 32, "channel_mult": [1, 2, 2]},
    "emoji32": {"model_channels": 32, "channel_mult": [1, 1, 2, 2], "augment_dim": augment.NUM_LABELS},
}
AUGMENT_PROBABILITY = 0.12  # of each move where the network is told of moves; flips in x happen to half of the images
WATCHED = 256  # images of each split that the average is measured on


def network_kwargs(name: str) -> dict:
    """Constructor arguments of EDMPrecond for the teacher of that name."""
    fixed = {"model_type": "SongUNet", "num_blocks": 1, "attn_resolutions": [8], "dropout": 0.0}
    shape = datasets.SHAPES[name]
    size = {"img_resolution": shape.resolution, "img_channels": shape.channels, "label_dim": shape.classes}
    return {**size, **fixed, **ARCHITECTURES[name]}


def edm_loss(
    net: EDMPrecond,
    clean: torch.Tensor,
    labels: torch.Tensor,
    rng: torch.Generator,
    augment_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean weighted denoising error at ln sigma ~ N(-1.2, 1.2^2)."""
    sigma = (torch.randn([len(clean), 1, 1, 1], generator=rng) * 1.2 - 1.2).exp().to(clean.device)
    weight = (sigma**2 + net.sigma_data**2) / (sigma * net.sigma_data) ** 2
    noisy = clean + sigma * torch.randn(clean.shape, generator=rng).to(clean.device)
    moves = {} if augment_labels is None else {"augment_labels": augment_labels}
    return (weight * (net(noisy, sigma, labels, **moves) - clean) ** 2).mean()


def training_loss(net: EDMPrecond, images: Images, batch: int, rng: torch.Generator) -> torch.Tensor:
    """The loss of a random batch, augmented if the network is told how."""
    chosen = torch.randint(len(images), [batch], generator=rng)
    clean, moves = images.batch(chosen), None
    if net.model.map_augment is not None:
        moved = augment.move(clean, AUGMENT_PROBABILITY, rng, mirror=1.0)
        clean, moves = moved.images, moved.labels
    clean = clean.contiguous(memory_format=torch.channels_last)
    return edm_loss(net, clean, images.labels(chosen), rng, moves)


@torch.no_grad()
def measured_loss(net: EDMPrecond, images: Images) -> float:
    """The loss of images evenly spaced in `images`, none augmented, always with the same noise."""
    index = torch.arange(0, len(images), max(len(images) // WATCHED, 1))[:WATCHED]
    return float(edm_loss(net, images.batch(index), images.labels(index), torch.Generator().manual_seed(0)))


def start_from(net: EDMPrecond, path: Path) -> None:
    """Takes over the weights of a network pickle that `net` has too; what reads the labels must be all that it lacks."""
    known = load_edm(path).net.state_dict()
    left = net.load_state_dict(known, strict=False)
    assert not left.unexpected_keys and all("label" in key for key in left.missing_keys), left
    for key in left.missing_keys:
        net.get_parameter(key).data.zero_()  # so that at first no class changes anything


@click.command()
@click.argument("name", type=click.Choice(sorted(ARCHITECTURES)))
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help=datasets.HELP)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write and to go on from.")
@click.option("--images", type=int, default=307_200, show_default=True, help="Training images in all.")
@click.option("--batch", type=int, default=128, show_default=True)
@click.option("--lr", type=float, default=2e-3, show_default=True)
@click.option("--ema-decay", type=float, default=0.999, show_default=True, help="Weight average, a step.")
@click.option(
    "--start", type=click.Path(exists=True, path_type=Path), help="Network pickle without classes to start from."
)
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    name: str,
    data: Path,
    out: Path,
    images: int,
    batch: int,
    lr: float,
    ema_decay: float,
    start: Path | None,
    threads: int,
    device: str,
) -> None:
    prepare(threads)
    torch.manual_seed(0)
    dataset, held_out = (datasets.load(name, data, split, device) for split in ("train", "test"))
    net = EDMPrecond(**network_kwargs(name)).to(device)
    if start is not None:
        start_from(net, start)
    fuse_blocks(net)
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.99))
    checkpoint = Checkpoint(out)
    first = 0
    if (state := checkpoint.load()) is not None:
        net.load_state_dict(state["net"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    total, running = images // batch, 0.0
    for step in range(first, total):
        optimizer.param_groups[0]["lr"] = lr * learning_rate(step / total)
        loss = training_loss(net, dataset, batch, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        running += (float(loss.detach()) - running) / min(step - first + 1, 100)
        decay = min(ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
        if (step + 1) % 100 == 0 or step + 1 == total:
            state = {
                "net": net.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            seen = (step + 1) * batch
            checkpoint.save(state, images=seen)
            watched = f"train {measured_loss(ema, dataset):.4f}, held_out {measured_loss(ema, held_out):.4f}"
            print(f"{seen} images, {checkpoint.origin['seconds']:.0f} s, loss {running:.4f}, {watched}", flush=True)


if __name__ == "__main__":
    main()
