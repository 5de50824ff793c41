"""Generators larger than their teachers: the resize, the anchor on what it removes, and whole runs across the bridge."""

import copy
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import SingleImage

from gan_refine import assets
from gan_refine.cli import cli
from gan_refine.cli.main import run_command
from gan_refine.config import RefineOptions
from gan_refine.errors import MismatchError, OptionError
from gan_refine.generators import Bridged, BridgeOptions, StyleGan2, bridge
from gan_refine.generators.resizing import Resize, axis_weights
from gan_refine.interfaces import Generator, ImageSpec
from gan_refine.objectives import DiGan, GanFile, build_objective
from gan_refine.refine import refine
from gan_refine.run.build import bridge_options
from gan_refine.teachers import load_edm
from runs import SMALL, assert_same_run, last_checkpoint, write_pair

TEACHER = ImageSpec(channels=1, resolution=16)
BRIDGE = "--bridge=resize,anchor=2"
ONE = RefineOptions(total_images=8, batch=8, batch_gpu=4, warmup_images=8, tick_images=8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[str]:
    return write_pair(tmp_path_factory.mktemp("pair"), resolution=32)


def files(pair: list[str]) -> list[Path]:
    return [Path(argument.partition("=")[2]) for argument in pair]


def latents_of(generator: Generator, n: int = 4):
    return generator.draw(n, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name, pillow", [("lanczos", Image.Resampling.LANCZOS), ("box", Image.Resampling.BOX)])
@pytest.mark.parametrize("large, small", [(64, 16), (32, 16), (256, 32)])
def test_an_image_becomes_smaller_as_in_pillow(name, pillow, large, small):
    pixels = torch.rand([1, 1, large, large]) * 2 - 1
    expected = np.array(Image.fromarray(pixels[0, 0].numpy()).resize((small, small), pillow))
    torch.testing.assert_close(Resize(large, small, name).down(pixels)[0, 0].numpy(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["lanczos", "box"])
def test_the_way_back_is_a_projection(name):
    resize = Resize(32, 8, name)
    small, large, other = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(resize.down(resize.up(small)), small, atol=1e-5, rtol=0)
    assert resize.down(resize.removed(large)).abs().max() < 1e-5
    seen = other - resize.removed(other)
    assert abs(float((seen * resize.removed(large)).sum())) < 1e-2  # orthogonal: of 6144 products
    assert np.linalg.cond(axis_weights(1024, 64, name)) < 3


class Enlarged(Generator):
    """The images of another generator with every pixel doubled along both axes."""

    def __init__(self, small: Generator) -> None:
        super().__init__()
        self.small, self.spec = small, replace(small.spec, resolution=2 * small.spec.resolution)

    def draw(self, n, rng):
        return self.small.draw(n, rng)

    def forward(self, latents):
        return torch.nn.functional.interpolate(self.small(latents), scale_factor=2, mode="nearest")

    def export(self, path):
        self.small.export(path)


def test_the_teacher_sees_enlarged_images_at_their_own_place_after_the_box():
    teacher = load_edm(assets.resolve("teacher", "fashion16"))
    small = StyleGan2.load(assets.resolve("gan", "fashion16"))
    generator = bridge(Enlarged(small), TEACHER, BridgeOptions(filter="box"))
    latents = latents_of(generator, 24)
    with torch.no_grad():
        images = generator(latents)
        torch.testing.assert_close(images, small(latents), atol=1e-5, rtol=0)
    noise = 0.3 * torch.randn(images.shape)
    level = torch.full([24, 1, 1, 1], 0.3)

    def error(shift: int) -> float:
        moved = images.roll(shift, dims=3)
        with torch.no_grad():
            return float((teacher(moved + noise, level, latents.labels) - moved).square().mean())

    assert error(0) < 0.9 * min(error(1), error(-1))


def test_gradients_reach_all_weights_and_no_frozen_one(pair):
    whole = StyleGan2.load(files(pair)[0])
    generator = bridge(whole, TEACHER, BridgeOptions())
    assert generator.spec == TEACHER
    assert {id(p) for p in generator.parameters()} == {id(p) for p in whole.parameters()}
    images, anchor = generator.forward_regularized(latents_of(generator))
    assert images.shape == (4, 1, 16, 16) and anchor.tolist() == [0, 0, 0, 0]
    (images * torch.randn(images.shape)).sum().backward()
    names = [name for name, parameter in whole.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert [name for name in names if "noise_strength" not in name] == []
    assert all(p.grad is None for p in generator._original[0].parameters())
    twin = copy.deepcopy(generator)
    assert twin._original[0] is generator._original[0] and twin.generator is not whole
    assert set(twin.state_dict()) == {f"generator.{name}" for name in whole.state_dict()}


def test_the_anchor_is_blind_to_what_the_teacher_sees_and_pulls_back_the_rest():
    pixels, change = 0.3 * torch.randn([2, 1, 1, 64, 64])
    plain = bridge(SingleImage(pixels), TEACHER, BridgeOptions(anchor=2))
    latents, unseen = latents_of(plain), plain.resize.removed(change)
    shown = []
    for moved, strayed in [(change - unseen, torch.zeros_like(unseen)), (change, unseen)]:
        image = SingleImage(pixels + moved)
        generator = plain.with_full_size(image)
        images, anchor = generator.forward_regularized(latents)
        expected = 2 * strayed.square().sum() / 16
        torch.testing.assert_close(anchor, expected.expand(4), atol=1e-5, rtol=1e-4)
        (gradient,) = torch.autograd.grad(anchor[0], image.pixels)
        torch.testing.assert_close(gradient, 2 * 2 * strayed / 16, atol=1e-5, rtol=0)
        found = generator.change(latents)
        assert found["seen"] == pytest.approx(float((moved - strayed).square().mean().sqrt()), rel=1e-4)
        assert found["unseen"] == pytest.approx(float(strayed.square().mean().sqrt()), rel=1e-4, abs=1e-6)
        assert torch.equal(images, generator(latents))
        shown.append(images)
    torch.testing.assert_close(*shown, atol=1e-5, rtol=0)
    free = bridge(SingleImage(pixels), TEACHER, BridgeOptions(anchor=0)).with_full_size(SingleImage(pixels + change))
    assert free.forward_regularized(latents)[1].tolist() == [0, 0, 0, 0]


def test_the_anchor_keeps_the_unseen_band_and_lets_the_seen_one_move(pair):
    """The same run with a heavy and without an anchor."""
    changes = []
    for anchor in (0.0, 100.0):
        torch.manual_seed(0)
        whole = StyleGan2.load(files(pair)[0])
        generator = bridge(whole, TEACHER, BridgeOptions(anchor=anchor))
        options = replace(
            ONE, total_images=80, glr=2e-3, beta2=0.999, ema_halflife_images=500, lr_rampup=0.1, lr_decay=0.7
        )
        for _ in refine(generator, build_objective("sds", load_edm(files(pair)[1])), options):
            pass
        changes.append(generator.change(latents_of(generator)))
    free, held = changes
    assert held["unseen"] < 0.5 * free["unseen"]
    assert held["seen"] > 0.1 * free["seen"]


def test_objectives_across_the_bridge(pair):
    gan, teacher = StyleGan2.load(files(pair)[0]), load_edm(files(pair)[1])
    generator = bridge(gan, TEACHER, BridgeOptions())
    file = GanFile(generator.discriminator)
    with pytest.raises(OptionError, match="full size, the teacher's are 16x16 grey; give discriminator=fresh"):
        build_objective("di-gan,discriminator=pickle", teacher, file)
    fresh = build_objective("di-gan,discriminator=fresh", teacher, file)
    assert isinstance(fresh, DiGan) and fresh.discriminator.img_resolution == 16
    assert "no discriminator for the adversarial loss" in build_objective("di-gan", teacher, file).notices()[0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("crop", "unknown bridge 'crop'; choose one of resize"),
        ("resize,anchor=-1", "--bridge=resize,anchor=-1 is not allowed; give an anchor from 0 to 1e12"),
        ("resize,filter=cubic", "choose one of lanczos, box"),
        ("none,anchor=1", "unknown bridge 'none'"),
    ],
)
def test_bad_options_are_one_line(text, message):
    with pytest.raises(OptionError) as caught:
        bridge_options(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("teacher", [ImageSpec(1, 32), ImageSpec(1, 64), ImageSpec(3, 16), ImageSpec(1, 24)])
def test_sizes_that_a_bridge_cannot_span(teacher, pair):
    with pytest.raises(MismatchError, match=r"2, 4, 8 ... times as large"):
        bridge(StyleGan2.load(files(pair)[0]), teacher, BridgeOptions())


def test_without_the_option_the_mismatch_is_an_error_that_names_it(pair, commands, tmp_path):
    ended = commands.run(*pair, *SMALL, f"--outdir={tmp_path}")
    assert ended.code == 2
    assert "the GAN makes 32x32 grey images but the teacher denoises 16x16 grey" in ended.stderr
    assert "--bridge=resize" in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_a_killed_run_across_the_bridge_ends_in_the_same_bits_and_its_pickle_is_full_size(pair, commands, tmp_path):
    objective = "--objective=di-gan,samples=64,steps=2,window=16,discriminator=fresh"
    arguments = [*pair, *SMALL, BRIDGE, objective, "--l2-images=0.5"]
    ended = commands.run(*arguments, f"--outdir={tmp_path / 'whole'}")
    assert ended.code == 0, ended.stderr
    whole = tmp_path / "whole" / "00000-tiny"
    folder = tmp_path / "00000-tiny"
    commands.stop(folder, *arguments, f"--outdir={tmp_path}")
    assert last_checkpoint(folder)["state"]["counters"]["images"] < 80
    ended = commands.run(f"--resume={folder}")
    assert ended.code == 0, ended.stderr
    assert_same_run(folder, whole)  # both regularizers compare with the file, not with the checkpoint
    refused = commands.run(f"--resume={folder}", "--l2-images=2")
    assert refused.code == 2 and "--l2-images=0.5 (got --l2-images=2.0)" in refused.stderr
    refined = StyleGan2.load(whole / "network-refined-last.pkl")
    assert refined.spec == ImageSpec(1, 32)
    original = StyleGan2.load(files(pair)[0])
    assert not torch.equal(refined.net.synthesis.b32.conv1.weight, original.net.synthesis.b32.conv1.weight)
    assert Image.open(whole / "fakes_init.png").size == (512, 512)
    lines = [json.loads(line) for line in (whole / "bridge.jsonl").read_text().splitlines()]
    assert len(lines) > 1 and all(line["seen"] > 0 and line["unseen"] > 0 for line in lines)
    (record,) = {json.loads(line)["convention"]["images"] for line in (whole / "metric-fd32-fashion16.jsonl").open()}
    assert record == "16x16 grey", "no embedded detector knows 32x32 grey"


@pytest.mark.parametrize(
    "measure, full, small, metric", [("full", 16, 8, "fd32-fashion16"), ("teacher", 32, 16, "fd32-fashion16-teacher")]
)
def test_data_are_compared_at_full_size_and_the_teacher_at_its_own(
    measure, full, small, metric, commands, tmp_path, monkeypatch, capsys
):
    """The one embedded detector for grey images knows 16x16. The command for other latents measures at the same size."""
    pair = write_pair(tmp_path, resolution=full, teacher_resolution=small)
    arguments = [*pair, f"--bridge=resize,filter=box,measure={measure}", *SMALL]
    short = ["--kimg=0.016", "--warmup-kimg=0.008", "--teacher-steps=2", f"--outdir={tmp_path}"]
    ended = commands.run(*arguments, *short)
    assert ended.code == 0, ended.stderr
    summary = json.loads((tmp_path / "00000-tiny" / "summary.json").read_text())
    assert summary["metric"] == metric
    assert f"{metric} measures 16x16 grey images." in ended.stderr
    refined = StyleGan2.load(Path(summary["refined"]))
    assert isinstance(bridge(refined, ImageSpec(1, small), BridgeOptions()), Bridged)
    lines = ended.stderr.splitlines()
    (proposed,) = (lines[i + 1] for i, line in enumerate(lines) if line.startswith("To measure both on other latents"))
    monkeypatch.setattr(sys, "argv", [*shlex.split(proposed), "--device=cpu"])
    assert run_command(cli) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["metric"] == metric


def test_full_size_without_data_is_refused(pair, commands, tmp_path):
    ended = commands.run(*pair, *SMALL, "--bridge=resize,measure=full", f"--outdir={tmp_path}")
    assert ended.code == 2
    assert "there is nothing to measure against" in ended.stderr
