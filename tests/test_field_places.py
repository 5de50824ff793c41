"""Folders, references, paths, places to write and terminals as people have them."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_refine import assets
from gan_refine.cli import cli
from gan_refine.cli.main import LastingStream, run_command
from gan_refine.config import parse_path_spec
from gan_refine.errors import FileFormatError, MismatchError, OptionError
from gan_refine.files import why_not_writable
from gan_refine.metrics import load_reference, read_images
from gan_refine.metrics.detectors import rgb
from gan_refine.networks.edm_precond import PRECONDITIONINGS
from gan_refine.networks.stylegan2 import Generator
from gan_refine.pickles import write_networks
from gan_refine.run.options import absolute
from runs import SMALL, write_pair

ONE = ["--fid-seeds=1", "--detector=fashion16"]
APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(90)


def grey(seed: int = 0, size: int = 16) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (size, size), dtype=np.uint8))


def folder_of(path: Path, count: int = 5, mode: str = "L", suffix: str = "png") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        grey(number).convert(mode).save(path / f"{number}.{suffix}")
    return path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["gan-refine", *map(str, arguments)])
    return run_command(cli)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---- grey is grey, however it is stored


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGB", "RGBA"])
def test_grey_in_any_storage(tmp_path: Path, mode: str) -> None:
    (first,) = read_images(folder_of(tmp_path / "x", 3, mode), channels=1)[1]
    expected = torch.stack(
        [torch.from_numpy(np.array(grey(number).convert(mode).convert("L")))[None] for number in range(3)]
    )
    assert torch.equal(first, expected)
    (three,) = read_images(tmp_path / "x", channels=3)[1]
    assert torch.equal(three, rgb(expected))


def test_a_colour_palette_and_a_mixture_of_storages(tmp_path: Path) -> None:
    folder_of(tmp_path / "x", 2)
    colours = Image.fromarray(np.random.RandomState(0).randint(0, 256, (16, 16, 3), dtype=np.uint8))
    colours.quantize(16).save(tmp_path / "x/p.png")
    assert next(read_images(tmp_path / "x", channels=3)[1]).shape == (3, 3, 16, 16)
    with pytest.raises(MismatchError, match=r"p\.png has colours, but grey images are wanted"):
        list(read_images(tmp_path / "x", channels=1)[1])


def test_alpha_is_kept_where_it_is_wanted_and_else_counted(tmp_path: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (16, 16, 4), dtype=np.uint8)
    (tmp_path / "x").mkdir()
    Image.fromarray(pixels).save(tmp_path / "x/a.png")
    files, batches = read_images(tmp_path / "x", channels=4)
    assert torch.equal(next(batches)[0], torch.from_numpy(pixels).permute(2, 0, 1)) and str(files) == "1 image"
    files, batches = read_images(tmp_path / "x", channels=3)
    assert torch.equal(next(batches)[0], torch.from_numpy(pixels[..., :3]).permute(2, 0, 1))
    assert "1 transparent" in str(files)


def test_sixteen_bits_in_colour_are_refused_too(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, rows = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0), zlib.compress((b"\0" + bytes(range(12))) * 2)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    (tmp_path / "deep.png").write_bytes(b"".join(parts))
    with pytest.raises(FileFormatError, match="more than 8 bits a channel"):
        list(read_images(tmp_path)[1])


# ---- what is skipped is told


def test_what_a_folder_skips(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "linked/a")
    folder_of(tmp_path / "elsewhere")
    (tmp_path / "linked/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked/again.png").symlink_to(folder / "0.png")
    (tmp_path / "linked/a/loop").symlink_to(tmp_path / "linked")
    (tmp_path / "linked/broken.png").symlink_to(tmp_path / "none.png")
    (tmp_path / "linked/._0.png").write_bytes(APPLE)
    (tmp_path / "linked/note").write_text("text")
    os.mkfifo(tmp_path / "linked/fifo.png")
    folder_of(tmp_path / "linked/.ipynb_checkpoints")
    folder_of(tmp_path / "linked/folder.png", 1)
    grey().save(tmp_path / "linked/x.tif")
    files, batches = read_images(tmp_path / "linked")
    assert len(files) == 11 and sum(map(len, batches)) == 11
    assert str(files) == (
        "11 images; skipped: 1 .tif, 1 AppleDouble, 1 broken link, 1 hidden folder, "
        "2 link to what is read under another name, 1 no regular file, 1 without suffix"
    )


def test_what_a_zip_skips(tmp_path: Path) -> None:
    stream = io.BytesIO()
    grey().save(stream, "png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for name in ("d/0.png", "d/1.PNG", "d/1.PNG", ".git/2.png"):
            archive.writestr(name, stream.getvalue())
        for name in ("__MACOSX/d/._0.png", "d/._1.png"):
            archive.writestr(name, APPLE)
        archive.writestr("d/labels.json", "{}")
        archive.mkdir("d/folder.png")
    files, batches = read_images(tmp_path / "x.zip")
    assert sum(map(len, batches)) == 2
    skipped = "skipped: 1 .json, 2 AppleDouble, 1 hidden, 1 link to what is read under another name"
    assert str(files) == f"2 images; {skipped}"


def test_frames_and_files_of_other_kinds(tmp_path: Path) -> None:
    grey().save(tmp_path / "0.png", save_all=True, append_images=[grey(1)])
    files, batches = read_images(tmp_path)
    list(batches)
    assert str(files) == "1 image; 1 with further frames, of which the first is read"
    (tmp_path / "only").mkdir()
    np.savez(tmp_path / "only/x.npz", np.zeros(3))
    with pytest.raises(FileFormatError, match=r"holds no images but 1 \.npz"):
        read_images(tmp_path / "only")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="empty is empty; give a folder or zip of images"):
        read_images(tmp_path / "empty")


def test_what_was_read_is_part_of_the_convention(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = folder_of(tmp_path / "images", 20, "LA")
    (folder / "._0.png").write_bytes(APPLE)
    assert command(monkeypatch, "evaluate", "--gan=fashion16", "--images=20", f"--fid-ref={folder}", *ONE) == 0
    out = capsys.readouterr()
    assert json.loads(out.out.splitlines()[0])["convention"]["reference_read"] == "20 images; skipped: 1 AppleDouble"


# ---- references of other names


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mean": np.zeros(4), "cov": np.eye(4)}, r"mean \[4\], cov \[4, 4\]; .*mu=old\['mean'\], sigma=old\['cov'\]"),
        ({"m": np.zeros(4), "s": np.eye(4)}, r"mu=old\['m'\], sigma=old\['s'\]"),
        ({"arr_0": np.zeros([3, 16, 16, 3], np.uint8)}, r"arr_0 \[3, 16, 16, 3\]; arr_0 looks like images"),
        ({"mu": np.zeros(4)}, r"lacks sigma; it holds mu \[4\]"),
        ({"mu": np.zeros(4), "Sigma": np.eye(4)}, r"lacks sigma; .*mu=old\['mu'\], sigma=old\['Sigma'\]"),
        ({f"a{n}": np.zeros(n) for n in range(20)}, r"a7 \[7\] \.\.\.; mean and covariance"),
        ({}, "it holds nothing"),
        ({"object": np.array([{}], dtype=object)}, r"it holds object \[1\]"),
    ],
)
def test_references_under_other_names(tmp_path: Path, arrays: dict, said: str) -> None:
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(FileFormatError, match=said):
        load_reference(tmp_path / "r.npz")


# ---- paths


def test_an_existing_path_wins_over_the_grammar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a, b").mkdir()
    for name in ("a, b/t.pkl", "x,sigma=2.pkl", "w,1,2.pth", "teacher,steps=3"):
        Path(name).touch()
    assert parse_path_spec("a, b/t.pkl") == ("a, b/t.pkl", {})
    assert parse_path_spec("a, b/t.pkl,sigma=2") == ("a, b/t.pkl", {"sigma": "2"})
    assert parse_path_spec("x,sigma=2.pkl,sigma=3") == ("x,sigma=2.pkl", {"sigma": "3"})
    assert parse_path_spec("inception,path=w,1,2.pth,depth=64") == ("inception", {"path": "w,1,2.pth", "depth": "64"})
    assert parse_path_spec("teacher,steps=3") == ("teacher,steps=3", {})
    assert parse_path_spec("teacher,steps=4") == ("teacher", {"steps": "4"})
    assert absolute("one-step:a, b/t.pkl,sigma=2") == f"one-step:{tmp_path}/a, b/t.pkl,sigma=2"
    assert absolute("inception,path=w,1,2.pth") == f"inception,path={tmp_path}/w,1,2.pth"
    with pytest.raises(OptionError, match="options are written"):
        parse_path_spec("no, such/t.pkl")


def test_a_tilde_is_the_home_folder_in_every_path_option(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_pair(home)
    shutil.copy(assets.resolve("reference", "fashion16"), home / "ref.npz")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "generate", "--gan=~/gan.pkl", "--seeds=0", "--outdir=~/out") == 0
    given = ["evaluate", "--gan=~/gan.pkl", "--images=10", "--fid-ref=~/ref.npz", "--outdir=~/figures", *ONE]
    assert command(monkeypatch, *given) == 0
    assert command(monkeypatch, "generate", "--gan=one-step:~/teacher.pkl", "--seeds=0", "--outdir=~/one") == 0
    assert command(monkeypatch, "convert", "~/gan.pkl", "~/gan.safetensors") == 0
    assert command(monkeypatch, "inspect", "~/gan.pkl") == 0
    dry = ["--gan=~/gan.pkl", "--teacher=~/teacher.pkl", "--outdir=~/runs", "--detector=inception,path=~/no.pth"]
    assert command(monkeypatch, "refine", *dry, "--metrics=none", "--dry-run") == 0
    assert f'"outdir": "{home}/runs"' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir() if path != cache) == ["home"]
    assert {"out", "one", "figures", "gan.safetensors"} <= {path.name for path in home.iterdir()}


# ---- places to write


def test_places_are_tried_and_left_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert why_not_writable(tmp_path / "a/b/c") is None and list(tmp_path.iterdir()) == [tmp_path / "file"]
    for place in ("/proc/nope", tmp_path / "file", tmp_path / "file/x", "/dev/null/x"):
        assert why_not_writable(Path(place)) is not None


@pytest.mark.parametrize("cache", ["/proc/nope", "/dev/null/x", "file/x"])
def test_a_cache_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, cache: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setenv("GAN_REFINE_CACHE", cache)
    write_pair(tmp_path)
    given = ["--gan=gan.pkl", "--teacher=teacher.pkl", "--images=10", "--teacher-steps=2", *ONE]
    assert command(monkeypatch, "evaluate", *given) == 0
    out = capsys.readouterr()
    assert f"warning: cannot write to the cache {cache}/samples" in out.err
    assert json.loads(out.out.splitlines()[0])["results"]


def test_an_output_is_tried_before_a_network_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for given in (["generate", "--gan=no.pkl"], ["evaluate", "--gan=no.pkl"], ["refine", "--gan=no.pkl"]):
        for place in ("file/x", "/proc/nope"):
            assert command(monkeypatch, *given, f"--outdir={place}") == 2
            assert f"cannot write to --outdir={place}" in capsys.readouterr().err
    assert command(monkeypatch, "convert", "no.pkl", "file/x.pkl") == 2
    assert "there is no folder file for OUT" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ---- a run goes on wherever its files are


SHORT = [*SMALL[1:], "--kimg=0.032", "--metrics=none"]


@pytest.mark.parametrize("gan", ["gan.pkl", "one-step:teacher.pkl,sigma=3.0"])
def test_files_are_what_their_digest_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, gan: str
) -> None:
    (tmp_path / "a").mkdir()
    write_pair(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    assert command(monkeypatch, "refine", f"--gan={gan}", "--teacher=teacher.pkl", *SHORT, "--outdir=runs") == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")  # the run folder and its files together
    assert command(monkeypatch, "refine", f"--resume={tmp_path}/b/runs/00000-tiny") == 0
    name = "gan.pkl" if gan == "gan.pkl" else "teacher.pkl"
    shutil.move(tmp_path / "b" / name, tmp_path / "moved.pkl")
    (tmp_path / "link.pkl").symlink_to("moved.pkl")
    capsys.readouterr()
    assert command(monkeypatch, "refine", "--resume=b/runs/00000-tiny") == 2
    assert "is gone; give --" in capsys.readouterr().err
    for place in ("moved.pkl", "./link.pkl", str(tmp_path / "moved.pkl")):
        named = [f"--gan={gan.replace(name, place)}", *([f"--teacher={place}"] if name == "teacher.pkl" else [])]
        assert command(monkeypatch, "refine", "--resume=b/runs/00000-tiny", *named) == 0, capsys.readouterr().err
    (tmp_path / "c").mkdir()
    write_pair(tmp_path / "c", seed=5)
    capsys.readouterr()
    named = [f"--gan={gan.replace(name, f'c/{name}')}", *(["--teacher=moved.pkl"] if name == "teacher.pkl" else [])]
    assert command(monkeypatch, "refine", "--resume=b/runs/00000-tiny", *named) == 2
    assert "a resumed run keeps its options" in capsys.readouterr().err


def test_no_lock_is_left_in_a_folder_that_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "refine", "--resume=.") == 2
    assert list(tmp_path.iterdir()) == []


# ---- text that cannot be written


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    name = "caf\u00e9 \u2603 \udcff"
    monkeypatch.setattr(sys, "argv", ["gan-refine", "generate", "--gan=gan.pkl", "--seeds=0", f"--outdir={name}"])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert run_command(cli) == 0
    assert (tmp_path / name / "seed0000.png").is_file()
    assert b"seed0000.png" in out.buffer.getvalue()


def test_a_run_folder_whose_name_a_locale_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path)
    opened = open
    monkeypatch.setattr(
        "builtins.open",
        lambda *a, **k: opened(*a, **({"encoding": "ascii"} | k if "b" not in "".join(map(str, a[1:])) else k)),
    )
    given = [
        "refine",
        "--gan=gan.pkl",
        "--teacher=teacher.pkl",
        *SHORT,
        "--outdir=r\u00fcns \udcff",
        "--desc=na\u00efve-\u2603",
    ]
    assert command(monkeypatch, *given) == 0
    assert "na\u00efve-\u2603" in (tmp_path / "r\u00fcns \udcff/00000-na\u00efve-\u2603/log.txt").read_text(
        encoding="utf-8"
    )


class Closed(io.StringIO):
    """A pipe whose reader has gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_output_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gan-refine", "generate", "--gan=gan.pkl", "--seeds=0-2", "--outdir=out"])
    with contextlib.redirect_stdout(Closed(error)), contextlib.redirect_stderr(Closed(error)):
        assert run_command(cli) == 0
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_full_disk_under_the_results_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(sys, "argv", ["gan-refine", "inspect", str(assets.resolve("gan", "fashion16"))])
    with contextlib.redirect_stdout(Closed(full)):
        assert run_command(cli) == 2
    assert "standard output cannot be used (No space left on device)" in capsys.readouterr().err
    LastingStream(Closed(full), progress=True).write("dropped")


def test_a_closed_pipe_in_a_process() -> None:
    """The exit code of Python itself, which flushes its streams at the end."""
    line = f"{sys.executable} -m gan_refine --help | true; exit ${{PIPESTATUS[0]}}"
    root = Path(__file__).parent.parent
    done = subprocess.run(["bash", "-c", line], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- channels


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_images_of_any_number_of_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, channels: int
) -> None:
    monkeypatch.chdir(tmp_path)
    widths = {"channel_base": 64, "channel_max": 8}
    net = Generator(4, 0, 4, 16, channels, mapping_kwargs={"num_layers": 1}, synthesis_kwargs=widths)
    write_networks(Path("gan.pkl"), {"G_ema": net})
    unet = {
        "model_type": "SongUNet",
        "model_channels": 8,
        "channel_mult": [1, 1],
        "num_blocks": 1,
        "attn_resolutions": [],
    }
    write_networks(
        Path("t.pkl"),
        {"ema": PRECONDITIONINGS["EDMPrecond"](img_resolution=16, img_channels=channels, label_dim=0, **unet)},
    )
    assert command(monkeypatch, "generate", "--gan=gan.pkl", "--seeds=0", "--grid", "--outdir=out") == 0
    assert command(monkeypatch, "refine", "--gan=gan.pkl", "--teacher=t.pkl", *SHORT, "--outdir=runs") == 0
    said = capsys.readouterr().err
    shown = {2: "L", 4: "RGBA", 5: "RGB"}[channels]
    pictures = ["out/seed0000.png", "out/grid.png", "runs/00000-tiny/fakes_init.png"]
    assert [Image.open(name).mode for name in pictures] == [shown] * 3
    assert said.count(f"Pictures show the first {len(shown)} of {channels} channels.") == (0 if channels == 4 else 2)


def test_a_detector_of_rgba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    class Means(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float().mean(dim=(2, 3))

    monkeypatch.chdir(tmp_path)
    torch.jit.script(Means()).save("d.pt")
    net = Generator(
        4, 0, 4, 16, 4, mapping_kwargs={"num_layers": 1}, synthesis_kwargs={"channel_base": 64, "channel_max": 8}
    )
    write_networks(Path("gan.pkl"), {"G_ema": net})
    folder_of(tmp_path / "images", 6, "RGBA")
    given = [
        "--gan=gan.pkl",
        "--images=10",
        "--detector=torchscript,path=d.pt,channels=4",
        "--fid-ref=images",
        "--fid-seeds=1",
    ]
    assert command(monkeypatch, "evaluate", *given) == 0
    assert "6 images" in capsys.readouterr().out
