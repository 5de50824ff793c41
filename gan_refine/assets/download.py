"""URLs -> files in the cache folder: streamed, resumed, checked, and fetched by one process at a time.

Beside a file F the cache holds F.json (its URL and SHA-256), F.lock and, until F is complete, F.part and F.part.json
(the server's ETag or date of this version, so that a resumed download never joins two versions).
"""

import functools
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from gan_refine.errors import DownloadError
from gan_refine.files import atomic_file

if TYPE_CHECKING:  # imported when something is fetched: it takes as long as the rest of this package
    import requests

CACHE_VARIABLE = "GAN_REFINE_CACHE"
OFFLINE_VARIABLE = "GAN_REFINE_OFFLINE"
BLOCK = 1 << 16
_AGAIN = "run the same command again to continue the download"


@dataclass(frozen=True)
class Source:
    """A URL, with the file's SHA-256 or its first digits where they are known."""

    url: str
    sha256: str | None = None
    sha256_prefix: str | None = None

    def accepts(self, digest: str) -> bool:
        return self.sha256 in (None, digest) and digest.startswith(self.sha256_prefix or "")


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how many attempts in a row may fail without receiving new bytes."""

    connect_seconds: float = 10
    read_seconds: float = 30
    attempts: int = 4
    pause_seconds: float = 1


PATIENCE = Patience()


class _TransferError(Exception):
    """An interruption after which another attempt may succeed."""


def cache_folder() -> Path:
    """$GAN_REFINE_CACHE, or gan_refine in $XDG_CACHE_HOME, or in ~/.cache; it need not exist."""
    chosen, base = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME", "")
    if chosen:
        return Path(chosen).expanduser()
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "gan_refine"  # XDG: ignore relative paths


def fetch(source: Source, patience: Patience = PATIENCE) -> Path:
    """The cached file of a URL, downloaded unless it is there already and intact; progress on stderr.

    Raises DownloadError, in one line, if it cannot be downloaded, is not the expected file or cannot be written.
    """
    folder = cache_folder()
    path = folder / _file_name(source.url)
    try:
        if _is_intact(path, source):
            return path
        if os.environ.get(OFFLINE_VARIABLE, "0") not in ("", "0"):
            raise DownloadError(f"{source.url} is not in {folder} and {OFFLINE_VARIABLE} is set; unset it to download")
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not _is_intact(path, source):  # another process may have been first
                _download(source, path, patience)
    except OSError as error:
        advice = f"free some space there or name another folder in {CACHE_VARIABLE}"
        raise DownloadError(
            f"{source.url} cannot be stored in {folder} ({error.strerror or error}); {advice}"
        ) from error
    return path


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, computed once for each content: size, inode and time of change tell contents apart."""
    status = path.stat()
    return _sha256(
        path.resolve(), (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    )


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, version: tuple[int, ...]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _file_name(url: str) -> str:
    """Readable, and different for different URLs."""
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path).rpartition("/")[2], flags=re.ASCII).lstrip(".")
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name[-100:] or 'file'}"


def _is_intact(path: Path, source: Source) -> bool:
    """True for a file that is as it was when it was downloaded, and as the catalog wants it."""
    recorded = _read_record(_beside(path, ".json")).get("sha256")
    if recorded is None or not source.accepts(recorded) or not path.is_file():
        return False
    return sha256(path) == recorded


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the file's lock, which the system takes back from processes that die."""
    lock = FileLock(_beside(path, ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with tqdm(desc=f"another process is downloading {path.name}", bar_format="{desc}", file=sys.stderr):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(source: Source, path: Path, patience: Patience) -> None:
    import requests

    part = _beside(path, ".part")
    with requests.Session() as session:
        _receive_all(session, source.url, part, patience)
    digest = sha256(part)
    if not source.accepts(digest):
        part.unlink()
        wanted = source.sha256 or f"{source.sha256_prefix}..."
        raise DownloadError(f"{source.url} has SHA-256 {digest} instead of {wanted}; it was deleted, do not use it")
    _write_record(_beside(path, ".json"), {"url": source.url, "sha256": digest})
    os.replace(part, path)
    _beside(part, ".json").unlink(missing_ok=True)


def _receive_all(session: "requests.Session", url: str, part: Path, patience: Patience) -> None:
    """Attempts until the file is complete. Raises DownloadError after several in a row that received nothing new."""
    most, failures = _size(part), 0
    with tqdm(desc=part.name[13:-5], unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr) as bar:
        while True:
            try:
                return _attempt(session, url, part, patience, bar)
            except _TransferError as error:
                most, failures = max(most, _size(part)), 0 if _size(part) > most else failures + 1
                if failures >= patience.attempts:
                    raise DownloadError(f"{url} cannot be fetched: {error}; {_AGAIN}") from error
                time.sleep(patience.pause_seconds)


def _attempt(session: "requests.Session", url: str, part: Path, patience: Patience, bar: tqdm) -> None:
    """One request for what is missing. Raises _TransferError if another may help, DownloadError if none will."""
    import requests

    headers, version = {"Accept-Encoding": "identity"}, _read_record(_beside(part, ".json")).get("version")
    if version is not None and _size(part) > 0:
        headers |= {"Range": f"bytes={_size(part)}-", "If-Range": version}
    timeout = (patience.connect_seconds, patience.read_seconds)
    try:
        with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
            code = response.status_code
            if (
                code == 416 and "Range" in headers
            ):  # the server has no bytes after those in .part, which was never complete
                part.unlink()
                raise _TransferError("the server's file became shorter")
            if code >= 500 or code in (408, 429):
                raise _TransferError(f"the server answers {code} {response.reason}")
            if code not in (200, 206):
                raise DownloadError(f"{url} cannot be fetched: the server answers {code} {response.reason}")
            _receive(response, part, bar)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _TransferError(_reason(error, url)) from error
    except requests.RequestException as error:
        raise DownloadError(f"{url} cannot be fetched: {' '.join(str(error).split())[:200]}") from error


def _receive(response: "requests.Response", part: Path, bar: tqdm) -> None:
    """Appends a partial answer (206) to what is there; a whole one (200) starts anew."""
    start = 0
    if response.status_code == 206:
        start = _size(part)
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink(missing_ok=True)
            raise _TransferError("the server sent another part of the file than was asked for")
    else:
        part.write_bytes(b"")
        _write_record(_beside(part, ".json"), {"version": _version(response)})
    length = response.headers.get("Content-Length", "")
    bar.total = start + int(length) if length.isdecimal() else None
    bar.n = start
    with open(part, "ab") as file:
        for block in response.iter_content(BLOCK):
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    if bar.total is not None and _size(part) != bar.total:
        raise _TransferError(f"the connection ended after {_size(part)} of {bar.total} bytes")


def _version(response: "requests.Response") -> str | None:
    """What identifies the version of the server's file; None if the server does not say, and then nothing is resumed."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _reason(error: BaseException, url: str) -> str:
    """The innermost cause in a few words."""
    import requests

    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"{urlsplit(url).hostname} does not answer in time"
    cause, reason = error, ""
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
        reason = getattr(cause, "strerror", None) or reason
    return f"the connection to {urlsplit(url).hostname} failed ({reason or type(cause).__name__})"


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_record(path: Path) -> dict[str, str | None]:
    """The JSON object in a file; empty if there is none or it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_record(path: Path, record: dict[str, str | None]) -> None:
    with atomic_file(path) as stream:
        stream.write(json.dumps(record).encode())
