"""The space of w: w_avg is the mean w of a refined mapping (the original's bits where it did not change), and whitening."""

import copy
from pathlib import Path

import pytest
import torch
from toys import bits

from gan_refine.generators import StyleGan2
from gan_refine.generators.w_space import NUM_LATENTS, mean_w
from gan_refine.interfaces import Latents
from gan_refine.networks.stylegan2 import Generator
from gan_refine.pickles import write_gan, write_state_dict

WIDTHS = {"channel_base": 64, "channel_max": 8}


def write(folder: Path, classes: int = 0, suffix: str = ".pkl", **mapping: object) -> Path:
    torch.manual_seed(0)
    net = Generator(8, classes, 8, 8, 1, mapping_kwargs={"num_layers": 2, **mapping}, synthesis_kwargs=WIDTHS)
    if mapping.get("w_avg_beta", 0) is not None:
        net.mapping.w_avg.copy_(torch.linspace(-3, 3, 8))  # far from the mean, so that it can be told from it
    path = folder / f"gan{suffix}"
    write_gan(path, net, None, net) if suffix == ".pkl" else write_state_dict(path, net)
    return path


@torch.no_grad()
def moved(path: Path, part: str) -> StyleGan2:
    """A copy of the file's generator, as the average of a run is one, with one part shifted."""
    generator = copy.deepcopy(StyleGan2.load(path))
    for name, parameter in generator.net.named_parameters():
        if name.startswith(part):
            parameter.add_(0.3 * parameter.std() * torch.randn_like(parameter) if parameter.numel() > 1 else 0.1)
    return generator


def exported(generator: StyleGan2, folder: Path) -> StyleGan2:
    generator.export(folder / "refined.pkl")
    return StyleGan2.load(folder / "refined.pkl")


@torch.no_grad()
def sampled_w(generator: StyleGan2, n: int = 40_000) -> torch.Tensor:
    """w [n, W] of latents that are not those of the program."""
    rng = torch.Generator().manual_seed(17)
    labels = torch.eye(max(generator.spec.num_classes, 1))[torch.arange(n) % max(generator.spec.num_classes, 1)]
    z = torch.randn([n, 8], generator=rng)
    return generator.net.mapping(z, labels[:, : generator.spec.num_classes])[:, 0].double()


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
@pytest.mark.parametrize("classes", [0, 3])
def test_it_is_the_mean_of_the_refined_mapping(classes, suffix, tmp_path):
    refined = exported(moved(write(tmp_path, classes, suffix), "mapping"), tmp_path)
    w = sampled_w(refined)
    error = (refined.net.mapping.w_avg - w.mean(0)) / w.std(0)
    allowed = 5 * (1 / NUM_LATENTS + 1 / len(w)) ** 0.5  # five standard errors of the difference of two means
    assert float(error.abs().max()) < allowed


@torch.no_grad()
def test_the_image_at_psi_0_is_that_of_the_mean_w(tmp_path):
    generator = moved(write(tmp_path), "mapping")
    refined = exported(generator, tmp_path)
    w = sampled_w(refined)
    ws = w.mean(0).float()[None, None].repeat(1, refined.net.num_ws, 1)
    expected = refined.net.synthesis(ws, noise_mode="const").clamp(-1, 1)
    latents = Latents(torch.randn([1, 8]), torch.zeros([1, 0]))
    found = refined.truncated(0)(latents)
    stale = StyleGan2.load(tmp_path / "gan.pkl").truncated(0)(latents)
    spread = (refined(Latents(torch.randn([64, 8]), torch.zeros([64, 0]))) - expected).std()
    assert float((found - expected).abs().max()) < 0.1 * float(spread)
    assert float((stale - expected).abs().max()) > float(spread), "the test tells w_avg from the mean"
    assert torch.equal(generator.truncated(0)(latents), found), "before it is written too"


@pytest.mark.parametrize("part", ["nothing", "synthesis"])
def test_a_mapping_that_did_not_change_keeps_the_bits(part, tmp_path):
    path = write(tmp_path)
    refined = exported(moved(path, part), tmp_path)
    assert torch.equal(bits(refined.net.mapping.w_avg), bits(StyleGan2.load(path).net.mapping.w_avg))
    assert ((tmp_path / "refined.pkl").read_bytes() == path.read_bytes()) == (part == "nothing")


def test_writing_changes_nothing_in_memory_and_equal_weights_write_equal_bytes(tmp_path):
    generator = moved(write(tmp_path), "mapping")
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    generator.export(tmp_path / "one.pkl")
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())
    torch.randn(100)  # whatever happened between
    copy.deepcopy(generator).export(tmp_path / "two.pkl")
    assert (tmp_path / "one.pkl").read_bytes() == (tmp_path / "two.pkl").read_bytes()
    again = StyleGan2.load(tmp_path / "one.pkl")
    again.export(tmp_path / "three.pkl")
    assert (tmp_path / "three.pkl").read_bytes() == (tmp_path / "one.pkl").read_bytes()


def test_both_networks_of_the_file_get_it(tmp_path):
    generator = moved(write(tmp_path), "mapping")
    generator.export(tmp_path / "refined.pkl")
    both = [StyleGan2.load(tmp_path / "refined.pkl", which).net.mapping.w_avg for which in ("G_ema", "G")]
    assert torch.equal(*both)


def test_a_mapping_without_it_is_written_without_it(tmp_path):
    refined = exported(moved(write(tmp_path, w_avg_beta=None), "mapping"), tmp_path)
    assert "w_avg" not in dict(refined.net.mapping.named_buffers())


def same_bits(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(bits(a), bits(b)) for a, b in pairs)


def styles(generator: StyleGan2, w: torch.Tensor) -> list[torch.Tensor]:
    layers = [layer for name, layer in generator.net.synthesis.named_modules() if name.endswith("affine")]
    assert layers
    return [layer(w.float()).double() for layer in layers]


@torch.no_grad()
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("power", [0.1, 0.5])
def test_whitened_styles_are_those_of_a_w_with_nearer_deviations(power, classes, tmp_path):
    generator = StyleGan2.load(write(tmp_path, classes))
    for layer in (layer for name, layer in generator.net.synthesis.named_modules() if name.endswith("affine")):
        layer.weight_gain, layer.bias_gain = 0.3, 0.7  # of which a stored weight and bias are a part
    w = sampled_w(generator)
    mean, (directions, deviations, _) = (
        w.mean(0),
        torch.linalg.svd((w - w.mean(0)).T / len(w) ** 0.5, full_matrices=False),
    )
    assert deviations[0] > 5 * deviations[-1]
    alike = (
        directions * deviations ** (-2 * power) * deviations[0] ** (2 * power) @ directions.T
    )  # s becomes s^(1 - 2 power)
    whitened = generator.whitened(power)
    for found, wanted, before in zip(
        styles(whitened, w), styles(generator, mean + (w - mean) @ alike), styles(generator, w), strict=True
    ):
        error = float((found - wanted).square().mean().sqrt() / (wanted - before).square().mean().sqrt())
        assert error < 0.1  # of 16,384 latents and of 40,000 others
    assert same_bits(whitened.net.mapping, generator.net.mapping)
    assert all(map(torch.equal, styles(generator.whitened(0), w), styles(generator, w)))


@torch.no_grad()
def test_whitening_leaves_the_generator_and_the_image_of_the_mean_w(tmp_path):
    path = write(tmp_path)
    generator, first = StyleGan2.load(path), StyleGan2.load(path)
    whitened = generator.whitened(0.3)
    assert same_bits(generator.net, first.net)
    latents = Latents(torch.randn([4, 8], generator=torch.Generator().manual_seed(0)), torch.zeros([4, 0]))
    assert float((whitened(latents) - generator(latents)).abs().max()) > 0.01
    w = mean_w(generator.net.mapping, generator.draw)
    for found, wanted in zip(styles(whitened, w[None]), styles(generator, w[None]), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
