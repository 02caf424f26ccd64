"""Where the images of the viewer come from; records alone, so that the process of the pages stays light."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicomnode.records import IndexedInstance
from dicomnode.settings.config import Config


@dataclass(frozen=True)
class StudySource:
    """A received study with its segmentation, and its probability where that was made."""

    StudyInstanceUID: str
    revision: int
    instances: tuple[IndexedInstance, ...]
    config: Config
    segmentation: Path | None
    probability: Path | None


@dataclass(frozen=True)
class FolderSource:
    """An answer as BIDS derivatives, as an upload has it: the folder of one case."""

    folder: Path
