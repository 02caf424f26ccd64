from __future__ import annotations

from pathlib import Path

from dicomnode.errors import OutOfResources, PeerError
from dicomnode.network.status import (
    ANSWERED,
    CANNOT_UNDERSTAND,
    DATASET_DOES_NOT_MATCH,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
)
from scripts import conformance


def test_the_page_is_what_the_tables_say(repo_root: Path) -> None:
    page = (repo_root / "docs" / "conformance.md").read_text(encoding="utf-8")

    assert page == conformance.conformance_page(), "run: python -m scripts.conformance --write"


def test_every_status_that_is_answered_is_in_the_table() -> None:
    told = {answer.status for answer in ANSWERED if answer.service == "C-STORE"}

    assert told == {
        SUCCESS,
        OUT_OF_RESOURCES,
        CANNOT_UNDERSTAND,
        PROCESSING_FAILURE,
        SOP_CLASS_NOT_SUPPORTED,
        DATASET_DOES_NOT_MATCH,
    }
    assert {PeerError.status, OutOfResources.status} <= told
