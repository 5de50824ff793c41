"""Network files as people have them: not finite, beside what is unknown here, saved by torch.save, run under --trust-pickle."""

import json
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tensorflow_pickles
import torch
from hostile_pickles import BAIT, COMMAND, SYSTEM, text
from PIL import Image
from torch import nn
from toys import small_unet

from gan_refine.cli import cli
from gan_refine.cli.main import run_command
from gan_refine.errors import FileFormatError, NonFiniteError, OptionError, UserError
from gan_refine.generators import AnyGenerator, OneStep, StyleGan2, load_pretrained
from gan_refine.metrics import load_detector, load_reference
from gan_refine.metrics.classifiers import FashionClassifier
from gan_refine.metrics.detectors import save_detector
from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.pickles import describe, read_networks, read_pickle, run_pickle_file, write_networks, write_state_dict
from gan_refine.pixels import to_uint8
from gan_refine.run.convert import convert_file
from gan_refine.run.networks import open_gan
from gan_refine.teachers import load_any_teacher, load_edm

WIDTHS = {"channel_base": 64, "channel_max": 8}


def generator(channels: int = 3, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    net = Generator(4, 0, 4, 16, channels, mapping_kwargs={"num_layers": 1}, synthesis_kwargs=WIDTHS)
    for name, strength in net.named_parameters():
        if name.endswith("noise_strength"):
            nn.init.constant_(strength, 0.3)  # so that noise shows
    return net.eval().requires_grad_(False)


def with_nan(net: nn.Module, name: str, value: float = float("nan")) -> nn.Module:
    with torch.no_grad():
        net.state_dict()[name].view(-1)[0] = value
    return net


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["gan-refine", *map(str, arguments)])
    return run_command(cli)


# ---- numbers that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["synthesis.b16.conv1.weight", "mapping.w_avg", "synthesis.b8.conv0.noise_const"])
def test_a_generator_that_is_not_finite(tmp_path: Path, name: str, value: float) -> None:
    write_networks(tmp_path / "g.pkl", {"G_ema": with_nan(generator(), name, value)})
    with pytest.raises(FileFormatError, match=rf"G_ema: {name} has numbers that are not finite \(1 of"):
        StyleGan2.load(tmp_path / "g.pkl")
    with pytest.raises(FileFormatError, match=name):
        AnyGenerator.load(tmp_path / "g.pkl")
    with pytest.raises(FileFormatError, match=name):
        convert_file(tmp_path / "g.pkl", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_state_dict_whose_float64_is_infinite_in_float32(tmp_path: Path) -> None:
    write_state_dict(tmp_path / "g.safetensors", generator())
    weights = safetensors.torch.load_file(tmp_path / "g.safetensors")
    weights = {name: tensor.double() for name, tensor in weights.items()}
    weights["synthesis.b8.torgb.bias"][1] = 1e300
    safetensors.torch.save_file(weights, tmp_path / "g.safetensors")
    with pytest.raises(FileFormatError, match=r"synthesis\.b8\.torgb\.bias"):
        StyleGan2.load(tmp_path / "g.safetensors")


def test_a_tensorflow_generator_that_is_not_finite(tmp_path: Path) -> None:
    base = {"resolution": 16, "num_channels": 3, "fmap_base": 32, "fmap_max": 8}
    net = with_nan(generator(), "synthesis.b4.const")
    parts = tensorflow_pickles.generator(net, **base, latent_size=4, dlatent_size=4, mapping_layers=1)
    judge = Discriminator(0, 16, 3, **WIDTHS).requires_grad_(False)
    (tmp_path / "t.pkl").write_bytes(
        tensorflow_pickles.dump((parts, tensorflow_pickles.discriminator(judge, **base), parts))
    )
    with pytest.raises(FileFormatError, match=r"synthesis\.b4\.const has numbers that are not finite"):
        StyleGan2.load(tmp_path / "t.pkl")


def test_teachers_and_one_step_generators_that_are_not_finite(tmp_path: Path) -> None:
    net = small_unet(16)
    name = next(name for name, parameter in net.named_parameters() if parameter.ndim == 4)
    write_networks(tmp_path / "t.pkl", {"ema": with_nan(net, name)})
    for load in (load_edm, load_any_teacher, lambda path: open_gan(f"one-step:{path}")):
        with pytest.raises(FileFormatError, match=name):
            load(tmp_path / "t.pkl")


def test_detectors_and_references_that_are_not_finite(tmp_path: Path) -> None:
    save_detector(tmp_path / "d.safetensors", "d", with_nan(FashionClassifier(16), "head.bias"))
    with pytest.raises(FileFormatError, match=r"detector d: head\.bias has numbers that are not finite"):
        load_detector(tmp_path / "d.safetensors")
    good = {"mu": np.zeros(3), "sigma": np.eye(3), "features": np.zeros([5, 3])}
    for name in good:
        bad = {key: value.copy() for key, value in good.items()}
        bad[name].flat[0] = np.inf
        np.savez(tmp_path / "r.npz", **bad)
        with pytest.raises(FileFormatError, match=f"{name} has numbers that are not finite"):
            load_reference(tmp_path / "r.npz")


@pytest.mark.parametrize(
    "changed", [{"mu": np.zeros(3, complex)}, {"num_images": 1.5}, {"mu": np.array(["1", "2", "3"])}]
)
def test_references_whose_numbers_a_conversion_would_change(tmp_path: Path, changed: dict) -> None:
    np.savez(tmp_path / "r.npz", **{"mu": np.zeros(3), "sigma": np.eye(3), **changed})
    with pytest.raises(FileFormatError, match="fields of the wrong kind"):
        load_reference(tmp_path / "r.npz")


def test_images_that_are_not_finite_do_not_become_bytes() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(NonFiniteError):
            to_uint8(torch.full([1, 1, 2, 2], value))


# ---- what is not needed may be of any class


class Foreign(nn.Module):
    """A discriminator of another project."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.utils.spectral_norm(nn.Linear(2, 2))


Foreign.__module__ = "pg_modules.discriminator"


@pytest.fixture
def foreign_gan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """G and G_ema are StyleGAN2's; everything else is of classes that no other process can import."""
    modules = {name: types.ModuleType(name) for name in ("pg_modules", "pg_modules.discriminator")}
    modules["pg_modules.discriminator"].__dict__["Foreign"] = Foreign
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    judge = Foreign()
    optimizer = torch.optim.Adam(judge.parameters())
    judge.conv(torch.zeros(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    held = {"G": generator(), "D": judge, "G_ema": generator(), "augment_pipe": Foreign(), "opt": optimizer}
    (tmp_path / "pg.pkl").write_bytes(pickle.dumps(held))
    for name in modules:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "pg.pkl"


def without_weights(path: Path) -> tuple[int, bytes]:
    data = path.read_bytes()
    return len(data), data[data.index(b"pg_modules") :][:2000]


def test_a_foreign_discriminator_is_carried_along_byte_for_byte(foreign_gan: Path, tmp_path: Path) -> None:
    gan = load_pretrained(foreign_gan)
    assert isinstance(gan, StyleGan2) and gan.discriminator() is None
    gan.export(tmp_path / "same.pkl")
    assert (tmp_path / "same.pkl").read_bytes() == foreign_gan.read_bytes()
    with torch.no_grad():
        gan.net.get_parameter("synthesis.b4.const").add_(1)
    gan.export(tmp_path / "refined.pkl")
    assert without_weights(tmp_path / "refined.pkl") == without_weights(foreign_gan)
    again = load_pretrained(tmp_path / "refined.pkl")
    assert torch.equal(again.net.synthesis.b4.const, gan.net.synthesis.b4.const)


def test_a_foreign_discriminator_in_a_trusted_file(
    foreign_gan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = run_pickle_file(foreign_gan)
    assert len(opened.left_out()) == 1 and "pg_modules.discriminator.Foreign cannot be imported" in opened.left_out()[0]
    AnyGenerator.load(foreign_gan).export(tmp_path / "again.pkl")
    assert "pg_modules" not in sys.modules
    modules = {name: types.ModuleType(name) for name in ("pg_modules", "pg_modules.discriminator")}
    modules["pg_modules.discriminator"].__dict__["Foreign"] = Foreign
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    before, after = (run_pickle_file(path).root for path in (foreign_gan, tmp_path / "again.pkl"))
    assert before.keys() == after.keys()
    for name, tensor in before["D"].state_dict().items():
        assert torch.equal(after["D"].state_dict()[name], tensor)
    assert after["opt"].state_dict()["state"].keys() == before["opt"].state_dict()["state"].keys()


def test_convert_leaves_a_foreign_discriminator_out_and_says_so(
    foreign_gan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert command(monkeypatch, "convert", "--trust-pickle", foreign_gan, tmp_path / "plain.pkl") == 0
    assert "Left out: D (pg_modules.discriminator.Foreign cannot be imported" in capsys.readouterr().err
    assert set(read_pickle(tmp_path / "plain.pkl").networks()) == {"G", "G_ema"}


@pytest.mark.parametrize(
    "payload", [SYSTEM + COMMAND + b"\x85R", b"(" + COMMAND + b"ios\nsystem\n", b"(" + SYSTEM + COMMAND + b"o"]
)
def test_what_would_be_called_elsewhere_does_not_reach_a_refined_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    proper = pickle.dumps({"G_ema": generator(), "G": generator()}, protocol=2)
    hostile = proper[:-1] + text("augment_pipe") + payload + b"s."
    Path("hostile.pkl").write_bytes(hostile)
    gan = StyleGan2.load(Path("hostile.pkl"))
    assert describe(Path("hostile.pkl")).called_names == ["os.system"]
    assert "calls os.system" in gan.notices()[0]
    gan.export(Path("refined.pkl"))
    gan.write_original(Path("original.pkl"))
    for name in ("refined.pkl", "original.pkl"):
        assert BAIT.encode() not in Path(name).read_bytes() and b"system" not in Path(name).read_bytes()
        assert read_pickle(Path(name)).called == ()
    assert not Path("ran").exists()


# ---- files of torch.save


@pytest.mark.parametrize("zipped", [True, False])
def test_networks_saved_by_torch(tmp_path: Path, zipped: bool) -> None:
    net = generator()
    net.gain = np.sqrt(2.0)  # published layers keep numpy scalars
    latents = torch.randn(2, 4), torch.zeros(2, 0)
    expected = net(*latents, noise_mode="const")
    contents = {
        "again.pkl": {"G_ema": net},
        "whole.pt": net,
        "training-state-000100.pt": {"G_ema": net, "optimizer_state": {}},
    }
    for name, held in contents.items():
        torch.save(held, tmp_path / name, _use_new_zipfile_serialization=zipped)
        found = load_pretrained(tmp_path / name)
        assert torch.equal(found.net(*latents, noise_mode="const"), expected)
        assert [network.key for network in describe(tmp_path / name).networks][-1] in ("G_ema", "(alone)")
        assert describe(tmp_path / name).incomplete is None
        found.export(tmp_path / "out.pkl")
        assert torch.equal(StyleGan2.load(tmp_path / "out.pkl").net(*latents, noise_mode="const"), expected)
        assert torch.equal(AnyGenerator.load(tmp_path / name).net(*latents, noise_mode="const"), expected)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (
            {"net": generator(), "optimizer_state": {}},
            r"is a training state without a network 'G_ema': it holds net \(a Generator\)",
        ),
        (
            {"g": {"w": torch.zeros(2)}, "g_ema": {"w": torch.zeros(2)}},
            "holds state dicts .*g_ema .a state dict of 1 tensors",
        ),
        (OrderedDict(w=torch.zeros(2)), "is a state dict of 1 tensors that does not say of which network"),
        ({"G_ema": nn.Linear(2, 2)}, "its G_ema is a torch.nn.modules.linear.Linear.*--trust-pickle"),
        (nn.Linear(2, 2), "a module saved whole, whose class is not known here"),
        ({"ema": small_unet(16), "optimizer_state": {}}, "is an EDM teacher .*pass it as --teacher"),
        ({"epoch": 3, "state_dict": {"w": torch.zeros(2)}}, "is a training state"),
        ([1, 2], "holds a list of 2, not networks by name"),
    ],
)
def test_files_of_torch_are_named_for_what_they_are(tmp_path: Path, held: object, message: str) -> None:
    for zipped in (True, False):
        torch.save(held, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(FileFormatError, match=message) as caught:
            load_pretrained(tmp_path / "x.pt")
        assert str(caught.value).isprintable()


def test_the_average_in_a_training_state_of_a_one_step_generator(tmp_path: Path) -> None:
    net = small_unet(16)
    torch.save({"fake_score": net, "G": net, "G_ema": net, "optimizer_state": {}}, tmp_path / "training-state.pt")
    assert isinstance(open_gan(f"one-step:{tmp_path}/training-state.pt").generator, OneStep)
    assert torch.equal(*(next(each.parameters()) for each in (load_edm(tmp_path / "training-state.pt"), net)))


# ---- TensorFlow's arguments


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ({"resolution_w": 16, "resolution_h": 16}, None),
        ({"randomize_noise": False, "is_training": True, "truncation_psi_val": 1.0, "dlatent_avg_beta": 0.99}, None),
        ({"synthesis_func": "G_synthesis_stylegan2", "return_dlatents": True, "dtype": "float32"}, None),
        ({"resolution_w": 32, "resolution_h": 16}, "32 x 16 at a resolution of 16; only square ones"),
        ({"normalize_latents": False}, "unknown static_kwargs normalize_latents"),
    ],
)
def test_arguments_of_forks_of_tensorflow(tmp_path: Path, extra: dict, problem: str | None) -> None:
    base = {"resolution": 16, "num_channels": 3, "fmap_base": 32, "fmap_max": 8}
    sides = {name: value for name, value in extra.items() if name.startswith("resolution")}
    parts = tensorflow_pickles.generator(generator(), **base, latent_size=4, dlatent_size=4, mapping_layers=1, **extra)
    judge = tensorflow_pickles.discriminator(Discriminator(0, 16, 3, **WIDTHS).requires_grad_(False), **base, **sides)
    (tmp_path / "t.pkl").write_bytes(tensorflow_pickles.dump((parts, judge, parts)))
    if problem is None:
        convert_file(tmp_path / "t.pkl", tmp_path / "out.pkl")
        assert torch.equal(StyleGan2.load(tmp_path / "out.pkl").net.synthesis.b4.const, generator().synthesis.b4.const)
    else:
        with pytest.raises(FileFormatError, match=problem):
            StyleGan2.load(tmp_path / "t.pkl")


# ---- --trust-pickle


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in folder.glob("*.png")}


def test_the_image_of_a_seed_depends_on_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_networks(tmp_path / "g.pkl", {"G_ema": generator()})
    for mode in ("const", "random"):
        runs = {
            "safe": ["--seeds=3"],
            "alone": ["--trust-pickle", "--seeds=3"],
            "batch": ["--trust-pickle", "--seeds=0-3"],
        }
        for name, extra in runs.items():
            given = [f"--gan={tmp_path}/g.pkl", f"--noise-mode={mode}", f"--outdir={tmp_path}/{mode}-{name}"]
            assert command(monkeypatch, "generate", *given, *extra) == 0
        safe, alone, batch = (pixels(tmp_path / f"{mode}-{name}")["seed0003.png"] for name in runs)
        assert abs(safe - alone).max() == 0
        assert abs(alone - batch).max() <= 1, "sums of other batch sizes are rounded otherwise"


class Drawing(nn.Module):
    """Draws its own noise and has no argument that would stop it."""

    z_dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros([]))

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.rand([len(z), 1, 4, 4]) + self.bias


def test_noise_that_cannot_be_constant_is_refused_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    torch.save({"G_ema": Drawing()}, tmp_path / "d.pt")
    given = ["generate", f"--gan={tmp_path}/d.pt", "--trust-pickle"]
    assert command(monkeypatch, *given, "--seeds=1,2", f"--outdir={tmp_path}/a") == 0
    assert command(monkeypatch, *given, "--seeds=2", f"--outdir={tmp_path}/b") == 0
    assert (pixels(tmp_path / "a")["seed0002.png"] == pixels(tmp_path / "b")["seed0002.png"]).all()
    assert command(monkeypatch, *given, "--seeds=2", "--noise-mode=const", f"--outdir={tmp_path}/c") == 2
    assert "--noise-mode=const" in capsys.readouterr().err and not (tmp_path / "c").exists()


@pytest.mark.parametrize("which", ["G", "G_ema"])
def test_which_is_honoured_or_refused(tmp_path: Path, which: str) -> None:
    write_networks(tmp_path / "t.pkl", {"ema": small_unet(16)})
    torch.save(Drawing(), tmp_path / "whole.pt")
    opened = [
        lambda: open_gan(f"one-step:{tmp_path}/t.pkl", which),
        lambda: AnyGenerator.load(tmp_path / "whole.pt", which),
    ]
    for load in opened:
        if which == "G":
            with pytest.raises((OptionError, FileFormatError), match="G"):
                load()
        else:
            load()


SOURCE = """
import scipy.signal
from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_gradfix, filtered_lrelu
import dnnlib
import torch

@persistence.persistent_class
class Generator(torch.nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, z, c, truncation_psi=1, noise_mode="random"):
        x = z[:, :1, None, None] * self.weight.reshape(1, 1, 1, 1) + torch.zeros(1, 1, 8, 8)
        x = conv2d_gradfix.conv2d(input=x, weight=torch.ones(1, 1, 3, 3) / 9, padding=2, groups=1)
        f = torch.ones(12) / 12
        x = filtered_lrelu.filtered_lrelu(x=x, fu=f, fd=f, b=torch.zeros(1), up=2, down=2, padding=9, gain=1, slope=0.2, clamp=256)
        misc.assert_shape(x, [None, 1, 8, 8])
        return x
"""


class Persistent:
    def __init__(self, held: nn.Module) -> None:
        state = {**vars(held), "_init_args": (), "_init_kwargs": {}}
        self.meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": "Generator", "state": state}

    def __reduce__(self) -> tuple:
        from torch_utils import persistence

        return persistence._reconstruct_persistent_obj, (self.meta,)


@pytest.mark.parametrize("beside", ["nothing", "torch_utils", "dnnlib", "all"])
def test_a_source_that_imports_what_stylegan3_does_runs_beside_any_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    held = nn.Module()
    held.weight, held.z_dim, held.c_dim = nn.Parameter(torch.ones(1)), 4, 0
    (tmp_path / "g.pkl").write_bytes(pickle.dumps({"G_ema": Persistent(held)}))
    for name in ("torch_utils", "dnnlib", "training", "metrics"):
        if beside in (name, "all"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise ImportError('a clone')" if name == "dnnlib" else "")
            (tmp_path / name / "distributed.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torch_utils", "dnnlib")]:
        monkeypatch.delitem(sys.modules, name)
    found = AnyGenerator.load(tmp_path / "g.pkl")
    assert str(found.spec) == "8x8 grey"
    with torch.no_grad():
        assert found(found.draw(2, torch.Generator().manual_seed(0))).isfinite().all()


def test_json_beside_a_state_dict_of_any_torch_name(tmp_path: Path) -> None:
    torch.save(generator().state_dict(), tmp_path / "g.pt")
    kwargs = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 16, "img_channels": 3}
    kwargs |= {"mapping_kwargs": {"num_layers": 1}, "synthesis_kwargs": WIDTHS}
    with pytest.raises(UserError, match=r"put a \.json beside it"):
        load_pretrained(tmp_path / "g.pt")
    (tmp_path / "g.json").write_text(json.dumps({"class": "stylegan2", "init_kwargs": kwargs}))
    assert torch.equal(load_pretrained(tmp_path / "g.pt").net.synthesis.b4.const, generator().synthesis.b4.const)
    assert read_networks(tmp_path / "g.pt")
