"""Frozen records that cross the node's rooms. Attributes that are DICOM elements carry their keyword.

Times are seconds since the epoch (float, UTC). Paths stored in the ledger are relative to the spool root
(POSIX text).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from dicomnode.states import DeliveryState, JobState, Outcome
from pipeline.records import Finding as Finding  # noqa: PLC0414  rooms of the node import it from here
from pipeline.records import Grade as Grade  # noqa: PLC0414  rooms of the node import it from here
from pipeline.records import Role as Role  # noqa: PLC0414  rooms of the node import it from here

AddOutcome = Literal["new", "duplicate", "conflict"]


class Arrival(TypedDict):
    """What comes with a dataset: the UIDs of its request, who sent it to whom, and when.

    `now` is in seconds since the epoch.
    """

    SOPClassUID: str
    SOPInstanceUID: str
    TransferSyntaxUID: str
    calling_ae: str
    peer_host: str
    now: float
    called_ae: NotRequired[str]


@dataclass(frozen=True)
class ReceivedInstance:
    """One C-STORE that is safe on disk: what the request and the association said, nothing decoded.

    `path` is relative to the spool root; `sha256` is over the dataset bytes as received (without file meta).
    """

    SOPInstanceUID: str
    SOPClassUID: str
    TransferSyntaxUID: str
    path: str
    sha256: str
    size_bytes: int
    calling_ae: str
    peer_host: str
    received_at: float
    called_ae: str = ""


@dataclass(frozen=True)
class InstanceHeader:
    """What study assembly and selection need of one instance; no patient data.

    Absent elements are None or empty.

    `identity_mark` differs where two instances of a study carry another patient or order; it does not say
    whom.

    Geometry is per frame: classic instances have one entry. `ImageOrientationPatient` has 6,
    `ImagePositionPatient` 3 numbers (mm, LPS).
    """

    SOPInstanceUID: str
    SOPClassUID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    Modality: str = ""
    FrameOfReferenceUID: str = ""
    Rows: int = 0
    Columns: int = 0
    NumberOfFrames: int = 1
    PixelSpacing: tuple[float, ...] = ()
    SliceThickness: float | None = None
    SpacingBetweenSlices: float | None = None
    orientations: tuple[tuple[float, ...], ...] = ()
    positions: tuple[tuple[float, ...], ...] = ()
    InstanceNumber: int | None = None
    AcquisitionNumber: int | None = None
    TemporalPositionIdentifier: int | None = None
    EchoTime: float | None = None
    RepetitionTime: float | None = None
    InversionTime: float | None = None
    FlipAngle: float | None = None
    ScanningSequence: tuple[str, ...] = ()
    SequenceVariant: tuple[str, ...] = ()
    SequenceName: str = ""
    MRAcquisitionType: str = ""
    AcquisitionContrast: str = ""
    ContrastBolusAgent: bool = False
    ImageType: tuple[str, ...] = ()
    SeriesDescription: str = ""
    ProtocolName: str = ""
    BodyPartExamined: str = ""
    SeriesNumber: int | None = None
    MagneticFieldStrength: float | None = None
    ImagesInAcquisition: int | None = None
    NumberOfSeriesRelatedInstances: int | None = None
    NumberOfTemporalPositions: int | None = None
    PhotometricInterpretation: str = ""
    LossyImageCompression: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    identity_mark: str = ""


@dataclass(frozen=True)
class IndexedInstance:
    """A stored instance together with its header.

    `path` is relative to the spool root (or absolute, offline).
    """

    path: str
    received_at: float
    header: InstanceHeader
    TransferSyntaxUID: str = ""
    calling_ae: str = ""
    called_ae: str = ""


@dataclass(frozen=True)
class HeaderReading:
    """The header of a listed instance, and whether a study that is answered begins anew because of it.

    One that `may_matter` not (it can fill no role) re-opens only where it carries another patient or order.
    """

    instance_id: int
    header: InstanceHeader
    reopens: bool = True
    may_matter: bool = True


@dataclass(frozen=True)
class EarlierStudy:
    """An earlier study of the same patient.

    Its images, and the file of the segmentation that the node made of it.
    """

    StudyInstanceUID: str
    instances: tuple[IndexedInstance, ...]
    segmentation: Path


@dataclass(frozen=True)
class SetAside:
    """A stored instance that cannot be used but says which study it is of.

    `reason` is a code, a colon and a sentence.
    """

    path: str
    received_at: float
    reason: str


@dataclass(frozen=True)
class Series:
    """The instances of one series, or of one stack of slices where those two are not the same.

    They stand in the order in which they came.

    Attributes
    ----------
    SeriesInstanceUID
        Of a stack that is spread over several series, that of the first.
    stack_number
        From 1 where a series holds several stacks; 0 where it is one.
    joined
        Every Series Instance UID of a stack that is spread over several series; empty where it is one.
    findings
        What the reader should know of how the stack was split off or put together.
    """

    SeriesInstanceUID: str
    instances: tuple[IndexedInstance, ...]
    stack_number: int = 0
    joined: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def key(self) -> str:
        """What this stack is called among those of its study.

        The UID, and the stack's number where the series holds several.
        """
        return (
            f"{self.SeriesInstanceUID}/{self.stack_number}" if self.stack_number else self.SeriesInstanceUID
        )


@dataclass(frozen=True)
class Study:
    """The series of one study, by Series Number and UID."""

    StudyInstanceUID: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class AssociationNews:
    """An association that has stored something: it is open, or (with `ended_at`) how it ended."""

    association_id: str
    calling_ae: str
    peer_host: str
    opened_at: float
    ended_at: float | None = None
    is_released: bool = False


@dataclass(frozen=True)
class SenderHabits:
    """What the senders of a study let one conclude.

    Attributes
    ----------
    is_sending
        One of them has an association open that has stored something.
    has_released
        All of their associations have ended, the newest of each by release (PS3.8 7.2). False where that is
        not known.
    pause_while_open_s
        The longest pause of late within one association, in seconds; this one and all that follow are between
        two images of one study, and 0 where none was noticed.
    pause_within_series_s, pause_between_series_s
        The longest pause of late between two associations, within a series or before another one.
    too_late_for_one_s, too_late_for_both_s
        The longest pause of late after which images came to a study whose answer had not waited for them,
        because of one of T1 and FLAIR, or of both.
    studies_with_one
        How many studies of theirs were answered of late from T1 or FLAIR alone, at most three are counted;
        the smallest number, where there are several senders.
    has_sent_both
        A study of theirs was answered of late from T1 and FLAIR.
    """

    is_sending: bool = False
    has_released: bool = False
    pause_while_open_s: float = 0.0
    pause_within_series_s: float = 0.0
    pause_between_series_s: float = 0.0
    too_late_for_one_s: float = 0.0
    too_late_for_both_s: float = 0.0
    studies_with_one: int = 0
    has_sent_both: bool = False


@dataclass(frozen=True)
class Readiness:
    """Whether a study may be processed now, and the reason that is stored and shown.

    `due_at` is when the quiet timer will decide if nothing else does (None when ready). `may_begin` says that
    the study looks whole, so its answer may be computed while the wait still runs; `begin_at` is when it will
    do so long enough, if nothing comes.
    """

    ready: bool
    reason: str
    due_at: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    may_begin: bool = False
    begin_at: float | None = None


@dataclass(frozen=True)
class SourceFrame:
    """Where one slice of a volume came from. `frame_number` counts from 1; 1 for classic instances."""

    path: Path
    SOPInstanceUID: str
    frame_number: int


@dataclass(frozen=True)
class SourceSeries:
    """A role's series on disk: `frames[k]` is slice k (axis 0) of the volume that was made of it."""

    role: Role
    SeriesInstanceUID: str
    frames: tuple[SourceFrame, ...]
    description: str = ""


@dataclass(frozen=True)
class Job:
    """One try to answer one study at one revision of its content."""

    id: int
    StudyInstanceUID: str
    revision: int
    state: JobState
    attempts: int
    reason: str
    created_at: float
    updated_at: float
    outcome: Outcome | None = None
    lease_until: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultFile:
    """One finished result object, frozen on disk: the same bytes are sent however often it is sent.

    `path` is relative to the spool root. `kind` is "seg", "sr", ... ; "montage" (PNG) is kept but not
    delivered.
    """

    kind: str
    path: str
    sha256: str
    SOPInstanceUID: str
    SOPClassUID: str
    SeriesInstanceUID: str


@dataclass(frozen=True)
class Conclusion:
    """How a job ends well.

    The outcome with its sentence, the results, and which kinds of result go to which destination.

    `detail` is added to the job's own and shown; it holds JSON types and records.
    """

    outcome: Outcome
    reason: str
    results: Sequence[ResultFile]
    destinations: Mapping[str, Sequence[str]]
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivery:
    """One result on its way to one destination."""

    id: int
    job_id: int
    StudyInstanceUID: str
    destination: str
    result: ResultFile
    state: DeliveryState
    attempts: int
    next_attempt_at: float
    last_status: str = ""
    first_failed_at: float | None = None


@dataclass(frozen=True)
class Offer:
    """What a destination said that it accepts.

    SOP Class UID -> transfer syntaxes, of the results that we know to make.
    """

    accepted: Mapping[str, tuple[str, ...]]
    learned_at: float


@dataclass(frozen=True)
class SOPReference:
    """A SOP class and instance, as storage commitment names them."""

    SOPClassUID: str
    SOPInstanceUID: str


@dataclass(frozen=True)
class CommitmentReport:
    """What an N-EVENT-REPORT says (PS3.4 J.3.3).

    Instances that are safe, and Failure Reason per instance that is not.
    """

    TransactionUID: str
    committed: tuple[SOPReference, ...]
    failed: tuple[tuple[SOPReference, int], ...] = ()


@dataclass(frozen=True)
class CommitmentRequest:
    """A peer's N-ACTION (PS3.4 J.3.2) that we owe an answer."""

    id: int
    calling_ae: str
    peer_host: str
    TransactionUID: str
    references: tuple[SOPReference, ...]
    asked_at: float
    attempts: int


@dataclass(frozen=True)
class Unconfirmed:
    """A delivery that was sent and is to be asked after.

    `tries` counts how often it was asked after since it was sent, `resends` how often it was sent because the
    peer did not have it. `verdict` is what a storage commitment report said: None when nothing (yet), 0 when
    it is safe, else the Failure Reason.
    """

    delivery: Delivery
    sent_at: float
    tries: int
    resends: int
    TransactionUID: str | None = None
    verdict: int | None = None


@dataclass(frozen=True)
class SendOutcome:
    """What became of one C-STORE.

    "ok", "transient" (try again) or "permanent" (stop and show), with the reason.

    `not_accepted` says that the peer takes no such SOP class in any transfer syntax that we have.
    """

    verdict: Literal["ok", "transient", "permanent"]
    reason: str
    status: int | None = None
    not_accepted: bool = False

    @property
    def refuses_class(self) -> bool:
        """Return whether the peer took the presentation context and then refused the SOP class.

        The refusal is the status of PS3.7 C.5.18.
        """
        return self.status == 0x0122

    @property
    def is_coerced(self) -> bool:
        """Return whether it is stored and the peer changed elements of it (PS3.4 B.2.3).

        One of them may be the study that it belongs to.
        """
        return self.verdict == "ok" and self.status == 0xB000
