"""benchmarks/step.py runs, and times both formulations."""

import re
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch):
    """The module, and afterwards as many threads and as long a path as before."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import step as module

    yield module
    torch.set_num_threads(threads)
    del sys.modules["step"]


def test_a_step_of_each_formulation_is_timed_by_part(step, monkeypatch: pytest.MonkeyPatch):
    unet = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    monkeypatch.setitem(step.SIZES, "fashion16", step.Size(8, 1, unet, 8, 1, 64, 8, batch=2))
    ended = CliRunner().invoke(step.main, ["--size=fashion16", "--steps=1", "--reference", "--device=cpu"])
    assert ended.exception is None, ended.output
    title, *lines = ended.output.splitlines()
    assert title.startswith("fashion16, batch 2, fp32, 1 thread(s)")
    found = [re.match(r" *(\w+): .*?([\d.]+) ms an image", line) for line in lines[:-1]]
    assert [match and match[1] for match in found] == [
        "gan_refine",
        "reference",
        "auxiliary_gradient",
        "generator_gradient",
        "optimizer_step",
    ]
    whole, _, *parts = (float(match[2]) for match in found)
    assert sum(parts) == pytest.approx(whole, rel=0.5), "the parts are what a step does"
    assert re.fullmatch(r"gan_refine is \d+\.\d\d times as fast as the reference", lines[-1])
