"""Which results a destination gets, and in which form, given what it accepts. Pure: settings and an offer in, settings and sentences out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydicom.uid import UID, ImplicitVRLittleEndian

from dicomnode.network.result_classes import PICTURE_CLASSES, REPORT_CLASSES, classes_of
from dicomnode.records import Offer
from dicomnode.settings.config import DestinationSettings, ResultForm, ResultKind

# What goes in the stead of a result that is not accepted, the best first: who cannot read outlines can see pictures, who cannot read a report a page.
_INSTEAD: Mapping[ResultKind, tuple[ResultKind, ...]] = {"seg": ("pictures", "pdf"), "sr": ("pdf", "pictures")}
_WORDS: Mapping[ResultKind, str] = {"seg": "the outlines", "sr": "the report"}

_Form = TypeVar("_Form", bound=str)


@dataclass(frozen=True)
class Adapted:
    """A destination with nothing left to choose. `remarks` are sentences on what differs from the usual; `refused` goes there in vain."""

    destination: DestinationSettings
    remarks: tuple[str, ...] = ()
    refused: tuple[ResultKind, ...] = ()


def adapt(destination: DestinationSettings, offer: Offer | None) -> Adapted:
    """Choose what the settings leave open ("auto") from what the destination accepts; what they name stays.

    Parameters
    ----------
    destination
        As configured.
    offer
        What it accepts; None when that is not known, and then the usual is chosen.
    """
    if offer is None:
        unknown = () if destination.url else ("what it accepts is not known yet, so it gets the usual objects",)
        return Adapted(_settled(destination, destination.form), unknown)
    form = _choose_classes(destination, offer.accepted)
    stand_ins = {part: _stand_in(part, form, offer.accepted) for part in _usual(destination) if not _accepts(offer.accepted, part, form)}
    named = tuple(part for choice in destination.objects for part in (form.objects if choice == "auto" else (choice,)))
    objects = tuple(dict.fromkeys(stand_ins.get(part) or part if part in _usual(destination) else part for part in named))
    settled = ResultForm(objects, form.segmentation, form.report, form.pictures)
    refused = tuple(part for part in objects if not _accepts(offer.accepted, part, settled))
    return Adapted(_settled(destination, settled), tuple(_remarks(destination, settled, offer, stand_ins, refused)), refused)


def _usual(destination: DestinationSettings) -> tuple[ResultKind, ...]:
    """Return the parts that may be stood in for: those that "auto" brings and that are not named besides."""
    return tuple(part for part in ResultForm.objects if part not in destination.objects) if "auto" in destination.objects else ()


def _choose_classes(destination: DestinationSettings, accepted: Collection[str]) -> ResultForm:
    report = _first(REPORT_CLASSES, accepted) if destination.report == "auto" else destination.report
    pictures = _first(PICTURE_CLASSES, accepted) if destination.pictures == "auto" else destination.pictures
    return ResultForm(ResultForm.objects, destination.segmentation, report or ResultForm.report, pictures or ResultForm.pictures)


def _first(classes: Mapping[_Form, str], accepted: Collection[str]) -> _Form | None:
    return next((name for name, uid in classes.items() if uid in accepted), None)


def _class_of(part: ResultKind, form: ResultForm) -> str:
    return classes_of(ResultForm((part,), form.segmentation, form.report, form.pictures))[part]


def _accepts(accepted: Collection[str], part: ResultKind, form: ResultForm) -> bool:
    return _class_of(part, form) in accepted


def _stand_in(part: ResultKind, form: ResultForm, accepted: Collection[str]) -> ResultKind | None:
    return next((other for other in _INSTEAD[part] if _accepts(accepted, other, form)), None)


def _settled(destination: DestinationSettings, form: ResultForm) -> DestinationSettings:
    return destination.model_copy(update={"objects": form.objects, "report": form.report, "pictures": form.pictures})


def _remarks(
    destination: DestinationSettings,
    form: ResultForm,
    offer: Offer,
    stand_ins: Mapping[ResultKind, ResultKind | None],
    refused: Collection[ResultKind],
) -> Iterator[str]:
    for part, other in stand_ins.items():
        if other is not None:
            yield f"it does not accept {_names(part, form, destination)}: {_name(_class_of(other, form))} goes there instead of {_WORDS[part]}"
    if "sr" in form.objects and destination.report == "auto" and form.report != ResultForm.report:
        yield f"it does not accept {_name(REPORT_CLASSES[ResultForm.report])}: the report goes there as {_name(REPORT_CLASSES[form.report])}"
    for part in refused:
        yield (
            f"it does not accept {_names(part, form, destination)}, nor what could go there instead"
            if part in stand_ins
            else (f"it does not accept {_name(_class_of(part, form))}, which the configuration names")
        )
    if offer.accepted and all(syntaxes == (str(ImplicitVRLittleEndian),) for syntaxes in offer.accepted.values()):
        yield "it accepts Implicit VR Little Endian only, so objects are sent in that"


def _names(part: ResultKind, form: ResultForm, destination: DestinationSettings) -> str:
    if part == "sr" and destination.report == "auto":
        *others, last = (_name(uid) for uid in REPORT_CLASSES.values())
        return f"{', '.join(others)} or {last}"
    return _name(_class_of(part, form))


def _name(uid: str) -> str:
    return UID(uid).name
