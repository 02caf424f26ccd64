"""Write docs/conformance.md from the tables of the code.

python scripts/conformance.py            print it
python scripts/conformance.py --write    write docs/conformance.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicomnode.network.commitment import LINGER_S
from dicomnode.network.contexts import COMMITMENT, MR_STORAGE, TRANSFER_SYNTAXES
from dicomnode.network.query import FIND
from dicomnode.network.result_classes import PICTURE_CLASSES, REPORT_CLASSES, classes_of
from dicomnode.network.retrieve import GET, MOVE
from dicomnode.network.status import ANSWERED, JUDGED, UNKNOWN
from dicomnode.settings.config import NetworkSettings, ResultForm, StorageSettings
from scripts.known_warnings import KNOWN_WARNINGS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conformance.md"
SETTINGS = (
    "require_called_ae",
    "accept_unknown_peers",
    "other_objects",
    "maximum_associations",
    "maximum_pdu_bytes",
    "acse_timeout_s",
    "dimse_timeout_s",
    "network_timeout_s",
)


def conformance_page() -> str:
    """Return the page."""
    sections = (
        _introduction(),
        _services(),
        _classes(),
        _syntaxes(),
        _policy(),
        _answers(),
        _judgements(),
        _results(),
        _limits(),
    )
    return "\n".join(section.strip("\n") + "\n" for section in sections)


def _introduction() -> str:
    return """# DICOM conformance statement

Drawn from the tables in `dicomnode/network` by `scripts/conformance.py`; a test fails when the two part. The
node is no medical device. It speaks DICOM Upper Layer over TCP/IP (PS3.8): plain, which is for a network that
you trust, or over TLS (`network.tls`, `destinations.tls`).

TLS follows the BCP 195 RFC 8996, 9325 profile (PS3.15 B.12): TLS 1.2 or 1.3, both ends show a certificate,
only the authorities of the configuration vouch for one, no upgrade of a plain connection. A caller is an AE
title, an address and a certificate, and all three have to fit.
"""


def _services() -> str:
    sent = "\n".join(f"| Storage | {_class_name(uid)} ({uid}) | SCU |" for uid in _sent_classes())
    return f"""## Services

| Service | SOP class | Role |
|---|---|---|
| Verification | {UID(Verification).name} ({Verification}) | SCP, SCU |
| Storage | what "Stored SOP classes" says | SCP |
{sent}
| Storage Commitment | {COMMITMENT.name} ({COMMITMENT}) | SCU, SCP |
| Query | {FIND.name} ({FIND}) | SCU |
| Retrieve | {GET.name} ({GET}) | SCU |
| Retrieve | {MOVE.name} ({MOVE}) | SCU |
| DICOMweb (PS3.18) | STOW-RS, QIDO-RS | user agent |

As SCU it proposes {UID(ExplicitVRLittleEndian).name} and {UID(ImplicitVRLittleEndian).name}, each in a
context of its own, over one association per batch. Objects go out as the bytes that lie on disk; only for a
peer that takes nothing but Implicit VR they are re-encoded. `dicomnode send` proposes each file's own
transfer syntax besides.

Storage commitment: a report is taken on the association of the request for {LINGER_S:g} s, later on one that
the archive opens to us (SCP role by role selection). Asked ourselves, we report on the association of the
request while it stays open, else on one to the `port` of the peer's entry in `[[peers]]`, and try for 72
hours; an instance is committed to when it is listed and its file is there in full length. Failure Reasons:
0x0112 (never received), 0x0119 (another SOP class), 0x0110 (the file is damaged). C-FIND is at IMAGE level,
at SERIES level where a peer has no IMAGE level; C-GET and C-MOVE are at SERIES level. C-GET proposes the MR
classes below. A STOW-RS request holds one instance.
"""


def _sent_classes() -> list[str]:
    """Return every class that a result can have, each once: the default's first."""
    forms = (
        ResultForm(),
        *(ResultForm(report=report) for report in REPORT_CLASSES),
        *(ResultForm(objects=("pictures", "pdf", "ko"), pictures=pictures) for pictures in PICTURE_CLASSES),
        ResultForm(segmentation="labelmap"),
    )
    return list(dict.fromkeys(uid for form in forms for uid in classes_of(form).values()))


def _class_name(uid: str) -> str:
    # pydicom 3.0 does not know the label map (Supplement 243); a UID without a name is its own name.
    return UID(uid).name if UID(uid).name != uid else "Label Map Segmentation Storage"


def _results() -> str:
    warnings = "\n".join(f"| {words} | {reason} |" for words, reason in KNOWN_WARNINGS.items())
    return f"""## Results

Which of these a destination gets is set for each (`destinations.objects`, `segmentation`, `report`,
`pictures`); the default is a binary SEG and a Comprehensive 3D SR (TID 1500), or what goes in their stead
where the destination does not accept them (docs/destinations.md): every `delivery.learn_s` it is asked by an
association that proposes all these classes, each in both transfer syntaxes, and sends nothing. Every object
is read back from its bytes and compared with what was found before it may leave; one that differs is not
sent, and the study is answered with a report that says so. UIDs are derived from the images, the networks and
the settings, so the same input gives the same objects. A report that follows later images names the report
that it replaces (Predecessor Documents).

What became of a lesion since an earlier study is a coded evaluation in its measurement group (Increase in
size, Decrease in size, No change of SNOMED CT; `new`, `gone`, `not-imaged` of our scheme 99DICOMNODE, since
PS3.16 has such codes for mammograms only), with the earlier volume beside it. A lesion that is not there
today stands in the group of all lesions, with its tracking UID and its volume below the code. The agreement
of a network's passes is a number of the lesion (`agreement`, 99DICOMNODE, percent). The certainty of a
lesion is Certainty of Finding (111012, DCM, percent): with the derivation Mean it is the network's mean
probability, with the method `calibrated` (99DICOMNODE) it is calibrated on lesions that experts outlined.
The algorithm's parameters name whom it was calibrated on, or say "not calibrated".

All results are UNVERIFIED and PRELIMINARY. Pictures bear no name in their pixels (Burned In Annotation NO);
the page bears it (YES).

### What they were tried with

| Program | What was seen |
|---|---|
| dciodvfy, dcentvfy (dicom3tools 2022-06-18) | every kind of result but the label map, which it does not \
know, of synthetic and real series and of headers with faults: no errors |
| dsrdump (dcmtk 3.6.7) | reports are dumped without complaint |
| dcmqi 1.5.7, which 3D Slicer and MITK read with | binary SEG: every voxel where it belongs; report: the \
volumes, what became of each lesion |
| OHIF 3.13.2 in Chromium, from Orthanc 1.10.1 with DICOMweb 1.7 | outlines lie on the lesion to two pixels \
of the screen: 256 columns axial (binary), 230 sagittal and 53 oblique (`segmentation = "auto"`); the \
report's lines and values are shown, no error on the console |
| pdftotext (poppler), pypdf | the page's words, names in fourteen character sets |

Not tried: dcm4che and its archive, Weasis, vendors' viewers. Known of OHIF 3.13.2: it draws a report's line
beside the lesion when pixels are not square (its own mapping seems to swap the two spacings; SEG is not
affected); it writes the values of two groups that share a line over each other; it refuses probabilities
(`probability`) and paints label maps in the wrong colours. Orthanc 1.10.1 with DICOMweb cannot serve frames
of binary SEGs whose columns are no multiple of 8: set `segmentation = "auto"` there.

### Warnings of dciodvfy that remain

| Warning | Why it is right |
|---|---|
{warnings}
"""


def _classes() -> str:
    rows = "\n".join(f"| {uid.name} | {uid} |" for uid in MR_STORAGE)
    return f"""## Stored SOP classes

| SOP class | UID |
|---|---|
{rows}

With `network.other_objects = "keep"` (the default) also every other storage class: the standard's, retired
ones, private and unknown ones. They are kept and not used. With `"refuse"` their presentation contexts are
rejected.
"""


def _syntaxes() -> str:
    rows = "\n".join(f"| {uid.name} | {uid} |" for uid in TRANSFER_SYNTAXES)
    return f"""## Transfer syntaxes accepted

All of these, for every stored class. Of several in one presentation context the first that the peer names is
taken. The dataset is stored as received; nothing is decoded, converted or coerced before it is acknowledged.
A private transfer syntax is not accepted.

| Transfer syntax | UID |
|---|---|
{rows}
"""


def _policy() -> str:
    fields = NetworkSettings.model_fields
    rows = "\n".join(
        f"| `network.{name}` | {_shown(fields[name].default)} | {fields[name].description} |"
        for name in SETTINGS
    )
    return f"""## Association policy

An association is rejected for good when the called AE title is not ours (source 1, reason 7) or the caller
may not call (source 1, reason 3: `[[peers]]` by AE title and address), and for the moment when too many are
open (source 3, reason 2). One operation at a time per association. Application context name, implementation
class UID and version name are pynetdicom's.

| Setting | Default | Meaning |
|---|---|---|
{rows}
"""


def _answers() -> str:
    rows = "\n".join(
        f"| 0x{row.status:04X} | {row.service} | {row.meaning} | {row.when} | {row.source} |"
        for row in ANSWERED
    )
    return f"""## Statuses that the node answers

| Status | Service | Meaning | When | Source |
|---|---|---|---|---|
{rows}

An instance whose SOP Instance UID is known with other bytes is kept beside the first, answered 0x0000 and
shown. Below `storage.minimum_free_mb` ({StorageSettings.model_fields["minimum_free_mb"].default} by default)
of free space 0xA700 is answered.
"""


def _judgements() -> str:
    rows = "\n".join(
        f"| {_range(row.first, row.last)} | {row.verdict} | {row.meaning} | {row.source} |" for row in JUDGED
    )
    return f"""## Statuses that the node is answered

"ok" is done; "transient" is tried again with growing pauses; "permanent" stops and is shown. An association
that is rejected permanently (PS3.8 Table 9-21) and a presentation context that is not accepted are permanent;
a transient rejection, an abort, a timeout and a peer that is not there are transient.

| Status | Verdict | Meaning | Source |
|---|---|---|---|
{rows}
| any other | {UNKNOWN.verdict} | {UNKNOWN.meaning} | |
"""


def _limits() -> str:
    return """## Not supported

User identity negotiation, asynchronous operations, extended negotiation, query/retrieve as SCP, storage
commitment pull model, WADO-RS, MPPS.

## What was tested against what

| Peer | What | Test |
|---|---|---|
| Orthanc 1.10.1 (Debian 12) | C-STORE both ways (its own auto-forward), storage commitment both ways, \
C-FIND, C-GET, C-MOVE | `tests/end_to_end/test_orthanc.py` |
| its DICOMweb plug-in 1.7 | STOW-RS, QIDO-RS; the source of OHIF | the same, \
`tests/end_to_end/test_ohif.py` |
| dcmtk 3.6.7 | `storescu`, `dcmsend` to us, `storescp` from us | `tests/end_to_end/test_dcmtk_peers.py` |
| pynetdicom, told to misbehave | refusals, Implicit VR only, out of resources, broken associations, \
objects not kept, late and missing reports | `tests/loopback`, `tests/end_to_end/test_bad_destinations.py` |

dcm4che and commercial archives were not available: nothing is claimed of them.
"""


def _range(first: int, last: int) -> str:
    return f"0x{first:04X}" if first == last else f"0x{first:04X} to 0x{last:04X}"


def _shown(value: object) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(conformance_page(), encoding="utf-8")
    else:
        print(conformance_page())
