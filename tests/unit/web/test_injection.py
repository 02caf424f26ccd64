"""Whatever a header, a peer or a user's file says is text on every page: a mark for every field, and a look at every template."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset

from dicomnode.audit.trail import FILE
from dicomnode.records import Conclusion, InstanceHeader, ResultFile
from dicomnode.states import DeliveryState, Outcome
from dicomnode.web.pages import FOLDER
from dicomnode.web.patients import Person
from tests.factories.ledger import EXPLICIT_LITTLE, MR, SEG, STUDY, header, received
from tests.factories.pages import Pages

DETAIL: dict[str, Any] = {
    "code": "code",
    "lesions": [{"label": 1, "volume_ml": 2.5, "laterality": "side", "centroid_lps_mm": [1, 2, 3], "mean_probability": 0.5}],
    "findings": [{"code": "finding", "grade": "warning", "message": "message"}],
    "steps": [{"name": "step", "seconds": 1.0, "cached": False}],
    "models": [{"name": "model", "version": "version"}],
    "rules": [
        {"name": "rule", "matches": False, "sentence": "sentence"},
        {"name": "later", "matches": True, "sentence": "later sentence"},
    ],
    "rule": "other",
    "choice": [
        {
            "SeriesInstanceUID": f"{STUDY}.1",
            "use": "used",
            "role": "role",
            "plane": "plane",
            "spacing_mm": 1.0,
            "reason": "reason of the choice",
        }
    ],
}  # fmt: skip
# Fields that no page shows; whoever shows one takes it off this list. ProtocolName is shown where the series has no
# description, see test_security.
NOT_SHOWN = {
    "FrameOfReferenceUID",
    "SequenceName",
    "MRAcquisitionType",
    "AcquisitionContrast",
    "BodyPartExamined",
}
NOT_SHOWN |= {
    "PhotometricInterpretation",
    "LossyImageCompression",
    "identity_mark",
    "code",
    "finding",
    "ProtocolName",
}


def mark(field: str) -> str:
    """Return a text that is found in a page by its field, and that harms a page that takes it for markup."""
    return f'<u id="{field}">\'><img src=x onerror=alert(1)>{{{{7*7}}}}'


def marked(values: Any) -> Any:
    """Return values with every text marked, save keys, grades and UIDs."""
    if isinstance(values, dict):
        return {
            key: text if key in ("grade", "use", "SeriesInstanceUID") else marked(text)
            for key, text in values.items()
        }
    if isinstance(values, list):
        return [marked(item) for item in values]
    return mark(values) if isinstance(values, str) else values


@pytest.fixture
def evil(pages: Pages) -> Pages:
    """Pages with a study of which every text of header, answer, peer and delivery is marked."""
    ledger, root = pages.story.ledger, pages.site.layout.root
    instance = dataclasses.replace(
        received(1), calling_ae=mark("calling_ae"), peer_host=mark("peer_host"), called_ae=mark("called_ae")
    )
    ledger.instances.add(instance)
    ((instance_id, _),) = ledger.instances.unindexed(9)
    texts = {
        field.name: mark(field.name)
        for field in dataclasses.fields(InstanceHeader)
        if field.type == "str" and not re.search("UID$", field.name)
    }
    ledger.instances.record_header(instance_id, dataclasses.replace(header(1), **texts), 11.0)
    unreadable = received(2)
    ledger.instances.add(unreadable)
    ((other_id, _),) = ledger.instances.unindexed(9)
    ledger.instances.record_unreadable(other_id, mark("unreadable"), 12.0, StudyInstanceUID=STUDY)

    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = MR, "1.2"
    dataset.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE
    with pydicom.config.disable_value_validation():
        for field in dataclasses.fields(Person):
            setattr(dataset, field.name, mark(field.name))
    path = root / instance.path
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)

    ledger.jobs.mark_ready(ledger.jobs.waiting()[0].id, mark("evidence"), {"note": mark("note")}, 12.0)
    job = ledger.jobs.claim("work", 13.0, 60.0)
    assert job is not None
    file = ResultFile(mark("kind"), "results/x", "0" * 64, f"{STUDY}.77", SEG, f"{STUDY}.70")
    conclusion = Conclusion(
        Outcome.LESIONS, mark("conclusion"), (file,), {mark("destination"): (mark("kind"),)}, marked(DETAIL)
    )
    ledger.jobs.finish(job.id, "work", conclusion, 14.0)
    for delivery in ledger.deliveries.claim("work", 15.0, 60, 10):
        ledger.deliveries.record(delivery.id, DeliveryState.GIVEN_UP, mark("last_status"), 16.0)
    trail = pages.site.config.storage.root / "audit" / FILE
    trail.parent.mkdir(exist_ok=True)
    keys = ("at", "event", "user", "StudyInstanceUID", "detail")
    peer = {"ae_title": mark("peer.ae_title"), "host": mark("peer.host")}
    trail.write_text(json.dumps({key: mark(f"audit {key}") for key in keys} | {"peer": peer}) + "\n")
    upload = pages.site.uploads.create(mark("owner"))
    pages.site.uploads._write(dataclasses.replace(upload, state="failed", sentence=mark("upload sentence")))
    pages.log_in("anna")
    return pages


def test_every_text_that_a_page_shows_is_text_there(evil: Pages) -> None:
    upload = evil.site.uploads.all()[0].name
    page_texts = ""
    for path in (
        "/",
        f"/studies/{STUDY}",
        f"/studies/{STUDY}/orders/retry",
        f"/studies/{STUDY}/viewer",
        "/uploads",
        f"/uploads/{upload}",
        "/node",
        "/node/settings",
        "/audit",
        "/statistics",
    ):
        text = evil.client.get(path).text
        assert "<u id=" not in text, path
        assert "<img src=x" not in text, path
        assert "onerror=alert(1)>49" not in text, "no template in a header is run"
        page_texts += text

    fields = set(re.findall(r"id=&#34;([^&]+)&#34;", page_texts))
    header_fields = {
        field.name
        for field in dataclasses.fields(InstanceHeader)
        if field.type == "str" and "UID" not in field.name
    }
    person_fields = {field.name for field in dataclasses.fields(Person)}
    # The test sees what it is to see: all of these came to a page.
    assert person_fields <= fields
    assert header_fields - NOT_SHOWN <= fields
    assert {"reason of the choice", "message", "step", "model", "version", "sentence", "side"} <= fields
    assert {
        "conclusion",
        "kind",
        "destination",
        "last_status",
        "unreadable",
        "calling_ae",
        "peer_host",
    } <= fields
    assert {"audit detail", "peer.ae_title", "peer.host", "owner", "upload sentence"} <= fields
    assert not fields & NOT_SHOWN


def test_no_address_of_a_page_holds_what_a_header_says(evil: Pages) -> None:
    for path in ("/", f"/studies/{STUDY}"):
        text = evil.client.get(path).text
        addresses = re.findall(r'(?:href|src|action)="([^"]*)"', text)
        assert len(addresses) > 5
        assert [address for address in addresses if "onerror" in address or "%3Cu" in address] == []


TEMPLATES = sorted((FOLDER / "templates").glob("*.html"))
# What an attribute that leads somewhere may begin with: paths of ours, or an address of the configuration.
SAFE_BEGINNINGS = (
    "/",
    "{{ address }}",
    "{{ back }}",
    "{{ path }}",
    "{{ viewer_url }}",
    "{{ shown.slices }}",
    "#",
)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_no_template_leaves_a_gap(template: Path) -> None:
    text = template.read_text(encoding="utf-8")

    assert not re.search(r"\|\s*safe\b|autoescape|Markup", text)
    assert not re.search(r"\s[\w-]+=\{\{", text), "an attribute without quotes"
    assert not re.search(r"=\s*'[^']*\{\{", text.replace("{% set", "")), "an attribute in single quotes"
    assert not re.search(r"\son\w+\s*=|<style|style=|javascript:", text)
    for script in re.findall(r"<script.*?</script>", text, re.DOTALL):
        assert "{{" not in script
    for address in re.findall(r'(?:href|src|action)="([^"]*)"', text):
        assert address.startswith(SAFE_BEGINNINGS), address
