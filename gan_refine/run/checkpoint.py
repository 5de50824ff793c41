"""The checkpoints of a run folder: complete, atomic, verified by a digest before they are parsed, weights-only-loadable."""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from gan_refine.errors import FileFormatError
from gan_refine.files import atomic_file

# The digest is the comment of the zip archive that torch.save writes: inside the file, and torch.load does not mind.
LABEL = b"sha256:"
COMMENT_LENGTH = len(LABEL) + 64
CHUNK = 2**20


@dataclass(frozen=True)
class Checkpoints:
    """Files `checkpoint-STEP.pt` in `folder`, of which the newest `keep` and the best remain."""

    folder: Path
    keep: int = 2

    def path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:09d}.pt"

    def steps(self) -> list[int]:
        """Those that are there, oldest first, sound or not."""
        found = (re.fullmatch(r"checkpoint-(\d+)\.pt", entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def save(self, step: int, content: Mapping[str, object], best: int | None) -> Path:
        """Writes one, then removes all that are neither the best, nor among the newest up to this one. Raises OSError.

        Files beyond `step` go too: this run did not continue from them, for they did not verify.
        """
        with atomic_file(self.path(step)) as stream:
            torch.save(dict(content), stream)
            _seal(stream)
        kept = {*[older for older in self.steps() if older <= step][-self.keep :], best}
        for other in set(self.steps()) - kept:
            self.path(other).unlink()
        return self.path(step)

    def newest(self) -> tuple[int | None, list[str]]:
        """The last step whose file verifies, or None, and the names of newer files that do not, with the reason."""
        skipped: list[str] = []
        for step in reversed(self.steps()):
            reason = damage(self.path(step))
            if reason is None:
                return step, skipped
            skipped.append(f"{self.path(step).name} {reason}")
        return None, skipped


def _seal(stream: BinaryIO) -> None:
    """Ends a zip archive with its digest as comment."""
    stream.seek(-2, io.SEEK_END)
    assert stream.read() == bytes(2), "torch.save ends in a zip directory without a comment"
    stream.seek(-2, io.SEEK_END)
    stream.write(COMMENT_LENGTH.to_bytes(2, "little"))
    length = stream.tell()
    stream.seek(0)
    digest = _digest(stream, length)
    stream.seek(0, io.SEEK_END)
    stream.write(LABEL + digest)


def _digest(stream: BinaryIO, length: int) -> bytes:
    found = hashlib.sha256()
    while length > 0 and (chunk := stream.read(min(CHUNK, length))):
        found.update(chunk)
        length -= len(chunk)
    return found.hexdigest().encode()


def damage(path: Path) -> str | None:
    """None for a whole checkpoint, else what is wrong with it, in words. Nothing of it is parsed."""
    with open(path, "rb") as stream:
        length = stream.seek(0, io.SEEK_END) - COMMENT_LENGTH
        stream.seek(max(length, 0))
        comment = stream.read()
        stream.seek(0)
        if length <= 0 or not comment.startswith(LABEL):
            return "is torn: its end is missing"
        return (
            None if LABEL + _digest(stream, length) == comment else "is damaged: its digest is not that of its contents"
        )


def parse(data: bytes, name: str) -> dict:
    """The content of a checkpoint's verified bytes, on the CPU. Raises FileFormatError for another kind of file."""
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise FileFormatError(f"{name} holds a {type(content).__name__}, not a checkpoint of this program")
    return content
