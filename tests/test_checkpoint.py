"""Checkpoint files: sealed by a digest, atomic, few."""

import random
from pathlib import Path

import pytest
import torch

from gan_refine.errors import FileFormatError, UserError
from gan_refine.files import atomic_file, require_space
from gan_refine.run.checkpoint import Checkpoints, damage, parse

CONTENT = {"weights": torch.arange(100.0), "count": 3, "text": "a", "nothing": None}


def test_what_is_saved_comes_back_and_loads_as_weights_only(tmp_path: Path):
    path = Checkpoints(tmp_path).save(7, CONTENT, None)
    assert path.name == "checkpoint-000000007.pt"
    assert damage(path) is None
    for content in (parse(path.read_bytes(), path.name), torch.load(path, weights_only=True)):
        assert torch.equal(content.pop("weights"), CONTENT["weights"])
        assert content == {"count": 3, "text": "a", "nothing": None}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "nothing else is left"


def test_every_flipped_bit_and_every_cut_is_seen(tmp_path: Path):
    path = Checkpoints(tmp_path).save(1, CONTENT, None)
    whole = path.read_bytes()
    places = random.Random(0)
    for place in [0, len(whole) - 1, *(places.randrange(len(whole)) for _ in range(300))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << places.randrange(8)]) + whole[place + 1 :])
        assert damage(path) is not None, place
        path.write_bytes(whole[:place])
        assert damage(path) is not None, place
    path.write_bytes(whole)
    assert damage(path) is None


def test_the_last_ones_and_the_best_remain(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 7):
        checkpoints.save(step, CONTENT, best=2 if step >= 2 else None)
    assert checkpoints.steps() == [2, 5, 6]
    checkpoints.save(3, CONTENT, best=None)  # a run that had to go back further than 5
    assert checkpoints.steps() == [2, 3]


def test_the_newest_whole_one_is_found_and_the_others_are_named(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=9)
    assert checkpoints.newest() == (None, [])
    for step in (1, 2, 3):
        checkpoints.save(step, CONTENT, None)
    checkpoints.path(3).write_bytes(checkpoints.path(3).read_bytes()[:50])
    assert checkpoints.newest() == (2, ["checkpoint-000000003.pt is torn: its end is missing"])


def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="full"), atomic_file(path) as stream:
        stream.write(b"half")
        raise OSError("full")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_no_checkpoints(tmp_path: Path):
    path = tmp_path / "x.pt"
    torch.save([1, 2], path)
    assert damage(path) == "is torn: its end is missing"
    with pytest.raises(FileFormatError, match="holds a list"):
        parse(path.read_bytes(), path.name)


def test_space_is_asked_for_before_it_is_needed(tmp_path: Path):
    require_space(tmp_path, 1, "this")
    with pytest.raises(UserError, match="this needs 1099511627776 MiB but the disk of"):
        require_space(tmp_path, 2**60, "this")
