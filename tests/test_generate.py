"""generate: one PNG a seed, the same latents as StyleGAN's tools, whatever else is asked for in the same call."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toys import Foreign

from gan_refine.cli import cli
from gan_refine.cli.main import run_command
from gan_refine.errors import OptionError
from gan_refine.networks.stylegan2 import Generator
from gan_refine.pickles import write_gan
from gan_refine.run.generate import parse_numbers

SIZES = {"z_dim": 8, "w_dim": 8, "img_resolution": 8}
WIDTHS = {"channel_base": 64, "channel_max": 8}


def make(classes: int = 0, channels: int = 3) -> Generator:
    net = Generator(c_dim=classes, img_channels=channels, **SIZES, synthesis_kwargs=WIDTHS).eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            parameter.fill_(0.5)
    net.mapping.w_avg.normal_()
    return net


def written(net: nn.Module, folder: Path) -> Path:
    write_gan(folder / "gan.pkl", net, None, net)
    return folder / "gan.pkl"


def generate(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["gan_refine", "generate", *map(str, arguments), "--device=cpu"])
    return run_command(cli)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def expected(net: Generator, seed: int, label: int | None = None, **options: object) -> np.ndarray:
    """As the published generate.py makes it."""
    z = torch.from_numpy(np.random.RandomState(seed).randn(1, 8)).float()
    c = torch.zeros([1, net.c_dim])
    if label is not None:
        c[0, label] = 1
    image = (net(z, c, **{"noise_mode": "const", **options})[0].permute(1, 2, 0) * 127.5 + 128).clamp(0, 255)
    return image.to(torch.uint8).numpy()


def test_images_of_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    net = make()
    path = written(net, tmp_path)
    assert generate(monkeypatch, f"--gan={path}", "--seeds=0-16,7000", f"--outdir={tmp_path / 'out'}", "--grid") == 0
    names = [f"seed{seed:04d}.png" for seed in [*range(17), 7000]] + ["grid.png"]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "out" / name) for name in names]
    assert sorted(found.name for found in (tmp_path / "out").iterdir()) == sorted(names)
    for seed in (0, 16, 7000):
        got = pixels(tmp_path / "out" / f"seed{seed:04d}.png").astype(int)
        assert np.abs(got - expected(net, seed)).max() <= 1, "batches round differently"
    assert np.unique(pixels(tmp_path / "out" / "seed0000.png")).size > 5
    grid = pixels(tmp_path / "out" / "grid.png")
    assert grid.shape == (32, 40, 3)
    assert np.array_equal(grid[:8, 8:16], pixels(tmp_path / "out" / "seed0001.png"))


def test_truncation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make()
    path = written(net, tmp_path)
    assert generate(monkeypatch, f"--gan={path}", "--seeds=3,4", "--trunc=0.5", f"--outdir={tmp_path / 'half'}") == 0
    got = pixels(tmp_path / "half" / "seed0003.png").astype(int)
    assert np.abs(got - expected(net, 3, truncation_psi=0.5)).max() <= 1
    assert np.abs(got - expected(net, 3)).max() > 3
    assert generate(monkeypatch, f"--gan={path}", "--seeds=3,4", "--trunc=0", f"--outdir={tmp_path / 'none'}") == 0
    means = [pixels(tmp_path / "none" / f"seed000{seed}.png") for seed in (3, 4)]
    assert np.array_equal(*means)


def test_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make(classes=3, channels=1)
    path = written(net, tmp_path)
    assert generate(monkeypatch, f"--gan={path}", "--seeds=5", "--class=2", f"--outdir={tmp_path}") == 0
    assert np.abs(pixels(tmp_path / "seed0005.png").astype(int) - expected(net, 5, 2)[:, :, 0]).max() <= 1
    assert generate(monkeypatch, f"--gan={path}", "--seeds=5,6", "--class=0-2", "--grid", f"--outdir={tmp_path}") == 0
    assert pixels(tmp_path / "grid.png").shape == (16, 24)
    assert np.array_equal(pixels(tmp_path / "grid.png")[:8, 16:], pixels(tmp_path / "seed0005-class02.png"))
    assert np.array_equal(pixels(tmp_path / "seed0005-class02.png"), pixels(tmp_path / "seed0005.png"))


def test_random_noise_depends_on_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(make(), tmp_path)
    for name, seeds in (("a", "8,9"), ("b", "9")):
        arguments = [f"--gan={path}", f"--seeds={seeds}", "--noise-mode=random", f"--outdir={tmp_path / name}"]
        assert generate(monkeypatch, *arguments) == 0
    assert generate(monkeypatch, f"--gan={path}", "--seeds=9", f"--outdir={tmp_path / 'const'}") == 0
    random = pixels(tmp_path / "a" / "seed0009.png")
    assert np.array_equal(random, pixels(tmp_path / "b" / "seed0009.png"))
    assert not np.array_equal(random, pixels(tmp_path / "const" / "seed0009.png"))


def test_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "f.pkl").write_bytes(pickle.dumps({"G_ema": Foreign(channels=3, resolution=8)}))
    arguments = [f"--gan={tmp_path / 'f.pkl'}", "--seeds=1", f"--outdir={tmp_path / 'out'}"]
    assert generate(monkeypatch, *arguments) == 2
    assert not (tmp_path / "out").exists()
    assert generate(monkeypatch, *arguments, "--trust-pickle") == 0
    assert "RUNS THE PROGRAM" in capsys.readouterr().err
    z = np.random.RandomState(1).randn(1, 4)[0, :3]
    assert (
        pixels(tmp_path / "out" / "seed0001.png")[3, 4].tolist() == (z * 127.5 + 128).clip(0, 255).astype(int).tolist()
    )
    assert generate(monkeypatch, *arguments, "--trust-pickle", "--trunc=0.5") == 2
    assert "has no argument truncation_psi" in capsys.readouterr().err


def test_embedded_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert generate(monkeypatch, "--gan=fashion16", "--seeds=0-3", f"--outdir={tmp_path}") == 0
    assert pixels(tmp_path / "seed0003.png").shape == (16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds=5-3"], "--seeds=5-3 is not understood"),
        (["--seeds=a"], "--seeds=a is not understood"),
        (["--seeds=-1"], "numbers and rising ranges"),
        (["--seeds=4294967296"], "from 0 to 4294967295"),
        (["--seeds=0-4000000000"], "is not understood"),
        (["--trunc=nan"], "trunc"),
        (["--class=3"], "from 0 to 2"),
        ([], "choose with --class=0 or --class=0-2"),
        (["--class=0", "--outdir=/dev/null/x"], "choose a folder that you may write to"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    path = written(make(classes=3), tmp_path)
    assert generate(monkeypatch, f"--gan={path}", f"--outdir={tmp_path / 'out'}", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_class_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert generate(monkeypatch, "--gan=fashion16", "--class=1", f"--outdir={tmp_path}") == 2
    assert "without classes" in capsys.readouterr().err


def test_numbers() -> None:
    assert parse_numbers("seeds", "3,1-2, 7", 9) == [3, 1, 2, 7]
    for text in ("", "1,", "1--2", "1-2-3", "10", "٣"):
        with pytest.raises(OptionError):
            parse_numbers("seeds", text, 9)


def test_samples_of_a_teacher_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: list[str]) -> None:
    both = ["--teacher-steps=2", pair[1]]
    assert generate(monkeypatch, *both, "--seeds=3-4", f"--outdir={tmp_path / 'a'}") == 0
    assert generate(monkeypatch, *both, "--seeds=4", f"--outdir={tmp_path / 'b'}") == 0
    one, two = pixels(tmp_path / "a/seed0004.png"), pixels(tmp_path / "b/seed0004.png")
    assert one.shape == (16, 16) and np.abs(one.astype(int) - two).max() <= 1
    assert not np.array_equal(one, pixels(tmp_path / "a/seed0003.png"))


@pytest.mark.parametrize(
    "more, message",
    [
        (["--gan=fashion16"], "give --gan or --teacher"),
        (["--trunc=0.5"], "--trunc does nothing with --teacher"),
        (["--teacher-steps=1"], "--teacher-steps=1 is not allowed"),
    ],
)
def test_what_a_teacher_cannot_do(more, message, tmp_path, monkeypatch, capsys) -> None:
    assert generate(monkeypatch, "--teacher=fashion16", *more, f"--outdir={tmp_path}") == 2
    assert message in capsys.readouterr().err
