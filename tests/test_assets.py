"""Names and URLs -> files, against a server of our own on 127.0.0.1; no test needs the network."""

import errno
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from gan_refine import assets
from gan_refine.assets import Patience, Source, fetch, resolve
from gan_refine.assets.download import BLOCK
from gan_refine.cli import cli, run_command
from gan_refine.errors import DownloadError, FileFormatError, MismatchError, UserError

ROOT = Path(__file__).parent.parent
CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HURRY = Patience(connect_seconds=2, read_seconds=0.5, attempts=2, pause_seconds=0)


@dataclass
class Behaviour:
    """What the server does, and the Range headers of the requests that it got."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    status: int | None = None
    drops: list[int] = field(default_factory=list)  # after so many bytes the connection ends; one a request
    ranges: bool = True
    length: bool = True
    redirect: str | None = None
    stall: float = 0.0  # seconds before the last byte
    slice_start: int | None = None  # where a partial answer really starts
    requests: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        b = self.behaviour
        asked = self.headers.get("Range")
        b.requests.append(asked)
        if b.redirect and self.path != "/moved.pkl":
            return self.answer(302, {"Location": b.redirect})
        if b.status is not None:
            return self.answer(b.status, {"Content-Length": "0"})
        start = 0
        if asked and b.ranges and self.headers.get("If-Range") in (None, b.etag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(b.content):
                return self.answer(416, {"Content-Range": f"bytes */{len(b.content)}"})
        body = b.content[start:]
        headers = {"Content-Length": str(len(body))} if b.length else {}
        headers |= {"ETag": b.etag} if b.etag else {}
        told = start if b.slice_start is None else b.slice_start
        headers |= {"Content-Range": f"bytes {told}-{len(b.content) - 1}/{len(b.content)}"} if start else {}
        self.answer(206 if start else 200, headers)
        self.send(body, b.drops.pop(0) if b.drops else None)
        return None

    def answer(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, body: bytes, drop: int | None) -> None:
        self.wfile.write(body[: len(body) - 1 if drop is None else drop])
        self.wfile.flush()
        time.sleep(self.behaviour.stall)
        if drop is None:
            self.wfile.write(body[-1:])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests' output is not the place."""


@dataclass
class Server:
    url: str
    behaviour: Behaviour


@pytest.fixture
def server() -> Iterator[Server]:
    behaviour = Behaviour()
    handler = type("Handler", (Handler,), {"behaviour": behaviour})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    thread = threading.Thread(target=lambda: http.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    yield Server(f"http://127.0.0.1:{http.server_port}/model.pkl", behaviour)
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GAN_REFINE_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in cache.iterdir())


def refused(source: Source, kind: type[UserError] = DownloadError) -> str:
    with pytest.raises(kind) as caught:
        fetch(source, HURRY)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- downloads


def test_a_file_is_fetched_once(server: Server, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = fetch(Source(server.url, DIGEST), HURRY)
    assert path.read_bytes() == CONTENT
    assert path.suffix == ".pkl"
    assert fetch(Source(server.url, DIGEST), HURRY) == path
    assert server.behaviour.requests == [None]
    assert leftovers(cache) == ["model.pkl", "model.pkl.json", "model.pkl.lock"]
    captured = capfd.readouterr()
    assert "model.pkl: 100%" in captured.err
    assert captured.out == ""


def test_a_dropped_connection_is_resumed(server: Server) -> None:
    server.behaviour.drops = [4 * BLOCK + 9, BLOCK]
    assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT
    assert server.behaviour.requests == [None, f"bytes={4 * BLOCK}-", f"bytes={5 * BLOCK}-"]


def test_the_next_command_resumes(server: Server, cache: Path) -> None:
    server.behaviour.drops = [4 * BLOCK, 0, 0]
    assert "run the same command again to continue the download" in refused(Source(server.url))
    assert leftovers(cache) == ["model.pkl.lock", "model.pkl.part", "model.pkl.part.json"]
    server.behaviour.requests.clear()
    assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT
    assert server.behaviour.requests == [f"bytes={4 * BLOCK}-"]


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}, {"length": False}])
def test_servers_that_cannot_resume(server: Server, change: dict[str, object]) -> None:
    for name, value in change.items():
        setattr(server.behaviour, name, value)
    server.behaviour.drops = [] if "length" in change else [4 * BLOCK]
    assert fetch(Source(server.url, DIGEST), HURRY).read_bytes() == CONTENT


def test_a_changed_file_is_not_joined_to_the_old_part(server: Server) -> None:
    server.behaviour.drops = [4 * BLOCK, 0, 0]
    refused(Source(server.url))
    server.behaviour.content, server.behaviour.etag = CONTENT[::-1], '"two"'
    assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT[::-1]


def test_a_file_that_became_shorter_under_the_same_tag(server: Server) -> None:
    server.behaviour.drops = [4 * BLOCK, 0, 0]
    refused(Source(server.url))
    server.behaviour.content = CONTENT[:1000]
    assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT[:1000]
    assert server.behaviour.requests[-2:] == [f"bytes={4 * BLOCK}-", None]


def test_another_part_than_was_asked_for(server: Server) -> None:
    server.behaviour.drops = [4 * BLOCK]
    server.behaviour.slice_start = 7
    assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT
    assert server.behaviour.requests == [None, f"bytes={4 * BLOCK}-", None]


def test_wrong_digest(server: Server, cache: Path) -> None:
    message = refused(Source(server.url, "0" * 64))
    assert DIGEST in message and "0" * 64 in message
    assert not any(name.endswith((".pkl", ".part")) for name in leftovers(cache))
    assert "instead of 12345678..." in refused(Source(server.url, sha256_prefix="12345678"))
    assert fetch(Source(server.url, sha256_prefix=DIGEST[:8]), HURRY).read_bytes() == CONTENT


def test_a_file_damaged_in_the_cache_is_fetched_again(server: Server) -> None:
    path = fetch(Source(server.url), HURRY)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT
    assert len(server.behaviour.requests) == 2


@pytest.mark.parametrize("status", [403, 404, 410, 503])
def test_refusals_of_the_server(server: Server, status: int) -> None:
    server.behaviour.status = status
    assert f"the server answers {status}" in refused(Source(server.url))
    assert len(server.behaviour.requests) == (HURRY.attempts if status == 503 else 1)


def test_redirects(server: Server) -> None:
    server.behaviour.redirect = "/moved.pkl"
    assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT
    server.behaviour.redirect = "/round.pkl"
    assert "redirects" in refused(Source(server.url.replace("model", "other")))


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(server: Server) -> None:
    server.behaviour.stall = 0.2
    assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT
    server.behaviour.stall = 2
    server.behaviour.etag = None
    assert "127.0.0.1 does not answer in time" in refused(Source(server.url + "?again"))


def test_hosts_that_cannot_be_reached() -> None:
    assert "Connection refused" in refused(Source("http://127.0.0.1:9/model.pkl"))
    assert "cannot be fetched" in refused(Source("http://name.invalid/model.pkl"))
    assert "cannot be fetched" in refused(Source("http:///model.pkl"))


FETCH = "import sys; from gan_refine.assets import Source, fetch; print(fetch(Source(sys.argv[1])))"


def start_process(url: str) -> subprocess.Popen:
    command = [sys.executable, "-c", FETCH, url]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_download_once(server: Server) -> None:
    server.behaviour.stall = 1.5
    processes = [start_process(server.url) for _ in range(2)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert Path(results[0][0].strip()).read_bytes() == CONTENT
    assert server.behaviour.requests == [None]


def test_a_killed_process_leaves_no_lock(server: Server) -> None:
    server.behaviour.stall = 20
    process = start_process(server.url)
    wait_for(lambda: bool(server.behaviour.requests))
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    server.behaviour.stall = 0
    started = time.perf_counter()
    assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT
    assert time.perf_counter() - started < 3


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.time() + 30
    while not condition():
        assert time.time() < deadline
        time.sleep(0.02)


# ---- the cache


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk(server: Server, cache: Path) -> None:
    server.behaviour.drops = [1000, 0, 0]
    refused(Source(server.url))
    (part,) = cache.glob("*.part")
    part.unlink()
    part.symlink_to("/dev/full")
    message = refused(Source(server.url))
    assert os.strerror(errno.ENOSPC) in message
    assert "GAN_REFINE_CACHE" in message


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs the right to mount a file system")
def test_full_file_system_then_room_again(server: Server, cache: Path) -> None:
    cache.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(cache)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        assert os.strerror(errno.ENOSPC) in refused(Source(server.url))
        assert subprocess.run(["mount", "-o", "remount,size=4m", str(cache)]).returncode == 0
        assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT
        assert subprocess.run(["mount", "-o", "remount,ro", str(cache)]).returncode == 0
        assert fetch(Source(server.url), HURRY).read_bytes() == CONTENT, "what is there can be used"
        assert os.strerror(errno.EROFS) in refused(Source(server.url + "?other"))
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def test_unusable_cache(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path / "file" / "cache"))
    assert "name another folder in GAN_REFINE_CACHE" in refused(Source(server.url))
    assert server.behaviour.requests == []


def test_offline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_REFINE_OFFLINE", "1")
    assert "GAN_REFINE_OFFLINE is set" in refused(Source(server.url))
    assert server.behaviour.requests == []
    monkeypatch.setenv("GAN_REFINE_OFFLINE", "0")
    path = fetch(Source(server.url), HURRY)
    monkeypatch.setenv("GAN_REFINE_OFFLINE", "1")
    assert fetch(Source(server.url), HURRY) == path


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert assets.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GAN_REFINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert assets.cache_folder() == tmp_path / "xdg" / "gan_refine"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert assets.cache_folder() == tmp_path / ".cache" / "gan_refine"


def test_file_names_in_the_cache(server: Server, cache: Path) -> None:
    base = server.url.removesuffix("model.pkl")
    names = ["a.pkl?x=1", "a.pkl?x=2", "..%2f..%2fetc", "", "%00%0a" + "b" * 300, ".hidden"]
    paths = [fetch(Source(base + name), HURRY) for name in names]
    assert len({path.name for path in paths}) == len(names)
    assert all(path.parent == cache and path.name.isprintable() for path in paths)


# ---- names


def test_a_detector_without_a_pair_has_no_gan() -> None:
    with pytest.raises(
        MismatchError, match="no embedded gan of that name; give --detector=fashion16-b or --fid-ref=fashion16-b"
    ):
        assets.resolve("gan", "fashion16-b")
    with pytest.raises(FileFormatError) as caught:
        assets.resolve("gan", "no-such-name")
    assert "fashion16-cond" in str(caught.value) and "fashion16-b" not in str(caught.value)


@pytest.mark.parametrize("path", sorted(assets.PRETRAINED.glob("*.pkl")), ids=lambda path: path.name)
def test_embedded_pickles_hold_the_plain_networks(path: Path) -> None:
    """Those in memory may have faster blocks, which published tools do not know."""
    networks = [net for net in pickle.loads(path.read_bytes()).values() if isinstance(net, torch.nn.Module)]
    modules = {type(module).__module__ for net in networks for module in net.modules()}
    assert networks
    assert {name for name in modules if not name.startswith("torch.nn.")} <= {
        f"gan_refine.networks.{name}" for name in ("edm_unet", "edm_precond", "stylegan2")
    }


@pytest.mark.parametrize("words", [["inspect", "fashion16"], ["convert", "fashion16", "out.safetensors"]])
def test_a_name_where_one_file_is_meant(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gan-refine", *words])
    assert run_command(cli) == 2
    said = capsys.readouterr().err
    assert "fashion16 is the name of several embedded files; give one of them: " in said and "fashion16-gan.pkl" in said
    assert list(tmp_path.iterdir()) == []


def test_public_files_are_complete() -> None:
    public = assets.public_files()
    assert len(public) >= 24
    assert not set(public) & set(assets.catalog())
    for file in public.values():
        assert file.kind in assets.KINDS
        assert file.url.startswith("https://")
        assert file.licence
        assert file.sha256 is None or len(file.sha256) == 64
        assert file.fid is None or (file.fid.value > 0 and file.fid.source)
    assert public["inception-2015-12-05"].sha256_prefix == "6726825d"
    assert public["edm-imagenet-64x64-cond-adm"].fid == assets.PublishedFid(
        1.36, "example.py of NVlabs/edm, by the sampler settings there"
    )


def test_names_urls_and_paths(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = assets.PublicFile("net", "teacher", server.url, "none", "0" * 64, None, None)
    monkeypatch.setattr("gan_refine.assets.names.public_files", lambda: {"net": file})
    for text in ("net", server.url):  # a listed URL is checked as its name is
        with pytest.raises(DownloadError, match="instead of 0000"):
            resolve("teacher", text)
    path = resolve("gan", server.url + "?plain")
    assert path.read_bytes() == CONTENT
    assert resolve("gan", str(path)) == path
    assert resolve("gan", "fashion16").name == "fashion16-gan.pkl"
    with pytest.raises(MismatchError, match="--gan=net is the name of a teacher; pass it as --teacher=net"):
        resolve("gan", "net")
    with pytest.raises(
        FileFormatError,
        match=r"--teacher=nett is not a file; give a file, .* one of emoji32, fashion16, fashion16-cond, .*net$",
    ):
        resolve("teacher", "nett")
    with pytest.raises(FileFormatError, match=r"--gan=.* is a folder; .* one of emoji32, fashion16, fashion16-cond$"):
        resolve("gan", str(tmp_path))
