"""Which results a destination gets of what it accepts, and how that is said."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.delivery.adapt import adapt
from dicomnode.network.result_classes import LABEL_MAP_SEGMENTATION, RESULT_CLASSES
from dicomnode.records import Offer
from dicomnode.settings.config import DestinationSettings, parse_config

SEG, _, SR_3D, SR, SR_ENHANCED, MULTI, SINGLE, PDF, KO = RESULT_CLASSES
BOTH = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


def destination(**settings: Any) -> DestinationSettings:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    return parse_config({"destinations": [pacs | settings]}).destinations[0]


def without(*refused: str, syntaxes: tuple[str, ...] = BOTH) -> Offer:
    return Offer({uid: syntaxes for uid in RESULT_CLASSES if uid not in refused}, 10.0)


@pytest.mark.parametrize(
    ("refused", "kinds"),
    [
        ((), ("seg", "sr")),
        ((LABEL_MAP_SEGMENTATION, MULTI, KO), ("seg", "sr")),
        ((SEG,), ("pictures", "sr")),
        ((SEG, MULTI), ("pictures.single-frame", "sr")),
        ((SEG, MULTI, SINGLE), ("pdf", "sr")),
        ((SR_3D,), ("seg", "sr.comprehensive")),
        ((SR_3D, SR), ("seg", "sr.enhanced")),
        ((SR_3D, SR, SR_ENHANCED), ("seg", "pdf")),
        ((SR_3D, SR, SR_ENHANCED, PDF), ("seg", "pictures")),
        ((SEG, SR_3D, SR, SR_ENHANCED), ("pictures", "pdf")),
        ((SEG, SR_3D, SR, SR_ENHANCED, PDF), ("pictures",)),
        (RESULT_CLASSES, ("seg", "sr")),
    ],
)
def test_what_is_left_to_the_node_follows_what_is_accepted(
    refused: tuple[str, ...], kinds: tuple[str, ...]
) -> None:
    adapted = adapt(destination(), without(*refused))

    assert adapted.destination.form.kinds == kinds
    assert bool(adapted.remarks) == (kinds != ("seg", "sr") or refused == RESULT_CLASSES)
    assert adapted.refused == (("seg", "sr") if refused == RESULT_CLASSES else ())


def test_the_remarks_name_what_is_not_accepted_and_what_goes_there_instead() -> None:
    assert adapt(destination(), without(SEG, SR_3D)).remarks == (
        "it does not accept Segmentation Storage: Multi-frame True Color Secondary Capture Image Storage goes there instead of the outlines",
        "it does not accept Comprehensive 3D SR Storage: the report goes there as Comprehensive SR Storage",
    )
    [remark] = adapt(destination(), without(SR_3D, SR, SR_ENHANCED)).remarks
    assert remark.startswith(
        "it does not accept Comprehensive 3D SR Storage, Comprehensive SR Storage or Enhanced SR Storage: "
    )
    assert remark.endswith("Encapsulated PDF Storage goes there instead of the report")
    assert adapt(destination(), without(*RESULT_CLASSES)).remarks[0] == (
        "it does not accept Segmentation Storage, nor what could go there instead"
    )


def test_what_the_configuration_names_goes_there_accepted_or_not() -> None:
    named = adapt(destination(objects=["seg", "sr"], report="comprehensive-3d"), without(SEG, SR_3D))

    assert named.destination.form.kinds == ("seg", "sr")
    assert named.refused == ("seg", "sr")
    assert named.remarks == (
        "it does not accept Segmentation Storage, which the configuration names",
        "it does not accept Comprehensive 3D SR Storage, which the configuration names",
    )
    # A class that is left open is chosen all the same, and "auto" may stand beside what is named.
    assert adapt(destination(objects=["sr"]), without(SR_3D)).destination.form.kinds == ("sr.comprehensive",)
    assert adapt(destination(objects=["auto", "pdf"]), without(SEG)).destination.form.kinds == (
        "pictures",
        "sr",
        "pdf",
    )
    assert adapt(destination(pictures="single-frame"), without(SEG, SINGLE)).destination.form.kinds == (
        "pdf",
        "sr",
    )
    assert adapt(
        destination(segmentation="labelmap"), without(LABEL_MAP_SEGMENTATION)
    ).destination.form.objects == ("pictures", "sr")


def test_implicit_only_is_said_and_changes_nothing() -> None:
    adapted = adapt(destination(), without(syntaxes=(str(ImplicitVRLittleEndian),)))

    assert adapted.destination.form.kinds == ("seg", "sr")
    assert adapted.remarks == ("it accepts Implicit VR Little Endian only, so objects are sent in that",)


def test_one_that_was_not_heard_gets_the_usual() -> None:
    adapted = adapt(destination(), None)
    assert (adapted.destination.form.kinds, adapted.remarks) == (
        ("seg", "sr"),
        ("what it accepts is not known yet, so it gets the usual objects",),
    )
    web = parse_config(
        {"destinations": [{"name": "web", "url": "https://pacs.example/dicom-web"}]}
    ).destinations[0]
    assert adapt(web, None).remarks == ()


def test_nothing_is_left_to_choose_afterwards() -> None:
    settled = adapt(destination(), without(SEG, SR_3D, MULTI)).destination
    assert (settled.objects, settled.report, settled.pictures) == (
        ("pictures", "sr"),
        "comprehensive",
        "single-frame",
    )
    assert settled.form.kinds == ("pictures.single-frame", "sr.comprehensive")
