"""The command `convert`: every direction, the same images, IN never touched."""

import sys
from pathlib import Path

import pytest
import torch
from test_state_dicts import images, make_generator, make_teacher
from test_tensorflow_pickles import images as tf_images
from test_tensorflow_pickles import make_generator as make_tf_generator
from test_tensorflow_pickles import write as write_tensorflow

import run_refine
from gan_refine.cli import cli
from gan_refine.cli.main import run_command
from gan_refine.pickles import (
    build_discriminator,
    build_generator,
    build_teacher,
    read_networks,
    write_gan,
    write_networks,
    write_one_step,
)
from runs import SMALL, write_pair


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of `python -m gan_refine convert ...`, in this process."""
    monkeypatch.setattr(sys, "argv", ["gan_refine", "convert", *map(str, arguments)])
    return run_command(cli)


def test_tensorflow_to_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    source, out = write_tensorflow(tmp_path / "tf.pkl"), tmp_path / "out.pkl"
    before = source.read_bytes()
    assert convert(monkeypatch, source, out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    file = read_networks(out)
    for which, seed in (("G", 1), ("G_ema", 3)):
        assert torch.equal(tf_images(build_generator(file, which)), tf_images(make_tf_generator(seed)))
    assert build_discriminator(file) is not None
    assert source.read_bytes() == before


def test_pickle_to_state_dict_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = make_generator()
    twin.mapping.fc0.bias.add_(1)
    write_gan(tmp_path / "gan.pkl", twin, None, make_generator())
    steps = [("gan.pkl", "a.safetensors"), ("a.safetensors", "b.pkl"), ("b.pkl", "c.safetensors")]
    for source, out in steps:
        assert convert(monkeypatch, tmp_path / source, tmp_path / out) == 0
        assert torch.equal(images(build_generator(read_networks(tmp_path / out))), images(make_generator()))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()
    assert convert(monkeypatch, tmp_path / "gan.pkl", tmp_path / "g.safetensors", "--which=G") == 0
    assert torch.equal(images(build_generator(read_networks(tmp_path / "g.safetensors"))), images(twin))


def test_teacher_to_state_dict_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_networks(tmp_path / "t.pkl", {"ema": make_teacher()})
    arguments = torch.randn([2, 1, 8, 8]), torch.tensor([0.3, 2.0]), torch.eye(2)
    for source, out in (("t.pkl", "a.safetensors"), ("a.safetensors", "b.pkl")):
        assert convert(monkeypatch, tmp_path / source, tmp_path / out) == 0
        assert torch.equal(build_teacher(read_networks(tmp_path / out))(*arguments), make_teacher()(*arguments))


def test_a_one_step_generator_keeps_no_sigma_in_a_state_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_one_step(tmp_path / "o.pkl", make_teacher(), 1.7)
    assert convert(monkeypatch, tmp_path / "o.pkl", tmp_path / "a.safetensors") == 0
    assert f"--gan=one-step:{tmp_path / 'a.safetensors'},sigma=1.7" in capsys.readouterr().err


def test_torch_file_to_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_networks(tmp_path / "gan.pkl", {"G_ema": make_generator()})
    assert convert(monkeypatch, tmp_path / "gan.pkl", tmp_path / "a.safetensors") == 0
    torch.save(make_generator().state_dict(), tmp_path / "a.pt")
    assert convert(monkeypatch, tmp_path / "a.pt", tmp_path / "a.safetensors") == 0


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    write_networks(tmp_path / "gan.pkl", {"G_ema": make_generator()})
    (tmp_path / "link.pkl").symlink_to(tmp_path / "gan.pkl")
    (tmp_path / "folder.pkl").mkdir()
    (tmp_path / "b.json").write_text("{}")
    before = (tmp_path / "gan.pkl").read_bytes()
    cases = {
        ("gan.pkl", "gan.pkl"): "are the same file",
        ("gan.pkl", "link.pkl"): "are the same file",
        ("gan.pkl", "out.onnx"): "does not end in .pkl or .safetensors",
        ("gan.pkl", "folder.pkl"): "is a folder",
        ("gan.pkl", "out.pkl"): "is a PyTorch pickle already",
        ("gan.pkl", "b.safetensors"): "b.json already exists with another description",
        ("gan.pkl", "absent/b.safetensors"): "there is no folder",
        ("none.pkl", "out.safetensors"): "does not exist",
        ("none.safetensors", "out.pkl"): "does not exist",
    }
    for (source, out), message in cases.items():
        assert convert(monkeypatch, tmp_path / source, tmp_path / out) == 2
        said = capsys.readouterr()
        assert message in said.err
        assert (said.out, said.err.count("\n")) == ("", 1)
    assert (tmp_path / "gan.pkl").read_bytes() == before
    assert not (tmp_path / "out.pkl").exists()


def test_run_refine_takes_state_dicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_pair(tmp_path)[0].partition("=")[2]  # with all three networks of the GAN
    pair = {kind: tmp_path / f"{kind}.safetensors" for kind in ("gan", "teacher")}
    for kind, path in pair.items():
        assert convert(monkeypatch, tmp_path / f"{kind}.pkl", path) == 0
    arguments = ["run_refine.py", *(f"--{kind}={path}" for kind, path in pair.items()), *SMALL, "--dry-run"]
    for more, code in (([], 0), (["--which=G"], 2), ([f"--gan={raw}", "--which=G"], 0), (["--which=D"], 2)):
        monkeypatch.setattr(sys, "argv", [*arguments, *more])
        assert run_command(run_refine.cli) == code
