"""inspect: says what is in a file, whoever wrote it, and neither runs nor builds anything."""

import dataclasses
import hashlib
import json
import pickle
import sys
from pathlib import Path

import hostile_pickles
import pytest
import tensorflow_pickles
import torch

from gan_refine import assets
from gan_refine.cli import cli
from gan_refine.cli.main import run_command
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.pickles import describe, write_gan, write_networks, write_one_step, write_state_dict
from torch_utils.persistence import module_source

SIZES = {"z_dim": 8, "c_dim": 2, "w_dim": 8, "img_resolution": 8, "img_channels": 3}
WIDTHS = {"channel_base": 64, "channel_max": 8}


def generator() -> Generator:
    return Generator(**SIZES, synthesis_kwargs=WIDTHS).requires_grad_(False)


def numbers(net: torch.nn.Module) -> tuple[int, int]:
    return sum(p.numel() for p in net.parameters()), sum(b.numel() for b in net.buffers())


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["gan_refine", "inspect", *map(str, arguments)])
    code = run_command(cli)
    assert code == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_gan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = generator()
    judge = Discriminator(c_dim=2, img_resolution=8, img_channels=3, **WIDTHS)
    write_networks(
        tmp_path / "g.pkl", {"G": net, "D": judge, "G_ema": net, "training_set_kwargs": {"path": "x", "n": 3}}
    )
    monkeypatch.setattr(torch.nn.Module, "__init__", None)  # building any network would fail
    found = describe(tmp_path / "g.pkl")
    assert found.problem is None
    assert found.unknown_names == []
    assert "torch._utils._rebuild_parameter" in found.known_names
    assert found.sha256 == hashlib.sha256((tmp_path / "g.pkl").read_bytes()).hexdigest()
    assert [network.key for network in found.networks] == ["G", "D", "G_ema"]
    ema = found.networks[2]
    assert (ema.what, ema.option, ema.class_name) == ("StyleGAN2 generator", "--gan", "Generator")
    assert ema.arguments == SIZES | {"synthesis_kwargs": WIDTHS}
    assert (ema.resolution, ema.channels, ema.classes) == (8, 3, 2)
    assert (ema.parameters, ema.buffers) == numbers(net)
    assert ema.dtypes == {"float32": sum(numbers(net))}
    assert found.networks[1].what == "StyleGAN2 discriminator"
    assert found.others == {"training_set_kwargs": "a dict of 2: path='x', n=3"}
    (source,) = found.sources
    assert source.sha256 == ema.source_sha256 == hashlib.sha256(module_source(Generator).encode()).hexdigest()
    assert source.ours
    assert {"Generator", "Discriminator", "MappingNetwork"} <= set(source.classes)


def test_teacher(tmp_path: Path) -> None:
    net = EDMPrecond(8, 1, label_dim=2, model_channels=16, channel_mult=[1], num_blocks=1, attn_resolutions=[])
    write_networks(tmp_path / "t.pkl", {"ema": net})
    (network,) = describe(tmp_path / "t.pkl").networks
    assert (network.what, network.option, network.model) == ("EDM teacher, EDMPrecond", "--teacher", "DhariwalUNet")
    assert (network.resolution, network.channels, network.classes) == (8, 1, 2)
    assert (network.parameters, network.buffers) == numbers(net)


def test_one_step_generator(tmp_path: Path) -> None:
    net = EDMPrecond(8, 1, model_channels=16, channel_mult=[1], num_blocks=1, attn_resolutions=[])
    write_one_step(tmp_path / "o.pkl", net, 2.5)
    (network,) = describe(tmp_path / "o.pkl").networks
    assert network.what == "EDM teacher, EDMPrecond, one-step generator at sigma 2.5"
    assert network.option == "--gan, --teacher"
    write_networks(tmp_path / "odd.pkl", {"ema": net, "one_step": {"sigma": -1.0}})
    found = describe(tmp_path / "odd.pkl")
    assert found.networks[0].option == "--teacher"
    assert "holds no noise level" in str(found.problem)


def test_tensorflow(tmp_path: Path) -> None:
    net = generator()
    static = {"resolution": 8, "num_channels": 3, "label_size": 2, "fmap_base": 32, "fmap_max": 8}
    parts = tensorflow_pickles.generator(net, **static, latent_size=8, dlatent_size=8)
    judge = Discriminator(2, 8, 3, mapping_kwargs={"num_layers": 0}, **WIDTHS).requires_grad_(False)
    (tmp_path / "t.pkl").write_bytes(
        tensorflow_pickles.dump((parts, tensorflow_pickles.discriminator(judge, **static), parts))
    )
    found = describe(tmp_path / "t.pkl")
    assert (found.format, found.problem) == ("TensorFlow pickle", None)
    assert [network.key for network in found.networks] == ["G", "D", "G_ema"]
    assert (found.networks[2].resolution, found.networks[2].classes, found.networks[2].option) == (8, 2, "--gan")
    assert found.networks[2].parameters == numbers(net)[0]
    filters = sum(buffer.numel() for name, buffer in net.named_buffers() if "resample_filter" in name)
    assert found.networks[2].buffers == numbers(net)[1] - filters


def test_state_dict(tmp_path: Path) -> None:
    net = generator()
    write_state_dict(tmp_path / "s.safetensors", net)
    found = describe(tmp_path / "s.safetensors")
    assert found.problem is None
    assert found.networks[0].arguments == SIZES | {"synthesis_kwargs": WIDTHS}
    assert found.networks[0].parameters == sum(numbers(net))
    (tmp_path / "s.json").unlink()
    assert "s.json is missing" in str(describe(tmp_path / "s.safetensors").problem)


def test_a_whole_module_of_unknown_classes(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3).half())
    torch.save(net, tmp_path / "net.bin")
    found = describe(tmp_path / "net.bin")
    assert "a module saved whole, whose class is not known here" in str(found.problem)
    assert {"torch.nn.modules.linear.Linear", "torch.nn.modules.batchnorm.BatchNorm1d"} <= set(found.unknown_names)
    (network,) = found.networks
    assert (network.what, network.parameters, network.buffers) == ("unknown here", 9 + 6, 7)
    assert network.dtypes == {"float32": 9, "float16": 12, "int64": 1}


class Foreign:
    """A class that files of strangers name, with state and items."""

    def __init__(self) -> None:
        self.a = Path("x")


class ForeignDict(dict):
    pass


class ForeignList(list):
    pass


@pytest.mark.parametrize("protocol", range(6))
def test_unknown_names_beside_a_known_network(tmp_path: Path, protocol: int) -> None:
    beside = {"a": Foreign(), "b": ForeignDict(x=1, y=2), "c": ForeignList([1, 2]), "d": ForeignList([3])}
    held = {"G_ema": generator(), **beside}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(held, protocol=protocol))
    found = describe(tmp_path / "x.pkl")
    assert {f"{__name__}.{name}" for name in ("Foreign", "ForeignDict", "ForeignList")} <= set(found.unknown_names)
    assert found.networks[0].resolution == 8
    assert set(found.others) == set(beside)
    assert found.others["a"] == f"a {__name__}.Foreign, of an unknown name"
    assert found.problem is None and "pathlib.PosixPath" in found.called_names


def test_text_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    write_gan(tmp_path / "g.pkl", generator(), None, generator())
    data = json.loads(shown(monkeypatch, capsys, tmp_path / "g.pkl", "--json"))
    assert data == json.loads(json.dumps(dataclasses.asdict(describe(tmp_path / "g.pkl"))))
    text = shown(monkeypatch, capsys, tmp_path / "g.pkl")
    assert "opens safely       yes\n" in text
    assert "unknown names      none\n" in text
    assert f"{numbers(generator())[0]:,} parameters" in text
    assert "8x8, 3 channels, 2 classes" in text
    assert data["sources"][0]["sha256"] in text
    payload = hostile_pickles.in_gan(
        hostile_pickles.persistent("Generator", hostile_pickles.SOURCE, hostile_pickles.SYSTEM)
    )
    (tmp_path / "evil.pkl").write_bytes(payload)
    text = shown(monkeypatch, capsys, tmp_path / "evil.pkl")
    assert "opens safely       NO" in text
    assert "unknown names      os.system\n" in text
    assert "run" not in [path.name for path in tmp_path.iterdir()]


def test_embedded_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for kind in ("gan", "teacher"):
        text = shown(monkeypatch, capsys, assets.resolve(kind, "fashion16"))
        assert "opens safely       yes" in text
        assert "embedded sources (not run)" in text


def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "page.pkl").write_text("<html>not found</html>")
    assert "NO: " in shown(monkeypatch, capsys, tmp_path / "page.pkl")
    monkeypatch.setattr(sys, "argv", ["gan_refine", "inspect", str(tmp_path / "none.pkl")])
    assert run_command(cli) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
