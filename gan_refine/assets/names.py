"""Files that have a name: the embedded pairs (catalog.json) and files that others publish (public.json)."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gan_refine.assets.download import Source, fetch, sha256
from gan_refine.errors import FileFormatError, MismatchError
from gan_refine.foundation import beside_package

PRETRAINED = beside_package("pretrained")
LONGEST_SHOWN = 200  # characters of a path in a message
KINDS = ("gan", "teacher", "detector", "reference")
OPTIONS = {"gan": "--gan", "teacher": "--teacher", "detector": "--detector", "reference": "--fid-ref"}


@dataclass(frozen=True)
class Pair:
    """One embedded pair, or a further detector with its reference: file names and digests by kind, not always of every kind."""

    name: str
    files: dict[str, str]
    sha256: dict[str, str]


@dataclass(frozen=True)
class PublishedFid:
    """A Frechet inception distance as its authors state it, and where they do."""

    value: float
    source: str


@dataclass(frozen=True)
class PublicFile:
    """A file that others publish. `sha256` is None if it could not be verified here."""

    name: str
    kind: str
    url: str
    licence: str
    sha256: str | None
    sha256_prefix: str | None
    fid: PublishedFid | None


def catalog(folder: Path = PRETRAINED) -> dict[str, Pair]:
    """The embedded pairs and detectors by name."""
    return {name: _pair(name, entry) for name, entry in _entries(folder / "catalog.json", "pairs").items()}


def refuse_name(text: str) -> None:
    """Raises FileFormatError for the name of embedded files where one file is meant, with their paths."""
    pair = catalog().get(text)
    if pair is not None and not os.path.exists(text):
        paths = ", ".join(str(PRETRAINED / file) for kind, file in pair.files.items() if kind in ("gan", "teacher"))
        raise FileFormatError(f"{text} is the name of several embedded files; give one of them: {paths or PRETRAINED}")


def public_files(folder: Path = PRETRAINED) -> dict[str, PublicFile]:
    """The published files by name; nothing is fetched."""
    return {name: _public(name, entry) for name, entry in _entries(folder / "public.json", "files").items()}


def _entries(path: Path, table: str) -> dict[str, dict]:
    if not path.is_file():
        raise FileFormatError(f"there is no {path}; the embedded models come with a clone of the repository or a wheel")
    return json.loads(path.read_text(encoding="utf-8"))[table]


def _pair(name: str, entry: dict) -> Pair:
    files = {kind: file["file"] for kind, file in entry.items()}
    digests = {kind: file["sha256"] for kind, file in entry.items()}
    return Pair(name, files, digests)


def _public(name: str, entry: dict) -> PublicFile:
    fid = None if entry["fid"] is None else PublishedFid(entry["fid"]["value"], entry["fid"]["source"])
    prefix = entry.get("sha256_prefix")
    return PublicFile(name, entry["kind"], entry["url"], entry["licence"], entry["sha256"], prefix, fid)


def resolve(kind: str, text: str) -> Path:
    """The local file of `kind` for a catalog name, an http(s) URL or a path; a name wins over a file of that name.

    Raises FileFormatError if there is none or it is damaged, MismatchError for a name of another kind and DownloadError
    for a file that cannot be downloaded.
    """
    pairs, public = catalog(), public_files()
    if text in pairs:
        return _embedded(kind, pairs[text])
    if text in public:
        file = public[text]
        if file.kind != kind:
            use = OPTIONS[file.kind]
            raise MismatchError(f"{OPTIONS[kind]}={text} is the name of a {file.kind}; pass it as {use}={text}")
        return fetch(_source(file))
    if re.match("https?://", text, re.IGNORECASE):
        listed = next((file for file in public.values() if file.url == text), None)
        return fetch(Source(text) if listed is None else _source(listed))
    named = [name for name, pair in pairs.items() if kind in pair.files]
    return _local(kind, text, [*named, *(file.name for file in public.values() if file.kind == kind)])


def _embedded(kind: str, pair: Pair) -> Path:
    if kind not in pair.files:
        uses = " or ".join(f"{OPTIONS[each]}={pair.name}" for each in KINDS if each in pair.files)
        raise MismatchError(f"{OPTIONS[kind]}={pair.name}: there is no embedded {kind} of that name; give {uses}")
    path = PRETRAINED / pair.files[kind]
    if not path.is_file() or sha256(path) != pair.sha256[kind]:
        raise FileFormatError(f"{path} is missing or damaged; restore it (git checkout -- pretrained) or install again")
    return path


def _source(file: PublicFile) -> Source:
    return Source(file.url, file.sha256, file.sha256_prefix)


def _local(kind: str, text: str, names: Iterable[str]) -> Path:
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    if os.path.isfile(path):
        return path
    found = "a folder" if os.path.isdir(path) else "not a file"
    text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    raise FileFormatError(
        f"{OPTIONS[kind]}={text} is {found}; give a file, an http(s) URL or one of {', '.join(sorted(names))}"
    )


def licence_of(text: str, digest: str) -> str | None:
    """The licence of an embedded or public file of this SHA-256 or public name or URL; None for files of others."""
    for entry in _entries(PRETRAINED / "catalog.json", "pairs").values():
        for file in entry.values():
            if file["sha256"] == digest:
                return file["licence"]
    for name, public in public_files().items():
        if text in (name, public.url) or (public.sha256 is not None and public.sha256 == digest):
            return public.licence
    return None
