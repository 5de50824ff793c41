"""The command, as a user meets it: a whole small run, its files, bad input, interruption."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_refine import assets
from gan_refine.cli import run_command
from gan_refine.cli.refine import refine
from gan_refine.evaluation import grid_latents, render
from gan_refine.generators import StyleGan2
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.pickles import write_networks
from gan_refine.run.folder import tile
from runs import write_pair

SMALL = [
    "--gan=fashion16",
    "--teacher=fashion16",
    "--kimg=0.128",
    "--batch=32",
    "--tick=0.032",
    "--snap=2",
    "--eval-images=60",
    "--fid-seeds=2",
    "--teacher-steps=0",
]
SMALL += ["--ema-kimg=0.03", "--warmup-kimg=0.064", "--device=cpu", "--objective=di-gan,samples=64,steps=2,window=32"]
QUICK = ["--kimg=0.064", "--batch=16", "--tick=0.016", "--warmup-kimg=0.016", "--no-report", "--fid-seeds=1"]
RESULT_KEYS = {
    "complete",
    "data_free_gap",
    "gan",
    "teacher",
    "metric",
    "before",
    "after",
    "verdict",
    "tables",
    "kimg",
    "seconds",
    "parts",
    "refined",
    "improved",
}


def command(monkeypatch, *arguments: str) -> int:
    """Exit code of run_refine.py with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["run_refine.py", *arguments])
    return run_command(refine)


@pytest.fixture(scope="module")
def run_folder(commands, tmp_path_factory) -> tuple[Path, str]:
    """One finished run, measured against data, and its standard output."""
    outdir = tmp_path_factory.mktemp("runs")
    ended = commands.run(*SMALL, f"--outdir={outdir}", "--desc=small")
    assert ended.code == 0, ended.stderr
    return outdir / "00000-small", ended.stdout


def test_run_folder_holds_what_is_promised(run_folder):
    folder, stdout = run_folder
    names = {path.name for path in folder.glob("[!c]*")} | {".lock"}
    metric = "fd60-fashion16"
    expected = {
        ".lock",
        "launch.json",
        "options.json",
        "log.txt",
        "stats.jsonl",
        f"metric-{metric}.jsonl",
        "summary.json",
        "fakes_init.png",
        "report.html",
    }
    assert names == expected | {
        "fakes00000064.png",
        "fakes00000128.png",
        "network-refined-best.pkl",
        "network-refined-last.pkl",
    }
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == RESULT_KEYS
    assert summary["metric"] == metric
    assert summary["kimg"] == 0.128
    assert summary["improved"] == (summary["after"] < summary["before"])
    (table,) = summary["tables"]
    assert [row["name"] for row in table["rows"]] == ["before", "after" if summary["improved"] else "last snapshot"]
    assert len(table["rows"][0]["values"][metric]) == 2, "two sets of latents, which selected nothing"
    assert summary["before"] not in table["rows"][0]["values"][metric]
    assert stdout == summary["refined"] + "\n"
    assert json.loads((folder / "options.json").read_text())["refine"]["batch"] == 32
    stats = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [record["kimg"] for record in stats] == [0.032, 0.064, 0.096, 0.128]
    assert all(record["skipped_steps"] == 0 for record in stats)
    assert stats[0]["remaining_nats"] is None and stats[-1]["remaining_nats"] is not None, (
        "Diff-Instruct acts at the end"
    )
    evaluations = [json.loads(line) for line in (folder / f"metric-{metric}.jsonl").read_text().splitlines()]
    assert [record["snapshot"] for record in evaluations] == ["original", "fakes00000064", "fakes00000128"]
    assert min(record["results"][metric] for record in evaluations) == summary["after"]


def test_refined_pickle_opens_and_gives_the_images_of_the_last_grid(run_folder):
    folder, _ = run_folder
    generator = StyleGan2.load(folder / "network-refined-last.pkl")
    images = render(generator, grid_latents(generator, seed=0))
    saved = np.asarray(Image.open(folder / "fakes00000128.png"))[::4, ::4, None]
    difference = np.abs(tile(images).astype(int) - saved.astype(int))
    assert difference.max() <= 1  # the snapshot was rendered by other threads
    original = StyleGan2.load(assets.resolve("gan", "fashion16"))
    assert not np.array_equal(tile(render(original, grid_latents(original, seed=0))), saved)


def test_original_grid_is_that_of_the_original(run_folder):
    folder, _ = run_folder
    original = StyleGan2.load(assets.resolve("gan", "fashion16"))
    images = tile(render(original, grid_latents(original, seed=0)))
    assert (
        np.abs(images.astype(int) - np.asarray(Image.open(folder / "fakes_init.png"))[::4, ::4, None].astype(int)).max()
        <= 1
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Pickles that do not fit the embedded ones."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.pkl").write_text("not a pickle\n")
    unet = {
        "model_type": "SongUNet",
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
    }
    for name, resolution, channels in [("teacher32", 32, 1), ("teacher_rgb", 16, 3)]:
        write_networks(folder / f"{name}.pkl", {"ema": EDMPrecond(resolution, channels, **unet)})
    widths = {"channel_base": 64, "channel_max": 8}
    make = lambda: Generator(8, 0, 8, 16, 1, synthesis_kwargs=widths)  # noqa: E731
    networks = {"G": make(), "D": Discriminator(0, 16, 1, architecture="orig", **widths), "G_ema": make()}
    write_networks(folder / "gan16.pkl", {**networks, "training_set_kwargs": None, "augment_pipe": None})
    return {path.stem: str(path) for path in folder.iterdir()}


BAD = {
    "missing file": (["--gan=nowhere.pkl"], "nowhere.pkl is not a file"),
    "folder": (["--gan={tmp}"], "is a folder"),
    "text": (["--gan={text}"], "text.pkl"),
    "teacher as gan": (["--gan={teacher32}"], "--teacher"),
    "gan as teacher": (["--teacher={gan16}"], "--gan"),
    "resolution": (
        ["--teacher={teacher32}"],
        "32x32 grey (--gan is the embedded fashion16); choose",
    ),
    "channels": (["--teacher={teacher_rgb}"], "16x16 grey images but the teacher denoises 16x16 RGB"),
    "batch 0": (["--batch=0"], "--batch=0 is not allowed; give a number from 1 to 1048576"),
    "batch-gpu": (["--batch=64", "--batch-gpu=48"], "not a multiple of --batch-gpu=48"),
    "batch text": (["--batch=many"], "many"),
    "kimg": (["--kimg=-1"], "--kimg=-1.0"),
    "kimg nan": (["--kimg=nan"], "--kimg=nan"),
    "unknown option": (["--gann=x"], "--gann"),
    "unknown objective": (["--objective=wgan"], "choose one of di-gan, diff-instruct"),
    "unknown key": (
        ["--objective=diff-instruct,wait=1"],
        "unknown option 'wait' of --objective=diff-instruct; its options are",
    ),
    "bad value": (["--objective=diff-instruct,weighting=one"], "choose one of sigma2, dmd, score"),
    "bad number": (["--objective=diff-instruct,score_steps=two"], "whole number"),
    "no value": (["--objective=diff-instruct,weighting"], "name,key=value"),
    "unwritable": (["--outdir=/dev/null/runs"], "cannot write to --outdir"),
    "metric": (["--metrics=fod"], "choose one of"),
    "reference": (["--fid-ref={text}"], "text.pkl"),
    "device": (["--device=tpu9"], "--device=tpu9"),
    "eval images": (["--eval-images=1"], "--eval-images=1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2_and_writes_nothing(case, files, tmp_path, monkeypatch, capsys):
    arguments, expected = BAD[case]
    outdir = tmp_path / "out"
    filled = [argument.format(tmp=tmp_path, **files) for argument in arguments]
    base = [] if any(a.startswith("--outdir") for a in filled) else [f"--outdir={outdir}"]
    code = command(monkeypatch, "--gan=fashion16", "--teacher=fashion16", "--device=cpu", *base, *filled)
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert code == 2
    assert lines[-1].startswith("error: ")
    assert expected in lines[-1]
    assert len([line for line in lines if not line.startswith("GAN: ")]) == 1
    assert captured.out == ""
    assert not outdir.exists()


def test_dry_run_shows_the_options_and_writes_nothing(pair, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, *SMALL, *pair, f"--outdir={tmp_path / 'out'}", "--dry-run") == 0
    captured = capsys.readouterr()
    assert '"total_images": 128' in captured.err
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_without_improvement_the_best_pickle_is_the_original(tmp_path, monkeypatch, capsys):
    arguments = [*SMALL, "--no-report", "--glr=0.3", "--kimg=0.064", f"--outdir={tmp_path}"]
    assert command(monkeypatch, *arguments) == 0
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["improved"] is False
    assert summary["after"] == summary["before"]
    told = "Nothing improved, so the best pickle is the original; the last snapshot "
    assert summary["verdict"].startswith(told) and summary["verdict"] in capsys.readouterr().err
    assert ":" not in summary["verdict"]
    original = assets.resolve("gan", "fashion16")
    assert (folder / "network-refined-best.pkl").read_bytes() == original.read_bytes()


def test_without_a_metric_the_last_pickle_is_taken(pair, tmp_path, monkeypatch):
    arguments = [*SMALL, *pair, *QUICK, "--objective=diff-instruct", "--metrics=none", f"--outdir={tmp_path}"]
    assert command(monkeypatch, *arguments) == 0
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metric"] is summary["before"] is summary["after"] is summary["improved"] is None
    first, final = summary["data_free_gap"]
    said = (folder / "log.txt").read_text()
    assert f"data-free gap {final:.3f} nats" in said and f"{first:.3f} -> {final:.3f} nats" in said
    assert first != final
    assert "\nNothing was measured, so it is not known whether the images improved.\n" in said
    assert ("The gap rises while the score model learns" in said) == (final > first)
    last, best = (StyleGan2.load(folder / f"network-refined-{name}.pkl").state_dict() for name in ("last", "best"))
    assert all(torch.equal(last[name], best[name]) for name in last)


def test_a_pair_in_colour_without_any_detector_of_its_own_is_measured_ranked_and_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path / "cache"))
    pair = write_pair(tmp_path, channels=3)
    short = [
        "--kimg=0.064",
        "--batch=32",
        "--tick=0.032",
        "--warmup-kimg=0.032",
        "--objective=di-gan,samples=64,steps=2,window=32",
        "--eval-images=40",
        "--no-report",
    ]
    arguments = [*pair, *short, "--teacher-steps=3", "--fid-seeds=2", "--device=cpu", f"--outdir={tmp_path / 'runs'}"]
    assert command(monkeypatch, *arguments) == 0
    folder = tmp_path / "runs" / "00000-gan-di-gan-batch32"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metric"] == "fd40-teacher-teacher"
    assert [table["detector"] for table in summary["tables"]] == ["teacher", "pixels"]
    assert summary["tables"][0]["role"] == "may choose settings; selected the snapshot"
    assert summary["tables"][0]["rows"][0]["name"] == "other teacher samples"
    assert summary["tables"][0]["rows"][2]["shares"]["fd40-teacher-teacher"]["count"] == 2
    assert summary["verdict"] in capsys.readouterr().err
    assert summary["verdict"].startswith(("The generator is ", "Nothing improved, so "))


def test_runs_are_numbered(tmp_path):
    from gan_refine.run.folder import new_folder

    assert [new_folder(tmp_path, "x").name for _ in range(3)] == ["00000-x", "00001-x", "00002-x"]
