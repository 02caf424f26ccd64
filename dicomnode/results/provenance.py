"""Who made a result and of what.

Deterministic UIDs, the software and its networks as equipment, and the times.

Rules for this file:
1. The same study, input instances, networks, settings and software give the same UIDs, on any machine, at any
   time.
2. Nothing here reads a clock: every date comes from `AnswerContext.created_at`.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import DA, DT, TM

from dicomnode.results.records import AnswerContext
from dicomnode.results.words import codes
from dicomnode.results.words.sentences import clip_at_sentence, plain_ascii
from pipeline.records import ModelIdentity, PipelineResult, Plan

MANUFACTURER = "dicomnode project"
PRODUCT = "dicomnode-stroke"
IMPLEMENTATION_CLASS_UID = "2.25.123168463941683573751442645519736902694"
IMPLEMENTATION_VERSION_NAME = "DICOMNODE"


@dataclass(frozen=True)
class Provenance:
    """The UIDs and times of one answer."""

    digest: str
    created: datetime

    def uid(self, *uid_parts: object) -> UID:
        """Return the UID of one thing within this answer (PS3.5 B.2: 2.25 and a UUID as an integer)."""
        return derive_uid(self.digest, *uid_parts)

    @property
    def date(self) -> DA:
        """Day of creation."""
        return DA(self.created.date())

    @property
    def time(self) -> TM:
        """Time of creation."""
        return TM(self.created.time())

    @property
    def date_time(self) -> DT:
        """Moment of creation, with its offset from UTC."""
        return DT(self.created)


def derive_uid(*uid_parts: object) -> UID:
    """Return the UID of these parts: a name-based UUID (RFC 9562 version 5) over their JSON text.

    >>> derive_uid("a", 1) == derive_uid("a", 1), derive_uid("a", 1) == derive_uid("a1")
    (True, False)
    """
    text = json.dumps(["dicomnode", *map(str, uid_parts)])
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")


def plan_provenance(context: AnswerContext, result: PipelineResult | None, *facts: str) -> Provenance:
    """Settle the UIDs and times of one answer.

    Parameters
    ----------
    facts
        What tells answers of the same inputs apart when there is no result: reason code, sentence.
    """
    named = {
        "study": context.StudyInstanceUID,
        # With its role: a site's rule may turn the roles of two series round.
        "inputs": sorted(
            [source.role, frame.SOPInstanceUID] for source in context.sources for frame in source.frames
        ),
        "plan": None if result is None else result.plan.digest(),
        "software": context.software_version,
        "settings": context.settings.model_dump(mode="json"),
        "language": context.language,
        "facts": list(facts),
    }
    if context.identity_mark:
        named["patient"] = context.identity_mark
    if result is not None and result.follow_up is not None:
        named["earlier"] = result.follow_up.earlier
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    # The scanner's dates in the copied study attributes are local time, so ours are too.
    return Provenance(digest, datetime.fromtimestamp(context.created_at, tz=UTC).astimezone())


def device_uid(model: ModelIdentity) -> UID:
    """Return the Device UID of one build of a network: another build, another UID (IHE AIR 6.5.3.1)."""
    return derive_uid("device", model.name, model.version, model.sha256)


def describe_equipment(
    models: Sequence[ModelIdentity], software_version: str, provenance: Provenance
) -> list[hd.ContributingEquipment]:
    """Return one Contributing Equipment item per network.

    There is one item for the node where no network ran (PS3.3 C.12.1).
    """
    if not models:
        return [
            _equipment(
                PRODUCT,
                software_version,
                derive_uid("device", PRODUCT, software_version),
                "Checked the study.",
                provenance,
            )
        ]
    return [
        _equipment(model.name, model.version, device_uid(model), plain_ascii(model.statement), provenance)
        for model in models
    ]


@dataclass(frozen=True)
class Algorithm:
    """The lesion network and what it ran with, in the words that SEG, report, pages and sidecars share."""

    name: str
    version: str
    parameters: Mapping[str, str]


def describe_algorithm(plan: Plan) -> Algorithm:
    """Return what every result says of how the lesions were found; all texts are ASCII."""
    model, rule, calibration = plan.lesion.model, plan.rule, plan.calibration
    parameters = {"threshold": f"{rule.threshold:g}"}
    if rule.asks_for_peak:
        parameters["peak"] = f"{rule.peak:g}"
    parameters["minimum_volume_mm3"] = f"{rule.minimum_volume_mm3:g}"
    parameters["certainty"] = plain_ascii(
        f"calibrated on {calibration.origin}" if calibration else "not calibrated"
    )
    parameters |= {"sha256": model.sha256, "plan": plan.digest(), "statement": plain_ascii(model.statement)}
    return Algorithm(plain_ascii(model.name), plain_ascii(model.version), parameters)


def identify_algorithm(plan: Plan) -> hd.AlgorithmIdentificationSequence:
    """Return the Algorithm Identification macro of the lesion network (PS3.3 10.16)."""
    algorithm = describe_algorithm(plan)
    return hd.AlgorithmIdentificationSequence(
        name=clip_at_sentence(algorithm.name),
        family=codes.ARTIFICIAL_INTELLIGENCE,
        version=clip_at_sentence(algorithm.version),
        source=MANUFACTURER,
        parameters=dict(algorithm.parameters),
    )


def freeze_document(dataset: Dataset, provenance: Provenance) -> None:
    """Replace what highdicom takes from the clock and from chance, so that equal inputs give equal bytes."""
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = provenance.date, provenance.time
    for item in dataset.get("ContributingEquipmentSequence", []):
        if (
            "ContributionDateTime" in item
            and item.PurposeOfReferenceCodeSequence[0].CodeValue == codes.PROCESSING_EQUIPMENT.value
        ):
            item.ContributionDateTime = provenance.date_time
    organization = provenance.uid("dimensions")
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(keyword, []):
            item.DimensionOrganizationUID = organization
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def _equipment(
    model_name: str, version: str, uid: UID, description: str, provenance: Provenance
) -> hd.ContributingEquipment:
    item = hd.ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.PROCESSING_EQUIPMENT,
        manufacturer_model_name=clip_at_sentence(model_name),
        software_versions=clip_at_sentence(version),
        contribution_datetime=provenance.date_time,
        contribution_description=description,
    )
    item.DeviceUID = uid
    return item
