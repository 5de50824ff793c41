"""--trust-pickle: nothing runs without it, everything that says z, c or x, sigma, labels works with it, and it is loud."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import run_refine
from gan_refine import assets
from gan_refine.cli import cli
from gan_refine.cli.main import run_command
from gan_refine.errors import FileFormatError, OptionError
from gan_refine.generators import AnyGenerator
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.pickles import read_pickle, run_pickle_file, write_networks
from gan_refine.run.networks import family
from gan_refine.teachers import load_any_teacher
from torch_utils import persistence

ROOT = Path(__file__).parent.parent

SOURCE = """
import torch
from torch_utils import persistence
open({marker!r}, "a").write("ran ")

@persistence.persistent_class
class Odd(torch.nn.Module):
    def forward(self, *inputs):
        return self.odd(*inputs)

    def odd(self, z, c):
        return (self.scale * z[:, :3, None, None] + c.sum(1)[:, None, None, None]).repeat(1, 1, 16, 16)

@persistence.persistent_class
class OddTeacher(Odd):
    def odd(self, x, sigma, labels):
        return self.scale * x / (1 + sigma ** 2)
"""
MISSING = "import no_such_package\nclass Augment: pass\n"


class Twin(nn.Module):
    """What an Odd holds, without its code."""

    def __init__(self, **attributes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.__dict__ |= {"_init_args": (), "_init_kwargs": {}, **attributes}


class Persistent:
    """Pickles as a persistent object of any source."""

    def __init__(self, name: str, source: str, held: nn.Module | None = None) -> None:
        state = dict(vars(held if held is not None else Twin()))
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": name, "state": state}

    def __reduce__(self) -> tuple:
        return persistence._reconstruct_persistent_obj, (self.meta,)


def source(folder: Path) -> str:
    """One text a test, so that each runs anew."""
    return SOURCE.format(marker=str(folder / "ran"))


def odd_gan(folder: Path) -> Path:
    net = Persistent("Odd", source(folder), Twin(z_dim=4, c_dim=2))
    held = {"G": net, "D": None, "G_ema": net, "augment_pipe": Persistent("Augment", MISSING), "other": Path("a")}
    (folder / "odd.pkl").write_bytes(pickle.dumps(held))
    return folder / "odd.pkl"


def odd_teacher(folder: Path) -> Path:
    net = Persistent("OddTeacher", source(folder), Twin(img_channels=3, img_resolution=16))
    (folder / "teacher.pkl").write_bytes(pickle.dumps({"ema": net}))
    return folder / "teacher.pkl"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of `run_refine.py ARGUMENTS`, or of `python -m gan_refine ARGUMENTS` if they start with a command."""
    companion = arguments[0] in cli.commands
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    return run_command(cli if companion else run_refine.cli)


def short_run(folder: Path) -> list[str]:
    return [
        f"--outdir={folder}",
        "--metrics=none",
        "--no-report",
        "--objective=diff-instruct",
        "--kimg=0.032",
        "--batch=8",
        "--warmup-kimg=0.008",
    ]


def test_nothing_runs_without_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    gan, teacher = odd_gan(tmp_path), odd_teacher(tmp_path)
    for arguments in (
        [f"--gan={gan}", f"--teacher={teacher}", *short_run(tmp_path / "runs")],
        ["--gan=fashion16", f"--teacher={teacher}", *short_run(tmp_path / "runs")],
        ["evaluate", f"--gan={gan}"],
        ["convert", gan, tmp_path / "out.pkl"],
    ):
        assert command(monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert "WARNING" not in error
    assert not (tmp_path / "ran").exists()


def test_a_run_with_networks_of_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    gan, teacher = odd_gan(tmp_path), odd_teacher(tmp_path)
    names = [f"--gan={gan}", f"--teacher={teacher}", "--trust-pickle", "--fid-seeds=0"]
    assert command(monkeypatch, *names, *short_run(tmp_path / "runs")) == 0
    out = capsys.readouterr()
    assert f"RUNS THE PROGRAM INSIDE {gan}" in out.err
    assert f"RUNS THE PROGRAM INSIDE {teacher}" in out.err
    assert (tmp_path / "ran").read_text() == "ran ", "once a source"
    assert json.loads((Path(out.out.strip()).parent / "options.json").read_text())["trust_pickle"] is True
    refined = AnyGenerator.load(Path(out.out.strip()))
    assert refined.net.scale.item() != 0.5
    inert = run_pickle_file(Path(out.out.strip())).root
    assert isinstance(inert, dict)
    assert list(inert) == ["G", "D", "G_ema", "augment_pipe", "other"]
    assert inert["other"] == Path("a")
    assert inert["augment_pipe"].meta["module_src"] == MISSING
    assert inert["G_ema"].__reduce__()[1][0]["module_src"] == source(tmp_path)


def test_embedded_names_are_never_run(tmp_path: Path) -> None:
    path = assets.resolve("gan", "fashion16")
    assert family("stylegan2", "fashion16", path, trust=True) == "stylegan2"
    assert family("stylegan2", str(path), path, trust=True) == "trusted"
    assert family("stylegan2", str(path), path, trust=False) == "stylegan2"
    assert family("stylegan2", "x.safetensors", tmp_path / "x.safetensors", trust=True) == "stylegan2"


def test_what_anyone_could_have_changed_on_its_way(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="came over http"):
        family("stylegan2", "http://host/x.pkl", odd_gan(tmp_path), trust=True)


def test_convert_leaves_a_file_that_needs_no_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"img_resolution": 16, "img_channels": 3}
    net = Generator(
        z_dim=4, c_dim=0, w_dim=4, **small, synthesis_kwargs={"channel_base": 64, "channel_max": 8}
    ).requires_grad_(False)
    discriminator = Discriminator(c_dim=0, **small, channel_base=64, channel_max=8).requires_grad_(False)
    held = {"G": net, "D": discriminator, "G_ema": net, "other": Path("a")}
    (tmp_path / "in.pkl").write_bytes(pickle.dumps(held))
    assert read_pickle(tmp_path / "in.pkl").called == ("pathlib.PosixPath",)
    for name in ("out.pkl", "out.safetensors"):
        assert command(monkeypatch, "convert", tmp_path / "in.pkl", tmp_path / name, "--trust-pickle") == 0
    assert set(read_pickle(tmp_path / "out.pkl").networks()) == {"G", "D", "G_ema"}
    assert command(monkeypatch, "convert", tmp_path / "out.pkl", tmp_path / "again.safetensors") == 0
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()


def test_convert_of_an_unknown_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert command(monkeypatch, "convert", odd_gan(tmp_path), tmp_path / "out.pkl", "--trust-pickle") == 2
    assert "G_ema is of class Odd" in capsys.readouterr().err
    assert not (tmp_path / "out.pkl").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_by_torch_save(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "bare.pt"
    torch.save(Bare(), path, _use_new_zipfile_serialization=zipped)
    generator = AnyGenerator.load(path)
    assert str(generator.spec) == "4x4 grey"
    latents = generator.draw(3, torch.Generator().manual_seed(0))
    assert torch.equal(generator(latents), generator(latents)), "its own noise is replayed"
    assert generator.discriminator() is None
    with torch.no_grad():
        generator.net.bias.fill_(0.25)
    copy.deepcopy(generator).export(path)
    assert AnyGenerator.load(path).net.bias.item() == 0.25


class Bare(nn.Module):
    """A generator of nobody's family."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim = 2
        self.bias = nn.Parameter(torch.zeros([]))

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return (z.sum(1)[:, None, None, None] + torch.rand([len(z), 1, 4, 4]) + self.bias) / 9


def test_our_own_teacher_trusted_is_the_same(tmp_path: Path) -> None:
    net = EDMPrecond(
        16, 3, model_channels=16, channel_mult=[1], num_blocks=1, attn_resolutions=[], model_type="SongUNet"
    )
    write_networks(tmp_path / "t.pkl", {"ema": net})
    teacher = load_any_teacher(tmp_path / "t.pkl")
    noisy, sigma = torch.randn([2, 3, 16, 16]), torch.ones([2, 1, 1, 1])
    with torch.no_grad():
        assert torch.allclose(teacher(noisy, sigma, torch.zeros([2, 0])), net.eval()(noisy, sigma), atol=1e-6)


class NoLatents(nn.Module):
    pass


class Failing(Bare):
    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        raise ValueError("no")


class Flat(Bare):
    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return z


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"G_ema": NoLatents()}, "has no integer z_dim"),
        ({"G_ema": Failing()}, "cannot be called as G"),
        ({"G_ema": Flat()}, "square images .* are needed"),
        ({"G_ema": 3}, "holds a int under G_ema"),
        ({"D": Bare()}, "has no network G_ema; it holds D"),
        ([Bare()], "it holds list"),
        ({"G_ema": Persistent("Augment", MISSING)}, "No module named 'no_such_package'"),
        ({"G_ema": Persistent("Odd", "raise SystemError('mine')")}, "SystemError: mine"),
        ({"G_ema": Persistent("Odd", "class Odd: pass")}, "it has no persistent class Odd"),
    ],
)
def test_what_is_no_generator(tmp_path: Path, held: object, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(held))
    with pytest.raises(FileFormatError, match=message) as caught:
        AnyGenerator.load(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)


class Shrinking(nn.Module):
    img_channels, img_resolution = 3, 16

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return x[..., 1:]


class Refusing(Shrinking):
    def forward(self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        raise TypeError("two arguments")


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Bare(), "no integer img_channels"),
        (Shrinking(), "expected a denoiser"),
        (Refusing(), "cannot be called as net"),
    ],
)
def test_what_is_no_teacher(tmp_path: Path, net: nn.Module, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": net}))
    with pytest.raises(FileFormatError, match=message):
        load_any_teacher(tmp_path / "x.pkl")


OPEN = """
import pickle, sys
for path, key in zip(sys.argv[1::2], sys.argv[2::2]):
    print(type(pickle.load(open(path, "rb"))[key]).__name__)
"""


def test_plain_pickle_load_in_a_fresh_process(tmp_path: Path) -> None:
    """Ours open; a stranger's is refused with the safe call to use, and does not run."""
    write_networks(tmp_path / "g.pkl", {"G_ema": Generator(4, 0, 4, 8, 3, synthesis_kwargs={"channel_max": 8})})
    write_networks(
        tmp_path / "t.pkl", {"ema": EDMPrecond(8, 3, model_channels=16, channel_mult=[1], attn_resolutions=[])}
    )
    files = [(tmp_path / "g.pkl", "G_ema"), (tmp_path / "t.pkl", "ema")]
    embedded = ROOT / "pretrained"  # written when the sources were others
    files += [(path, "G_ema") for path in sorted(embedded.glob("*-gan.pkl"))]
    files += [(path, "ema") for path in sorted(embedded.glob("*-teacher.pkl"))]
    kinds = {"G_ema": "Generator", "ema": "EDMPrecond"}
    arguments = [str(value) for file in (*files, (odd_gan(tmp_path), "G_ema")) for value in file]
    ended = subprocess.run([sys.executable, "-c", OPEN, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.split() == [kinds[key] for _, key in files], "all but the last"
    assert ended.returncode == 1
    assert "UntrustedPickleError" in ended.stderr
    assert "gan_refine.generators.StyleGan2.load(path)" in ended.stderr
    assert not (tmp_path / "ran").exists()
