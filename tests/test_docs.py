"""The Python in docs/*.md runs as it stands there; the assertions in it are the test."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[str]:
    """The Python blocks of a page, each at its own lines, so that a traceback names the page's."""
    text = path.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in BLOCK.finditer(text)]


PAGES = [path for path in sorted(DOCS.glob("*.md")) if blocks(path)]


def test_the_pages_with_code_are_found():
    assert "image_space.md" in [path.name for path in PAGES]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_blocks_of_a_page_run_in_order(path):
    names: dict[str, object] = {"__name__": path.stem}
    for block in blocks(path):
        exec(compile(block, str(path), "exec"), names)
    assert torch.is_grad_enabled()


def test_a_wrong_claim_on_a_page_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    names: dict[str, object] = {}
    with pytest.raises(AssertionError):
        for block in blocks(page):
            exec(block, names)
    assert names["x"] == 1
