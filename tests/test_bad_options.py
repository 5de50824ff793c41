"""Every option of every command with values that it does not allow: exit code 2, one line, nothing left on disk.

GAN_REFINE_ALL_VALUES=1 tries every value; without it a seeded choice of each option's.
"""

import contextlib
import io
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from gan_refine.cli import COMMANDS, cli
from gan_refine.cli.main import run_command
from runs import SMALL, write_pair

RUN = "runs/00000-tiny"
TRIED = 3  # values of an option, unless all are
GENERAL = [
    "",
    "\0",
    "a" * 5000,
    "no/such/place",
    "~nobody/file",
    "x,,y",
    "=",
    "caf\u00e9,\u2603=1",
    "\udcff",
    "-",
    "\n",
]
NUMBERS = ["", "x", "-1", "nan", "inf", "-inf", "1e300", "1" * 400, "0x10", "1,2", "\u0661\u0662x", "-1e-9"]
WHOLE = ["1.5", "1e3"]
MORE_THAN_0 = {
    "kimg",
    "batch",
    "ema_kimg",
    "tick",
    "max_skips",
    "keep",
    "snap",
}
OWN = {  # values of one option's own kind
    "device": ["cuda:99", "tpu", "meta:x"],
    "seeds": ["9-1", "0-99999999999", "4294967296", "1-2-3", "-1"],
    "classes": ["0", "x"],
    "labels": ["0.5,0.5", "no.json", "1,nan"],
    "metrics": ["fd,fd", "fd,ddof=7", "kd,subsets=-1", "pr,k=0", "fd,infinity=maybe", "kd,subsets=1e99"],
    "detector": ["inception,path=no.pth", "torchscript", "fashion16,x=1", "torchscript,path=no.pt,channels=-1"],
    "fid_ref": [
        "teacher,steps=1",
        "teacher,images=1",
        "teacher,steps=nan",
        "teacher,depth=3",
        "no.npz",
        "teacher,seed=-1",
    ],
    "objective": [
        "diff-instruct,sigma_std=-1",
        "diff-instruct,sigma_mean=nan",
        "sid,alpha=inf",
        "sid,beta=1",
        "sid,alpha=1e99",
    ],
    "train": ["all:0", "synthesis,synthesis", "mapping:nan", "hair"],
    "bridge": ["resize,anchor=-1", "resize,filter=none", "resize,anchor=nan"],
    "batch_gpu": ["3", "-4", "0", "many", "1e3"],
    "trunc": ["10.5", "-11"],
    "gan": [
        "one-step:",
        "one-step:no.pkl",
        "one-step:fashion16,sigma=0",
        "one-step:fashion16,sigma=nan",
        "ftp://host/x",
    ],
    "run": [".", "file.txt", "gan.pkl"],
    "runs": [".", "file.txt", "gan.pkl"],
    "out": [".", "page.html", "file.txt/x.html"],  # the second is for several runs
    "formats": ["pkl,pkl", "tflite", "pkl;onnx"],
    "destination": ["x.txt", "x", "no/such/x.pkl", "file.txt/x.pkl"],
    "outdir": ["file.txt", "file.txt/x", "/proc/nope/x"],
    "resume": [".", "file.txt"],
    "config": [".", "file.txt", "gan.pkl"],
    "stop_on_collapse": ["0.5", "1"],
    "teacher_steps": ["1"],
    "images": ["0", "1"],
    "eval_images": ["0", "1"],
    "whiten_w": ["0.6"],
    "beta1": ["1"],
    "beta2": ["1", "2"],
    "lr_decay": ["1.1"],
    "which": ["g_ema", "D"],
    "noise_mode": ["CONST", "none"],
}


def values(option: click.Parameter) -> list[str]:
    """What this option must refuse."""
    name = str(option.name)
    if name == "trunc":
        found = ["", "x", "nan", "inf", "1e300"]
    elif isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
        whole = WHOLE if isinstance(option.type, click.types.IntParamType) else []
        found = [*NUMBERS, *whole, *(["0"] if name in MORE_THAN_0 else [])]
    elif name == "batch_gpu":
        found = ["", "x", "-1", "nan"]
    elif name == "desc":
        found = ["", "\0", "a/b", "..", ".hidden", "a" * 300, "a\nb", "a\\b"]
    elif name == "outdir":
        found = ["", "\0", "a" * 5000, " "]
    else:
        found = GENERAL
    return [*found, *OWN.get(name, [])]


def cases() -> Iterator[tuple[str, click.Parameter, str]]:
    rng = random.Random(0)
    for command in COMMANDS:
        for option in command.params:
            if getattr(option, "is_flag", False):
                continue
            found = values(option)
            chosen = found if os.environ.get("GAN_REFINE_ALL_VALUES") else rng.sample(found, min(TRIED, len(found)))
            yield from ((str(command.name), option, value) for value in chosen)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("options")
    write_pair(made)
    (made / "file.txt").write_text("a text")
    small = [*SMALL, "--kimg=0.016", "--metrics=none", "--outdir=runs"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        assert ended(patch, ["refine", "--gan=gan.pkl", "--teacher=teacher.pkl", *small])[0] == 0
    return made


def arguments(command: str, option: click.Parameter, value: str) -> list[str]:
    """A command that would do something small, with this value."""
    pair = {"gan": "gan.pkl", "teacher": "teacher.pkl"}
    base: dict[str, str] = {
        "refine": {**pair, "metrics": "none", "outdir": "runs"} | dict(text[2:].split("=") for text in SMALL[:5]),
        "evaluate": {"gans": "gan.pkl", "images": "10", "outdir": "out"},
        "generate": {"gan": "gan.pkl", "outdir": "out", "seeds": "0"},
        "inspect": {"file": "gan.pkl"},
        "convert": {"source": "gan.pkl", "destination": "out.safetensors"},
        "export": {"run": RUN, "outdir": "out"},
        "report": {"runs": RUN},
        "doctor": {**pair, "outdir": "runs"},
    }[command]
    given = {key.replace("-", "_"): text for key, text in base.items()} | {str(option.name): value}
    if command == "refine" and option.name in ("fid_ref", "detector", "fid_seeds"):
        given["metrics"] = "fd"
    if command == "evaluate" and option.name == "teacher_steps":
        given["teacher"] = "teacher.pkl"
    if command == "generate" and option.name in ("teacher", "teacher_steps"):
        given.pop("gan")
        given.setdefault("teacher", "teacher.pkl")
    if str(option.name) == "fid_ref" and value.startswith("teacher"):
        given["teacher"] = "teacher.pkl"
    found = []
    for parameter in next(each for each in COMMANDS if each.name == command).params:
        if str(parameter.name) in given:
            text = given[str(parameter.name)]
            is_option = isinstance(parameter, click.Option)
            found.append(f"{parameter.opts[0]}={text}" if is_option else text)
    positional = [text for text in found if not text.startswith("--")]
    return [command, *(text for text in found if text.startswith("--")), *(["--", *positional] if positional else [])]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def ended(monkeypatch: pytest.MonkeyPatch, given: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", ["gan-refine", *given])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command(cli)
    return code, out.getvalue(), err.getvalue()


def test_values_that_are_not_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GAN_REFINE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("GAN_REFINE_OFFLINE", "1")
    before, wrong = contents(folder), []
    for command, option, value in cases():
        given = arguments(command, option, value)
        code, out, err = ended(monkeypatch, given)
        lines = err.splitlines()
        after = contents(folder)
        left = sorted(after.keys() - before.keys())
        if (code, out, len(lines), left) != (2, "", 1, []) or not err.startswith("error: ") or len(err) > 900:
            wrong.append((given, code, out[:100], err[-600:], left))
            before = after
    assert not wrong, "\n".join(map(str, wrong))


EACH: list[Callable[[str], list[str]]] = [
    lambda gan: ["refine", f"--gan={gan}", "--metrics=none", "--outdir=runs"],
    lambda gan: ["evaluate", f"--gan={gan}", "--images=10", "--outdir=out"],
    lambda gan: ["generate", f"--gan={gan}", "--outdir=out"],
    lambda gan: ["convert", gan, "out.safetensors"],
]


@pytest.mark.parametrize("gan", ["teacher.pkl", "file.txt", "no.pkl", "."])
def test_a_gan_that_is_none_is_refused_by_every_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gan: str
) -> None:
    monkeypatch.chdir(folder)
    before = contents(folder)
    for given in EACH:
        if (gan, given("x")[0]) == ("teacher.pkl", "convert"):
            continue  # a teacher may be converted
        code, out, err = ended(monkeypatch, given(gan))
        assert (code, out, len(err.splitlines())) == (2, "", 1), (given(gan), err)
    assert contents(folder) == before
