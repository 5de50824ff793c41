"""Trains a StyleGAN2: `python recipes/train_gan.py fashion16 --data=FOLDER --out=gan16.pt`.

Non-saturating logistic loss with lazy R1 (arXiv:1912.04958, section 4 and appendix B), for `emoji32` with
adaptive augmentation (arXiv:2006.06676). An interrupted run goes on from --out.
"""

import copy
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.networks.stylegan2 import Discriminator, Generator
from recipes import augment, datasets
from recipes.images import Images
from recipes.training import Checkpoint, learning_rate, prepare

R1_INTERVAL = 16  # steps between two penalties, each weighted by the interval (lazy regularisation)


@dataclass(frozen=True)
class Size:
    """Width and depth of one generator and its discriminator: channels are min(base / resolution, channel_max)."""

    channel_base: int
    channel_max: int
    z_dim: int
    mapping_layers: int


SIZES = {
    "fashion16": Size(1024, 128, z_dim=128, mapping_layers=4),
    "fashion16-cond": Size(512, 64, z_dim=64, mapping_layers=2),
    "emoji32": Size(1024, 80, z_dim=128, mapping_layers=4),
}
ADAPTIVE = {"emoji32": 200_000}  # images in which the probability of augmentation can go from 0 to 1


def generator_kwargs(name: str) -> dict:
    """Constructor arguments of the generator of that name."""
    size, shape = SIZES[name], datasets.SHAPES[name]
    return {
        "z_dim": size.z_dim,
        "c_dim": shape.classes,
        "w_dim": size.z_dim,
        "img_resolution": shape.resolution,
        "img_channels": shape.channels,
        "mapping_kwargs": {"num_layers": size.mapping_layers},
        "synthesis_kwargs": {"channel_base": size.channel_base, "channel_max": size.channel_max},
    }


def discriminator_kwargs(name: str) -> dict:
    """Constructor arguments of its discriminator."""
    widths = {"channel_base": SIZES[name].channel_base, "channel_max": SIZES[name].channel_max}
    shape = datasets.SHAPES[name]
    images = {"img_resolution": shape.resolution, "img_channels": shape.channels}
    return {"c_dim": shape.classes, "architecture": "orig", **images, **widths}


def r1_penalty(discriminator: Discriminator, real: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean squared norm of the discriminator's gradient at real images (arXiv:1801.04406)."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real, labels).sum(), real, create_graph=True)
    return gradient.square().sum(dim=[1, 2, 3]).mean()


class Trainer:
    """Both networks, their optimisers and the generator's average; one `step` is one update of each."""

    def __init__(self, name: str, data: Images, batch: int, lr: float, r1_gamma: float, ema_images: int) -> None:
        self.adaptive = augment.Adaptive(ADAPTIVE[name]) if name in ADAPTIVE else None
        self.data, self.batch, self.r1_gamma, self.ema_images = data, batch, r1_gamma, ema_images
        self.device = data.pixels.device
        self.generator = Generator(**generator_kwargs(name)).train().to(self.device)
        self.discriminator = Discriminator(**discriminator_kwargs(name)).train().to(self.device)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # The penalty's extra updates count towards Adam's time constants.
        ratio = R1_INTERVAL / (R1_INTERVAL + 1)
        self.opt_g = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=(0.0, 0.99))
        self.opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=lr * ratio, betas=(0.0, 0.99**ratio))
        self.rates = [(self.opt_g, lr), (self.opt_d, lr * ratio)]
        self.parts: dict[str, torch.nn.Module | torch.optim.Optimizer] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
            "opt_g": self.opt_g,
            "opt_d": self.opt_d,
        }

    def state_dict(self) -> dict:
        adaptive = {} if self.adaptive is None else {"adaptive": self.adaptive.state_dict()}
        return {name: part.state_dict() for name, part in self.parts.items()} | adaptive

    def load_state_dict(self, state: dict) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        if self.adaptive is not None:
            self.adaptive.load_state_dict(state["adaptive"])

    def _seen(self, images: torch.Tensor) -> torch.Tensor:
        """The images as the discriminator sees them."""
        return images if self.adaptive is None else self.adaptive(images, torch.default_generator)

    def set_rate(self, share: float) -> None:
        """The rates of both optimisers, as a share of their highest."""
        for optimizer, rate in self.rates:
            optimizer.param_groups[0]["lr"] = share * rate

    def step(self, index: int) -> dict[str, float]:
        torch.manual_seed(index)
        self.discriminator.requires_grad_(False)
        z, chosen = (
            torch.randn([self.batch, self.generator.z_dim]).to(self.device),
            torch.randint(len(self.data), [self.batch]),
        )
        real, labels = self.data.batch(chosen), self.data.labels(chosen)  # fakes of the same classes
        fake = self.generator(z, labels)
        loss_g = F.softplus(-self.discriminator(self._seen(fake), labels)).mean()
        self._update(self.opt_g, loss_g)
        self.discriminator.requires_grad_(True)
        real, fake = self._seen(real), self._seen(fake.detach())
        logits_real, logits_fake = self.discriminator(real, labels), self.discriminator(fake, labels)
        self._update(self.opt_d, F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean())
        if index % R1_INTERVAL == 0:
            self._update(self.opt_d, self.r1_gamma / 2 * R1_INTERVAL * r1_penalty(self.discriminator, real, labels))
        decay = 0.5 ** (self.batch / min(self.ema_images, (index + 1) * self.batch * 0.05))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)
        self.average.mapping.w_avg.copy_(self.generator.mapping.w_avg)
        figures = {"loss_g": float(loss_g.detach()), "real": float(logits_real.detach().mean())}
        if self.adaptive is not None:
            self.adaptive.observe(logits_real)
            figures |= {"r_t": self.adaptive.r_t, "augment": self.adaptive.probability}
        return figures

    @staticmethod
    def _update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@click.command()
@click.argument("name", type=click.Choice(sorted(SIZES)))
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help=datasets.HELP)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write and to go on from.")
@click.option("--images", type=int, default=256_000, show_default=True, help="Training images in all.")
@click.option("--batch", type=int, default=64, show_default=True)
@click.option("--lr", type=float, default=2.5e-3, show_default=True)
@click.option("--r1-gamma", type=float, default=0.1, show_default=True)
@click.option("--ema-images", type=int, default=5_000, show_default=True, help="Half-life of the weight average.")
@click.option("--keep-every", type=int, default=0, help="Keep a copy of the checkpoint every so many images.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    name: str,
    data: Path,
    out: Path,
    images: int,
    batch: int,
    lr: float,
    r1_gamma: float,
    ema_images: int,
    keep_every: int,
    threads: int,
    device: str,
) -> None:
    prepare(threads)
    torch.manual_seed(0)
    trainer = Trainer(name, datasets.load(name, data, device=device), batch, lr, r1_gamma, ema_images)
    checkpoint = Checkpoint(out)
    first = 0
    if (state := checkpoint.load()) is not None:
        trainer.load_state_dict(state["trainer"])
        first = state["step"]
    total = images // batch
    for step in range(first, total):
        trainer.set_rate(learning_rate(step / total))
        figures = trainer.step(step)
        seen = (step + 1) * batch
        if (step + 1) % 100 == 0 or step + 1 == total:
            state = {"trainer": trainer.state_dict(), "step": step + 1}
            checkpoint.save(state, images=seen)
            shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
            print(f"{seen} images, {checkpoint.origin['seconds']:.0f} s, {shown}", flush=True)
        if keep_every and seen % keep_every < batch:
            torch.save(trainer.average.state_dict(), out.with_name(f"{out.stem}-{seen // 1000:04d}k.pt"))


if __name__ == "__main__":
    main()
