"""Recall against the teacher's own samples: the metric, its upper limit, and whole runs with --recall."""

import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import SingleImage

from gan_refine import assets
from gan_refine.evaluation import SamplingOptions, Teacher, measure, open_recall
from gan_refine.evaluation.references import VERSION, cache_key
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics import Recall, Reference, open_detector
from gan_refine.metrics.precision_recall import share_in_balls
from gan_refine.run.summary import RecallSummary
from gan_refine.teachers import GaussianTeacher
from runs import SMALL, Commands, assert_same_run, wait_for, write_pair

SPEC = ImageSpec(channels=1, resolution=16)
NAME = "recall32-fashion16-teacher"


@pytest.fixture
def teacher(tmp_path, monkeypatch) -> Teacher:
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "teacher").write_bytes(b"this teacher")
    return Teacher(tmp_path / "teacher", GaussianTeacher(-0.2, 0.3, SPEC))


def test_the_cache_tells_samplers_apart_and_keeps_what_it_had(teacher):
    detector = open_detector("fashion16")
    options = SamplingOptions(steps=18, images=10)
    before = {"version": VERSION, "teacher": assets.sha256(teacher.path), "sampler": "unipc", "steps": 18, "images": 10}
    before |= {"seed": options.seed, "detector": detector.digest()}
    digest = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:32]
    assert cache_key(teacher, detector, options) == digest
    assert cache_key(teacher, detector, replace(options, sampler="heun")) != digest


def test_of_samples_is_the_share_of_the_reference_inside_their_balls():
    one, other = torch.randn(60, 3), 0.3 * torch.randn(50, 3)
    references = [Reference(x.double().mean(0), x.double().T.cov(), features=x) for x in (one, other)]
    wide, narrow = references
    assert Recall().of_samples(narrow, wide) == share_in_balls(one, other, 3) < 0.5
    assert Recall().of_samples(wide, narrow) == share_in_balls(other, one, 3) > 0.9


def test_an_equal_generator_reaches_the_teacher_and_one_image_covers_nothing(teacher):
    seen = []
    meter = open_recall(300, "none", "auto", SPEC, teacher, progress=seen.append)
    assert sum(seen) == 600, "the reference, and as many others for the ceiling"
    equal, lost = AffineGenerator(0.3, -0.2, SPEC), SingleImage(torch.full([1, 1, 16, 16], -0.2))
    (best,), (worst,) = (measure(generator, meter.metrics, seed=0) for generator in (equal, lost))
    assert best.metric == worst.metric == "recall300-fashion16-teacher" and best.higher_is_better
    assert 0.4 < meter.teacher_value < 1
    assert abs(best.values[best.metric] - meter.teacher_value) < 0.12
    assert worst.values[worst.metric] == 0
    again = open_recall(300, "none", "auto", SPEC, teacher, progress=seen.append)
    assert sum(seen) == 600, "from the cache"
    assert again.teacher_value == meter.teacher_value


def test_the_row_of_the_table():
    assert RecallSummary("recall", 0.5, None, 0.75).row() == "0.500 -> not measured, teacher 0.750"


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    kept = os.environ.get("GAN_REFINE_CACHE")
    os.environ["GAN_REFINE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()
    os.environ.pop("GAN_REFINE_CACHE")
    if kept is not None:
        os.environ["GAN_REFINE_CACHE"] = kept


@pytest.mark.parametrize("metrics", ["auto", "none"])
def test_a_run_reports_recall_and_goes_on_with_it(metrics, commands, tmp_path):
    arguments = [*write_pair(tmp_path), *SMALL, "--recall=32", f"--metrics={metrics}"]
    ended = commands.run(*arguments, f"--outdir={tmp_path / 'whole'}")
    assert ended.code == 0, ended.stderr
    whole = tmp_path / "whole" / "00000-tiny"
    lines = [json.loads(line) for line in (whole / f"metric-{NAME}.jsonl").read_text().splitlines()]
    assert lines[0]["snapshot"] == "original" and len(lines) > 2
    assert all(set(line["results"]) == {NAME, f"{NAME}_precision"} for line in lines)
    assert lines[0]["convention"]["k"] == 3
    summary = json.loads((whole / "summary.json").read_text())
    recall = summary["recall"]
    assert recall["name"] == NAME and recall["before"] == lines[0]["results"][NAME]
    assert recall["after"] in [line["results"][NAME] for line in lines] and 0 <= recall["teacher"] <= 1
    assert f"{recall['before']:.3f} -> {recall['after']:.3f}, teacher {recall['teacher']:.3f}" in ended.stderr
    if metrics == "none":
        assert recall["after"] == lines[-1]["results"][NAME]

    pid = commands.start(*arguments, f"--outdir={tmp_path}")
    folder = tmp_path / "00000-tiny"
    wait_for(lambda: len(list(folder.glob("checkpoint-*.pt"))) > 1, lambda: Path(f"/proc/{pid}").exists())
    os.kill(pid, signal.SIGKILL)
    assert commands.end().code == -signal.SIGKILL
    assert commands.run(f"--resume={folder}").code == 0
    assert_same_run(folder, whole)
    assert json.loads((folder / "summary.json").read_text())["recall"] == recall


def test_a_bridged_generator_is_compared_at_the_teachers_size(commands, tmp_path):
    arguments = [*write_pair(tmp_path, resolution=32), *SMALL, "--bridge=resize", "--recall=32", "--kimg=0.016"]
    ended = commands.run(*arguments, f"--outdir={tmp_path}")
    assert ended.code == 0, ended.stderr
    folder = tmp_path / "00000-tiny"
    sizes = {}
    for path in folder.glob("metric-*.jsonl"):
        sizes[path.stem] = {json.loads(line)["convention"]["images"] for line in path.open()}
    assert sizes == {f"metric-{NAME}": {"16x16 grey"}, "metric-fd32-fashion16": {"16x16 grey"}}


def test_bad_counts_are_one_line(commands, tmp_path):
    ended = commands.run(*write_pair(tmp_path), *SMALL, "--recall=3", f"--outdir={tmp_path}")
    assert ended.code == 2
    assert "--recall=3 is not allowed; give 0, or more than 3 images" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
