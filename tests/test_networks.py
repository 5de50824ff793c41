"""gan_refine.networks against the published StyleGAN2-ADA and EDM networks: names, outputs, gradients."""

import inspect
import sys

import pytest
import torch
from golden_file import Golden, assert_close, names, relative_error

from gan_refine.networks.edm_precond import PRECONDITIONINGS
from gan_refine.networks.stylegan2 import Generator

RTOL = 1e-5


def generator(golden: Golden) -> Generator:
    """The network of a sg2_* file, in eval mode."""
    net = Generator(**golden.meta["init_kwargs"])
    golden.load_weights(net)
    return net.eval()


def denoiser(golden: Golden) -> torch.nn.Module:
    """The network of an edm_* file, in eval mode."""
    kwargs = dict(golden.meta["init_kwargs"])
    net = PRECONDITIONINGS[kwargs.pop("cls")](**kwargs)
    golden.load_weights(net)
    return net.eval()


def check_gradients(net: torch.nn.Module, golden: Golden, rtol: float = RTOL) -> None:
    """Every parameter gradient that the file holds."""
    parameters = dict(net.named_parameters())
    for name, reference in golden.part("grad").items():
        gradient = parameters[name].grad
        assert gradient is not None, f"{name} has no gradient"
        assert_close(gradient, reference, rtol, f"gradient of {name}")


def rounding_of_sigma(golden: Golden) -> float:
    """The largest relative change of a parameter's gradient when sigma grows by one unit in its last place."""
    gradients = []
    for sigma in (golden["in/sigma"], torch.nextafter(golden["in/sigma"], torch.tensor(torch.inf))):
        net = denoiser(golden)
        (net(golden["in/x"], sigma, golden.get("in/c")) * golden["in/cotangent"]).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
    before, after = gradients
    return max(relative_error(after[name], before[name]) for name in golden.part("grad"))


@pytest.mark.parametrize("name", names("sg2_"))
def test_stylegan2_outputs(name: str) -> None:
    golden = Golden(name)
    net = generator(golden)
    z, c = golden["in/z"], golden.get("in/c")
    with torch.no_grad():
        ws = net.mapping(z, c)
        assert_close(ws, golden["out/ws"], RTOL, "ws")
        cut = net.mapping(z, c, truncation_psi=0.5, truncation_cutoff=2)
        assert_close(cut, golden["out/ws_psi0.5_cutoff2"], RTOL, "truncated ws")
        assert_close(net.synthesis(ws, noise_mode="const"), golden["out/img_const"], RTOL, "constant noise")
        assert_close(net(z, c, noise_mode="none"), golden["out/img_none"], RTOL, "no noise")
        truncated = net(z, c, truncation_psi=0.7, noise_mode="const")
        assert_close(truncated, golden["out/img_const_psi0.7"], RTOL, "truncated image")


@pytest.mark.parametrize("name", names("sg2_"))
def test_stylegan2_gradients_in_train_mode(name: str) -> None:
    golden = Golden(name)
    net = generator(golden).train()
    images = net(golden["in/z"], golden.get("in/c"), noise_mode="const")
    assert_close(images, golden["out/img_const_train"], RTOL, "image in train mode")
    (images * golden["in/cotangent"]).sum().backward()
    assert golden.part("grad"), "the file holds gradients"
    check_gradients(net, golden)


def test_stylegan2_random_noise_is_random() -> None:
    golden = Golden("sg2_skip_uncond_rgb16")
    net = generator(golden)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.3)
        torch.manual_seed(1)
        one, other = (net(golden["in/z"], None, noise_mode="random") for _ in range(2))
        torch.manual_seed(1)
        again = net(golden["in/z"], None, noise_mode="random")
    assert not torch.equal(one, other)
    assert torch.equal(one, again)


@pytest.mark.parametrize("name", names("edm_"))
def test_edm_outputs_and_gradients(name: str) -> None:
    golden = Golden(name)
    net = denoiser(golden)
    x = golden["in/x"].clone().requires_grad_()
    sigma, labels = golden["in/sigma"], golden.get("in/c")
    denoised = net(x, sigma, labels)
    assert denoised.dtype == torch.float32
    assert_close(denoised, golden["out/denoised"], RTOL, "denoised")
    (denoised * golden["in/cotangent"]).sum().backward()
    assert_close(x.grad, golden["grad_in/x"], RTOL, "gradient of x")
    # Fourier features of ln sigma are so steep that one unit in sigma's last place moves the gradients of NCSN++ by more
    # than 1e-5, and processors differ by as much; nowhere else is anything granted for that.
    rtol = (
        max(RTOL, rounding_of_sigma(golden)) if net.model.map_noise.__class__.__name__ == "FourierEmbedding" else RTOL
    )
    assert rtol < 5e-5
    check_gradients(net, golden, rtol)
    rounded = torch.as_tensor(net.round_sigma(sigma)).to(torch.float32)
    assert_close(rounded, golden["out/round_sigma"], RTOL, "round_sigma")


@pytest.mark.parametrize("name", [name for name in names("edm_") if "in/augment_labels" in Golden(name)])
def test_edm_with_augmentation_labels(name: str) -> None:
    golden = Golden(name)
    net = denoiser(golden)
    with torch.no_grad():
        got = net(golden["in/x"], golden["in/sigma"], golden.get("in/c"), augment_labels=golden["in/augment_labels"])
    assert_close(got, golden["out/denoised_augmented"], RTOL, "denoised with augmentation labels")


def test_one_wrong_weight_is_noticed() -> None:
    """The comparison can fail: one weight of thousands, changed by one part in a hundred."""
    golden = Golden("sg2_skip_uncond_rgb16")
    net = generator(golden)
    with torch.no_grad():
        net.synthesis.b8.conv1.weight[0, 0, 1, 1] *= 1.01
        images = net(golden["in/z"], None, noise_mode="none")
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(images, golden["out/img_none"], RTOL, "image")


def test_sources_are_embedded_unaltered() -> None:
    """The shape checks of the test run leave gan_refine.networks alone (see conftest): pickles carry what is tested."""
    for cls in [Generator, *PRECONDITIONINGS.values()]:
        assert not hasattr(cls.forward, "__wrapped__"), f"{cls.__name__}.forward is wrapped by the type checker"
        module = sys.modules[cls.__module__]
        with open(module.__file__, encoding="utf-8") as file:
            assert inspect.getsource(module) == file.read()


def test_the_stem_of_song_unets_has_model_channels_whatever_the_first_multiplier():
    """NVIDIA's CIFAR-10 teachers have channel_mult [2, 2, 2]; all golden files start with 1."""
    unet = {
        "model_type": "SongUNet",
        "model_channels": 8,
        "channel_mult": [2, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
    }
    net = PRECONDITIONINGS["EDMPrecond"](8, 3, **unet)
    shapes = {name: list(value.shape) for name, value in net.state_dict().items()}
    assert shapes["model.enc.8x8_conv.weight"] == [8, 3, 3, 3]
    assert shapes["model.enc.8x8_block0.skip.weight"] == [16, 8, 1, 1]
    assert shapes["model.dec.8x8_block1.skip.weight"] == [16, 24, 1, 1]
    assert net(torch.zeros([2, 3, 8, 8]), torch.ones([2])).shape == (2, 3, 8, 8)
