"""Legacy TensorFlow pickles: read without running them, the same images, plain errors for what is unknown."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_pickles as tf
import torch

from gan_refine.errors import FileFormatError
from gan_refine.generators import StyleGan2
from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.pickles import build_discriminator, build_generator, build_teacher, read_pickle

ARCHITECTURES = ("skip", "orig", "resnet")


def randomised(net: torch.nn.Module, seed: int) -> torch.nn.Module:
    rng = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if "resample_filter" not in name:
            tensor.copy_((64 * torch.randn(tensor.shape, generator=rng)).round() / 64)  # minus 1 plus 1 rounds nothing
    return net.eval().requires_grad_(False)


def make_generator(seed: int, architecture: str = "skip", classes: int = 2, **kwargs: object) -> Generator:
    synthesis = {"channel_base": 64, "channel_max": 8, "architecture": architecture} | kwargs
    mapping = {"num_layers": 2, "embed_features": 5, "layer_features": 6}
    net = Generator(8, classes, 7, 16, 3, mapping_kwargs=mapping, synthesis_kwargs=synthesis)
    return randomised(net, seed)


def make_discriminator(seed: int, architecture: str = "resnet", classes: int = 2) -> Discriminator:
    net = Discriminator(
        classes,
        16,
        3,
        architecture=architecture,
        channel_base=64,
        channel_max=8,
        cmap_dim=5,
        mapping_kwargs={"num_layers": 2, "embed_features": 5, "layer_features": 5, "lr_multiplier": 0.1},
        epilogue_kwargs={"mbstd_group_size": None},
    )
    return randomised(net, seed)


def static(architecture: str, classes: int) -> dict[str, object]:
    sizes = {"resolution": 16, "num_channels": 3, "label_size": classes, "fmap_base": 32, "fmap_max": 8}
    return {**sizes, "architecture": architecture, "structure": "auto"}


def tf_generator(seed: int, architecture: str = "skip", classes: int = 2, **more: object) -> tf.Network:
    given = {"latent_size": 8, "dlatent_size": 7, "mapping_layers": 2, "label_fmaps": 5, "mapping_fmaps": 6}
    return tf.generator(
        make_generator(seed, architecture, classes),
        **static(architecture, classes),
        **given,
        **more,
        truncation_psi=None,
    )


def tf_discriminator(seed: int, architecture: str = "resnet", classes: int = 2) -> tf.Network:
    given = {"mapping_layers": 2, "mapping_fmaps": 5}
    return tf.discriminator(make_discriminator(seed, architecture, classes), **static(architecture, classes), **given)


def write(path: Path, architecture: str = "skip", classes: int = 2, protocol: int = 4) -> Path:
    networks = (tf_generator(1, architecture, classes), tf_discriminator(2, architecture, classes))
    path.write_bytes(tf.dump((*networks, tf_generator(3, architecture, classes)), protocol))
    return path


def images(net: torch.nn.Module, classes: int = 2, noise_mode: str = "const") -> torch.Tensor:
    z = torch.randn([3, 8], generator=torch.Generator().manual_seed(5))
    return net(z, torch.eye(2)[[0, 1, 0]][:, :classes], noise_mode=noise_mode, truncation_psi=0.7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("classes", [0, 2])
def test_same_images_and_logits(tmp_path: Path, architecture: str, classes: int) -> None:
    file = read_pickle(write(tmp_path / "tf.pkl", architecture, classes))
    for which, seed in (("G", 1), ("G_ema", 3)):
        made = make_generator(seed, architecture, classes)
        assert torch.equal(images(build_generator(file, which), classes), images(made, classes))
    judge = build_discriminator(file)
    assert judge is not None
    pictures = images(made, classes)
    labels = torch.eye(2)[[0, 1, 0]][:, :classes]
    assert torch.equal(judge(pictures, labels), make_discriminator(2, architecture, classes)(pictures, labels))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    file = read_pickle(write(tmp_path / "tf.pkl", protocol=protocol))
    assert torch.equal(images(build_generator(file)), images(make_generator(3)))


def test_levels_of_detail_mean_orig(tmp_path: Path) -> None:
    nets = [tf_generator(1, "orig"), tf_discriminator(2, "orig"), tf_generator(3, "orig")]
    for net, component in zip(nets, ("synthesis", None, "synthesis"), strict=True):
        holder = net.components[component] if component else net
        holder.variables = [
            (name.replace("16x16/ToRGB", "ToRGB_lod0").replace("16x16/FromRGB", "FromRGB_lod0"), value)
            for name, value in holder.variables
        ]
        del net.static_kwargs["architecture"]
    (tmp_path / "tf.pkl").write_bytes(tf.dump(tuple(nets)))
    file = read_pickle(tmp_path / "tf.pkl")
    assert torch.equal(images(build_generator(file)), images(make_generator(3, "orig")))
    assert build_discriminator(file) is not None


def test_without_noise(tmp_path: Path) -> None:
    """TensorFlow keeps the noise inputs of a network that uses none."""
    net = tf_generator(3, use_noise=False)
    synthesis = net.components["synthesis"]
    synthesis.variables = [entry for entry in synthesis.variables if "noise_strength" not in entry[0]]
    (tmp_path / "tf.pkl").write_bytes(tf.dump((net, tf_discriminator(2), net)))
    built = build_generator(read_pickle(tmp_path / "tf.pkl"))
    assert not any("noise" in name for name in built.state_dict())
    assert torch.equal(images(built), images(make_generator(3), noise_mode="none"))


def change(net: tf.Network, name: str, value: np.ndarray | None) -> None:
    net.variables = [entry for entry in net.variables if entry[0] != name]
    if value is not None:
        net.variables.append((name, value))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda net: net.static_kwargs.update(colour=3), "unknown static_kwargs colour"),
        (lambda net: change(net, "lod", np.zeros([], "f4")), "has the unknown variable lod"),
        (lambda net: change(net, "dlatent_avg", None), "lacks the variable dlatent_avg"),
        (lambda net: change(net, "dlatent_avg", np.zeros(5, "f4")), "dlatent_avg in another shape"),
        (lambda net: change(net, "dlatent_avg", np.zeros(7, "i4")), "dlatent_avg is not of floating-point"),
        (lambda net: setattr(net, "version", 3), "its version is 3"),
        (lambda net: net.static_kwargs.update(fmap_base="wide"), "fmap_base is a str"),
        (lambda net: net.static_kwargs.update(resolution=1 << 19), "does not fit"),
        (lambda net: net.static_kwargs.update(mapping_layers=1 << 20), "more numbers than the file holds"),
        (lambda net: net.components.update(more=net), "occurs twice|over 64"),
        (lambda net: net.components.update(more=3), "is not a network"),
        (lambda net: setattr(net, "variables", 5), "not a list of names with arrays"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, edit: Callable[[tf.Network], object], message: str) -> None:
    net = tf_generator(3)
    edit(net)
    (tmp_path / "tf.pkl").write_bytes(tf.dump((net, tf_discriminator(2), net)))
    with pytest.raises(FileFormatError, match=message) as caught:
        build_generator(read_pickle(tmp_path / "tf.pkl"))
    assert "\n" not in str(caught.value)


def test_unknown_names_of_the_discriminator(tmp_path: Path) -> None:
    judge = tf_discriminator(2)
    change(judge, "more/weight", np.zeros(3, "f4"))
    (tmp_path / "tf.pkl").write_bytes(tf.dump((tf_generator(1), judge, tf_generator(3))))
    with pytest.raises(FileFormatError, match="D cannot be built: it has the unknown variable more/weight"):
        build_discriminator(read_pickle(tmp_path / "tf.pkl"))


def test_mistaken_uses(tmp_path: Path) -> None:
    file = read_pickle(write(tmp_path / "tf.pkl"))
    with pytest.raises(FileFormatError, match="pass it as --gan"):
        build_teacher(file)
    with pytest.raises(FileFormatError, match="choose one of G_ema, G"):
        build_generator(file, "D")


def test_refined_it_is_a_pytorch_pickle(tmp_path: Path) -> None:
    path = write(tmp_path / "tf.pkl")
    generator = StyleGan2.load(path)
    with torch.no_grad():
        generator.net.synthesis.b4.conv1.bias.add_(1)
    generator.export(tmp_path / "out.pkl")
    written = read_pickle(tmp_path / "out.pkl")
    assert {name: net.class_name for name, net in written.networks().items()} == {
        "G": "Generator",
        "D": "Discriminator",
        "G_ema": "Generator",
    }
    for which in ("G", "G_ema"):
        built = build_generator(written, which)
        for name, weight in generator.net.state_dict().items():
            assert torch.equal(built.state_dict()[name], weight), name
        # not to the bit: with and without gradients the fastest form of a convolution may be another
        torch.testing.assert_close(images(built), images(generator.net), rtol=1e-5, atol=1e-5)
    StyleGan2.load(path, "G").write_original(tmp_path / "first.pkl")
    first = read_pickle(tmp_path / "first.pkl")
    assert torch.equal(images(build_generator(first)), images(make_generator(1)))
