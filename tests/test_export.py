"""`gan-refine export`: pickle, state dict, ONNX and model card of a run, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from gan_refine import assets, load_generator
from gan_refine.cli import cli
from gan_refine.errors import MismatchError, UserError
from gan_refine.generators import onnx_file
from gan_refine.generators.onnx_file import write_onnx
from gan_refine.interfaces import Latents


def export(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


def test_every_format_gives_the_images_of_the_best_pickle(tiny_run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    ended = export(tiny_run, f"--outdir={tmp_path}", "--formats=pkl,safetensors,onnx")
    assert ended.exit_code == 0, ended.output
    names = ["refined.json", "refined.onnx", "refined.pkl", "refined.safetensors", "MODEL_CARD.md"]
    assert ended.stdout.splitlines() == [str(tmp_path / name) for name in names]
    best = load_generator(tiny_run / "network-refined-best.pkl")
    latents = Latents(torch.randn(3, *best.z_shape), torch.zeros(3, 0))
    with torch.no_grad():
        images = best(latents)
        for name in ("refined.pkl", "refined.safetensors"):
            assert torch.equal(load_generator(tmp_path / name)(latents), images)
    session = onnxruntime.InferenceSession(tmp_path / "refined.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"z": latents.z.numpy(), "psi": np.array(1, np.float32)})
    assert np.abs(found - images.numpy()).max() < 1e-4


def test_a_conditional_generator_with_truncation(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    generator = load_generator("fashion16-cond")
    assert write_onnx(generator, tmp_path / "g.onnx") < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["z", "labels", "psi"]
    labels = torch.eye(10)[:4]
    z = torch.randn(4, *generator.z_shape)
    (found,) = session.run(None, {"z": z.numpy(), "labels": labels.numpy(), "psi": np.array(0.5, np.float32)})
    with torch.no_grad():
        expected = generator.truncated(0.5)(Latents(z, labels))
    assert np.abs(found - expected.numpy()).max() < 1e-4


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    monkeypatch.setattr(onnx_file, "_difference", lambda *_: float("nan"))
    with pytest.raises(UserError, match="was not written"):
        write_onnx(load_generator("fashion16"), tmp_path / "g.onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_the_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx and onnxruntime; run: pip install .*\[onnx\]"):
        write_onnx(load_generator("fashion16"), tmp_path / "g.onnx")


def test_onnx_of_another_family_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    with pytest.raises(MismatchError, match="family one-step"):
        write_onnx(load_generator("one-step:fashion16,sigma=2.5"), tmp_path / "g.onnx")


def test_the_card_has_digests_licences_figures_and_the_command(tiny_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    options = json.loads((folder / "options.json").read_text())
    options |= {"gan": "fashion16", "gan_sha256": assets.sha256(assets.resolve("gan", "fashion16"))}
    (folder / "options.json").write_text(json.dumps(options))
    assert export(folder).exit_code == 0
    card = (folder / "export/MODEL_CARD.md").read_text()
    assert options["gan_sha256"] in card and options["teacher_sha256"] in card
    assert assets.sha256(folder / "export/refined.pkl") in card
    assert "trained on Fashion-MNIST (MIT, Zalando SE)" in card
    assert "not known to this program" in card  # the teacher's licence
    summary = json.loads((folder / "summary.json").read_text())
    assert f"{summary['before']:.4g}" in card and f"{summary['after']:.4g}" in card
    assert "gan-refine refine --gan=fashion16" in card
    for table in summary["tables"]:
        assert f"### {table['detector']} ({table['role']})\n" in card
    assert card.count("; selected the snapshot)") == 1 and card.count("| other teacher samples |") >= len(
        summary["tables"]
    )
    assert "| after |" in card or "| last snapshot |" in card
    assert "recall\u00a0↑" in card and "share" in card
    assert str(tmp_path) not in card.replace(options["teacher"], "")


def test_a_second_export_leaves_only_what_its_card_lists_and_what_others_wrote(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "refined.onnx").write_bytes(b"of someone else")
    assert export(tiny_run, f"--outdir={tmp_path}", "--formats=pkl,safetensors").exit_code == 0
    (tmp_path / "refined.json").write_text("changed")
    ended = export(tiny_run, f"--outdir={tmp_path}", "--formats=pkl")
    assert ended.exit_code == 0, ended.output
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["MODEL_CARD.md", "refined.json", "refined.onnx", "refined.pkl"]
    assert f"{tmp_path / 'refined.safetensors'}, which a former export wrote, was removed" in ended.stderr
    assert f"{tmp_path / 'refined.json'} is not of this export and was changed since" in ended.stderr
    assert (tmp_path / "refined.onnx").read_bytes() == b"of someone else"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{tmp}"], "holds no options.json"),
        (["{tmp}/nowhere"], "is not a folder"),
        (["{run}", "--formats=pkl,tf"], "--formats=pkl,tf is not understood"),
        (["{run}", "--formats=pkl,pkl"], "each once"),
        (["{run}", "--outdir={run}/options.json"], "cannot write to --outdir"),
    ],
)
def test_bad_input(tiny_run: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = export(*(argument.format(tmp=tmp_path, run=tiny_run) for argument in arguments))
    assert isinstance(ended.exception, UserError)
    assert message in str(ended.exception)


def test_public_names_have_their_publishers_licence() -> None:
    assert "NVIDIA" in (assets.licence_of("cifar10", "") or "")
    assert assets.licence_of("mine.pkl", "0" * 64) is None
