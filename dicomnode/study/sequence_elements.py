"""The elements that say which sequence made an image, classic or enhanced.

As JSON values for `InstanceHeader.extra`.

Enhanced objects carry them in the MR Pulse Sequence Module (PS3.3 C.8.13.4) and in the functional groups MR
Modifier, MR Timing and Related Parameters and Contrast/Bolus Usage (PS3.3 C.8.13.5, C.7.6.16); classic ones
in C.8.3.1 and C.7.6.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydicom.dataset import Dataset

from dicomnode.study.elements import read_items, read_number, read_numbers, read_private_text, read_text
from dicomnode.study.words import denies_agent

AgentAttribute = Literal["given", "none", ""]

_PULSE_ELEMENTS = (
    "SteadyStatePulseSequence",
    "PhaseContrast",
    "SaturationRecovery",
    "MultipleSpinEcho",
    "SpectrallySelectedSuppression",
)
_MODIFIER_ELEMENTS = (
    "InversionRecovery",
    "MagnetizationTransfer",
    "FlowCompensation",
    "Spoiling",
    "T2Preparation",
    "SpatialPresaturation",
    "BloodSignalNulling",
)
# What a person types who does not know.
_UNSURE = frozenset({"unknown", "?", "n/k", "unk", "other"})


def read_sequence_elements(dataset: Dataset) -> dict[str, Any]:
    """Return what an instance says about its sequence and its contrast agent.

    Absent elements are left out.
    """
    modifier, timing = (
        _group(dataset, "MRModifierSequence"),
        _group(dataset, "MRTimingAndRelatedParametersSequence"),
    )
    values: dict[str, Any] = {
        "Manufacturer": read_text(dataset, "Manufacturer").upper(),
        "ManufacturerModelName": read_text(dataset, "ManufacturerModelName"),
        "PulseSequenceName": read_text(dataset, "PulseSequenceName")
        or read_private_text(dataset, 0x0019, "GEMS_ACQU_01", 0x9C),
        "SeriesDateTime": read_text(dataset, "SeriesDate") + read_text(dataset, "SeriesTime"),
        "ContrastBolus": read_agent_attribute(dataset),
        "InversionTimes": list(
            read_numbers(modifier, "InversionTimes") or read_numbers(dataset, "InversionTime")
        ),
        "RFEchoTrainLength": read_number(timing, "RFEchoTrainLength"),
        "VolumetricProperties": read_text(dataset, "VolumetricProperties").upper(),
        **{keyword: read_text(dataset, keyword).upper() for keyword in _PULSE_ELEMENTS},
        **{keyword: read_text(modifier, keyword).upper() for keyword in _MODIFIER_ELEMENTS},
    }
    if len(values["InversionTimes"]) < 2:
        del values["InversionTimes"]
    return {keyword: value for keyword, value in values.items() if value not in (None, "", [])}


def read_agent_attribute(dataset: Dataset) -> AgentAttribute:
    """Return whether the attributes say that a contrast agent was given (PS3.3 C.7.6.4, C.7.6.4b).

    The result is None where they say nothing.
    """
    agent = read_text(dataset, "ContrastBolusAgent")
    usages = [read_text(item, "ContrastBolusAgentAdministered").upper() for item in _usages(dataset)]
    if usages and all(usage == "NO" for usage in usages):
        return "none"
    if agent and agent.lower() not in _UNSURE:
        return "none" if denies_agent(agent) else "given"
    if "YES" in usages or read_items(dataset, "ContrastBolusAgentSequence"):
        return "given"
    # A volume or an injection time without a name is an agent too; scanners write 0 where nothing was
    # injected.
    injected = (read_number(dataset, "ContrastBolusVolume") or 0) > 0 or (
        read_number(dataset, "ContrastBolusTotalDose") or 0
    ) > 0
    return "given" if injected or read_text(dataset, "ContrastBolusStartTime") else ""


def _usages(dataset: Dataset) -> Iterator[Dataset]:
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for item in read_items(dataset, sequence):
            yield from read_items(item, "ContrastBolusUsageSequence")


def _group(dataset: Dataset, keyword: str) -> Dataset:
    """Return the item of a functional group.

    The first frame's own, else the shared one, else the instance itself.
    """
    for sequence in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for holder in read_items(dataset, sequence)[:1]:
            if items := read_items(holder, keyword):
                return items[0]
    return dataset
