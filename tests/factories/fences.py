"""The fenced blocks of a Markdown page (CommonMark 4.5); those of a list item lose its indentation."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[a-z]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_SHELLS = ("bash", "console", "sh")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the line of its page on which it begins."""

    language: str
    text: str
    line: int


def blocks_of(text: str, languages: Sequence[str] = ()) -> Iterator[Block]:
    """Yield the blocks of a page in order, all or those of some languages."""
    for fence in _FENCE.finditer(text):
        if not languages or fence["language"] in languages:
            line = text.count("\n", 0, fence.start()) + 1
            yield Block(fence["language"], textwrap.dedent(fence["text"]), line)


def command_lines(text: str) -> Iterator[str]:
    """Yield every line of the blocks for a shell, continued lines joined, comments taken off."""
    for block in blocks_of(text, _SHELLS):
        for line in block.text.replace("\\\n", " ").splitlines():
            yield line.split("  #")[0].strip()


def pages_of(root: Path) -> list[str]:
    """Return every Markdown page that a reader of the tree meets, relative to its root."""
    return sorted(
        str(page.relative_to(root))
        for pattern in ("*.md", "docs/*.md", "docs/*/*.md")
        for page in root.glob(pattern)
    )
