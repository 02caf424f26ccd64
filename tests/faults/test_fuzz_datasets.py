"""Damaged datasets, synthetic and real, through header reading and study assembly: each is read or set aside, and none stops the rest.

DICOMNODE_FUZZ_INPUTS=20000 python -m pytest -m faults tests/faults/test_fuzz_datasets.py -s     # the long form
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from dicomnode.errors import UnreadableInstance
from dicomnode.records import IndexedInstance, InstanceHeader
from dicomnode.settings.config import parse_config
from dicomnode.simulator.author import write_series
from dicomnode.study.assembly import assemble, readiness
from dicomnode.study.headers import is_answerable, read_header
from dicomnode.study.selection import select_series
from tests.factories.head import head_series
from tests.factories.mutate import mutate

pytestmark = [pytest.mark.slow, pytest.mark.faults]

SEED = 20261126
INPUTS = int(os.environ.get("DICOMNODE_FUZZ_INPUTS", "400"))
PER_STUDY = 25
# Damage beyond the header changes nothing that is read here.
HEADER_BYTES = 12_000
LONGEST_S = 20.0


def samples(folder: Path, real: Path) -> list[bytes]:
    """Return whole files: a synthetic FLAIR, and, where they are, one of each real series."""
    files = write_series(head_series("flair", "fuzz"), folder)[:3]
    if real.is_dir():
        files += [
            sorted(path for path in series.rglob("*") if path.is_file() and path.suffix in ("", ".dcm"))[0]
            for series in _series(real)
        ]
    return [file.read_bytes() for file in files]


def _series(real: Path) -> list[Path]:
    return [
        path
        for path in sorted(real.iterdir())
        if path.is_dir() and any(one.suffix == ".dcm" for one in path.rglob("*"))
    ]


@pytest.mark.timeout(3600)
def test_damaged_datasets(tmp_path: Path, repo_root: Path) -> None:
    chance = random.Random(SEED)
    whole = samples(tmp_path / "series", repo_root.parent / "shared" / "data")
    config = parse_config({})
    seen: Counter[str] = Counter()
    study: list[InstanceHeader] = []
    longest_s = 0.0
    path = tmp_path / "damaged.dcm"
    for number in range(INPUTS):
        data = chance.choice(whole)
        path.write_bytes(mutate(data[:HEADER_BYTES], chance) + data[HEADER_BYTES:])
        began = time.monotonic()
        try:
            study.append(read_header(path))
            seen["read"] += 1
        except UnreadableInstance as problem:
            seen[f"set aside: {str(problem).partition(':')[0]}"] += 1
        if len(study) >= PER_STUDY or number == INPUTS - 1:
            _judge(study, config)
            study = []
        longest_s = max(longest_s, time.monotonic() - began)

    sys.stdout.write(
        f"\nseed {SEED}: {INPUTS} damaged datasets of {len(whole)} files, 0 crashes, longest {longest_s:.2f} s: {dict(seen)}"
    )
    assert sum(seen.values()) == INPUTS
    assert seen["read"] > INPUTS / 20
    assert longest_s < LONGEST_S


def _judge(headers: list[InstanceHeader], config: object) -> None:
    """Take whatever headers came out for one study, and do what the node does with it."""
    settings = parse_config({}) if config is None else config
    instances = [
        IndexedInstance(f"{number}.dcm", float(number), header) for number, header in enumerate(headers)
    ]
    study = assemble(headers[0].StudyInstanceUID if headers else "1.2.3", instances)
    readiness(study, settings.selection, settings.study, 0.0, 1000.0)  # type: ignore[attr-defined]
    select_series(study, settings.selection)  # type: ignore[attr-defined]
    assert all(isinstance(is_answerable(header), bool) for header in headers)
