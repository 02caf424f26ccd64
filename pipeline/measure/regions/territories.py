"""A site's own atlas of arterial territories: labels in MNI space and a table of their names.

The labels are a NIfTI volume.

The table lies next to the volume, with the same name and the ending .txt, .csv or .tsv. A row holds the label
and the territory's name, divided by "|", ";", "," or tabs. With a first row of heads the columns are found by
name: `index` (or `number`, `label`), `name`, and where there are codes `code`, `scheme` and `meaning`.
Without one, the third column is the name, or the second where there are two.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.counts import counted
from pipeline.errors import PipelineError
from pipeline.geometry import Affine, Points, apply_affine
from pipeline.measure.regions.nifti import read_nifti
from pipeline.records import Array

ENDINGS = (".txt", ".csv", ".tsv")
LARGEST_LABEL = 10_000
_DIVIDERS = "|\t;,"
_LABEL_HEADS = ("index", "number", "label", "id")
_MNI_EXTENT_MM = 150.0
"""No part of a head in MNI space lies farther from the origin along an axis."""


# PS3.5 6.2: SH and LO.
_CODE_LETTERS, _MEANING_LETTERS = 16, 64


class AtlasError(PipelineError):
    """The site's atlas cannot be used."""

    default_code = "atlas-unusable"


@dataclass(frozen=True)
class Territory:
    """A row of the table: name, and (CodeValue, CodingSchemeDesignator, CodeMeaning) where it has a code."""

    name: str
    code: tuple[str, str, str] | tuple[()] = ()


@dataclass(frozen=True, eq=False)
class TerritoryAtlas:
    """Labels in MNI space, and their names.

    Attributes
    ----------
    labels
        Integers, 0 where there is no territory.
    to_index
        4x4 from MNI coordinates (RAS mm) to the volume's index.
    territories
        Label to its row.
    sha256
        Over both files.
    """

    labels: Array
    to_index: Affine
    territories: Mapping[int, Territory]
    sha256: str

    def labels_at(self, points_mni_mm: Points) -> npt.NDArray[np.int64]:
        """Return (n,) labels for (n, 3) MNI coordinates, RAS mm; 0 outside of the volume."""
        index = np.rint(apply_affine(self.to_index, points_mni_mm)).astype(np.intp)
        inside = ((index >= 0) & (index < self.labels.shape)).all(axis=1)
        labels = np.zeros(len(index), np.int64)
        labels[inside] = self.labels[tuple(index[inside].T)]
        return labels


def read_territories(volume: Path) -> TerritoryAtlas:
    """Return a site's atlas.

    Parameters
    ----------
    volume
        NIfTI (.nii or .nii.gz) of integer labels in MNI space.

    Raises
    ------
    AtlasError
        A file is missing or cannot be read, or volume and table do not belong together; the message says
        which and what to do.
    """
    table = find_table(volume)
    try:
        data, text = volume.read_bytes(), table.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as problem:
        raise AtlasError(
            f"The atlas {volume.name} cannot be read: {problem}; check pipeline.atlas."
        ) from None
    labels, affine = _read_labels(volume.name, data)
    territories = read_table(table.name, text)
    missing = sorted(set(np.unique(labels).tolist()) - {0} - territories.keys())
    if missing:
        raise AtlasError(
            f"The table {table.name} has no row for the label {missing[0]} of {volume.name} "
            f"({len(missing)} are missing); add the rows, or set these voxels to 0."
        )
    digest = hashlib.sha256(data + text.encode()).hexdigest()
    to_index = np.asarray(np.linalg.inv(affine), dtype=np.float64)
    return TerritoryAtlas(labels, to_index, territories, digest)


def find_table(volume: Path) -> Path:
    """Return the table next to an atlas's volume.

    Raises
    ------
    AtlasError
        There is none.
    """
    stem = volume.name.removesuffix(".gz").removesuffix(".nii")
    for ending in ENDINGS:
        if (table := volume.with_name(stem + ending)).is_file():
            return table
    raise AtlasError(
        f"The atlas {volume.name} has no table: put {stem}.txt (or .csv, .tsv) with a row "
        '"label|name" for every territory next to it.'
    )


def read_table(filename: str, text: str) -> dict[int, Territory]:
    """Return the rows of a table by label.

    Raises
    ------
    AtlasError
        A row has no label or no name, or a label comes twice.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    divider = next((sign for sign in _DIVIDERS if lines and sign in lines[0]), "|")
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=divider)]
    heads = _read_heads(rows)
    territories: dict[int, Territory] = {}
    for row in rows[1:] if _has_heads(rows) else rows:
        cells = {head: row[column] for head, column in heads.items() if column < len(row)}
        if not cells.get("index", "").isdecimal() or not cells.get("name"):
            raise AtlasError(
                f"{filename}: the row {divider.join(row)!r} needs a label (a number) and a name."
            )
        label = int(cells["index"])
        if label in territories:
            raise AtlasError(f"{filename}: the label {label} has two rows; leave one.")
        code = tuple(cells.get(head, "") for head in ("code", "scheme", "meaning"))
        value, scheme, meaning = code
        if len(value) > _CODE_LETTERS or len(scheme) > _CODE_LETTERS or len(meaning) > _MEANING_LETTERS:
            raise AtlasError(
                f"{filename}: the code of label {label} is too long; DICOM allows {_CODE_LETTERS} letters "
                f"for code and scheme and {_MEANING_LETTERS} for the meaning."
            )
        meaning = meaning or cells["name"][:_MEANING_LETTERS]
        territories[label] = Territory(cells["name"], (value, scheme or "SCT", meaning) if value else ())
    if not territories:
        raise AtlasError(f'{filename} has no rows; it needs a row "label|name" for every territory.')
    return territories


def _has_heads(rows: Sequence[Sequence[str]]) -> bool:
    return bool(rows) and not rows[0][0].isdecimal()


def _read_heads(rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return the column of each head; tables without heads have the label first and the name third."""
    if not _has_heads(rows):
        return {"index": 0, "name": 2 if rows and len(rows[0]) > 2 else 1}
    heads = {cell.lower(): column for column, cell in enumerate(rows[0])}
    return {("index" if head in _LABEL_HEADS else head): column for head, column in heads.items()}


def _read_labels(filename: str, data: bytes) -> tuple[Array, Affine]:
    try:
        values, affine = read_nifti(data)
    except ValueError as problem:
        raise AtlasError(f"The atlas {filename} is no NIfTI volume: {problem}.") from None
    if values.ndim != 3:
        axes = counted(values.ndim, "axis", "axes")
        raise AtlasError(f"The atlas {filename} has {axes}; it needs one volume of labels.")
    labels = values.astype(np.int64)
    if (labels != values).any() or labels.min() < 0 or labels.max() > LARGEST_LABEL:
        raise AtlasError(
            f"The atlas {filename} holds values that are no labels; it needs whole numbers from 0 to "
            f"{LARGEST_LABEL}."
        )
    corners = apply_affine(affine, np.array([(0, 0, 0), labels.shape]) - [[0], [1]])
    if (
        abs(np.linalg.det(affine)) < 1e-6
        or not (corners.min(axis=0) < 0).all()
        or (np.abs(corners).max() > _MNI_EXTENT_MM or not (corners.max(axis=0) > 0).all())
    ):
        raise AtlasError(
            f"The atlas {filename} does not lie in MNI space: its corners are at "
            f"{corners[0].round().tolist()} and {corners[1].round().tolist()} mm; "
            "register it to the template."
        )
    return labels, affine
