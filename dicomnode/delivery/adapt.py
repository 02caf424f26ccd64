"""Which results a destination gets, and in which form, given what it accepts.

Pure: settings and an offer in, settings and sentences out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydicom.uid import UID, ImplicitVRLittleEndian

from dicomnode.network.result_classes import PICTURE_CLASSES, REPORT_CLASSES, classes_of
from dicomnode.records import Offer
from dicomnode.settings.config import DestinationSettings, ResultForm, ResultKind

# What goes in the stead of a result that is not accepted, the best first: who cannot read outlines can see
# pictures, who cannot read a report a page.
_INSTEAD: Mapping[ResultKind, tuple[ResultKind, ...]] = {
    "seg": ("pictures", "pdf"),
    "sr": ("pdf", "pictures"),
}
_WORDS: Mapping[ResultKind, str] = {"seg": "the outlines", "sr": "the report"}

_Form = TypeVar("_Form", bound=str)


@dataclass(frozen=True)
class Adapted:
    """A destination with nothing left to choose.

    `remarks` are sentences on what differs from the usual; `refused` goes there in vain.
    """

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
        unknown = (
            () if destination.url else ("what it accepts is not known yet, so it gets the usual objects",)
        )
        return Adapted(_settled(destination, destination.form), unknown)
    form = _choose_classes(destination, offer.accepted)
    stand_ins = {
        object_kind: _stand_in(object_kind, form, offer.accepted)
        for object_kind in _usual(destination)
        if not _accepts(offer.accepted, object_kind, form)
    }
    named = tuple(
        object_kind
        for choice in destination.objects
        for object_kind in (form.objects if choice == "auto" else (choice,))
    )
    objects = tuple(
        dict.fromkeys(
            stand_ins.get(object_kind) or object_kind if object_kind in _usual(destination) else object_kind
            for object_kind in named
        )
    )
    settled = ResultForm(objects, form.segmentation, form.report, form.pictures)
    refused = tuple(
        object_kind for object_kind in objects if not _accepts(offer.accepted, object_kind, settled)
    )
    return Adapted(
        _settled(destination, settled),
        tuple(_remarks(destination, settled, offer, stand_ins, refused)),
        refused,
    )


def _usual(destination: DestinationSettings) -> tuple[ResultKind, ...]:
    """Return the parts that may be stood in for: those that "auto" brings and that are not named besides."""
    return (
        tuple(object_kind for object_kind in ResultForm.objects if object_kind not in destination.objects)
        if "auto" in destination.objects
        else ()
    )


def _choose_classes(destination: DestinationSettings, accepted: Collection[str]) -> ResultForm:
    report = _first(REPORT_CLASSES, accepted) if destination.report == "auto" else destination.report
    pictures = _first(PICTURE_CLASSES, accepted) if destination.pictures == "auto" else destination.pictures
    return ResultForm(
        ResultForm.objects,
        destination.segmentation,
        report or ResultForm.report,
        pictures or ResultForm.pictures,
    )


def _first(classes: Mapping[_Form, str], accepted: Collection[str]) -> _Form | None:
    return next((name for name, uid in classes.items() if uid in accepted), None)


def _class_of(object_kind: ResultKind, form: ResultForm) -> str:
    return classes_of(ResultForm((object_kind,), form.segmentation, form.report, form.pictures))[object_kind]


def _accepts(accepted: Collection[str], object_kind: ResultKind, form: ResultForm) -> bool:
    return _class_of(object_kind, form) in accepted


def _stand_in(object_kind: ResultKind, form: ResultForm, accepted: Collection[str]) -> ResultKind | None:
    return next(
        (substitute for substitute in _INSTEAD[object_kind] if _accepts(accepted, substitute, form)), None
    )


def _settled(destination: DestinationSettings, form: ResultForm) -> DestinationSettings:
    return destination.model_copy(
        update={"objects": form.objects, "report": form.report, "pictures": form.pictures}
    )


def _remarks(
    destination: DestinationSettings,
    form: ResultForm,
    offer: Offer,
    stand_ins: Mapping[ResultKind, ResultKind | None],
    refused: Collection[ResultKind],
) -> Iterator[str]:
    for object_kind, substitute in stand_ins.items():
        if substitute is not None:
            yield (
                f"it does not accept {_names(object_kind, form, destination)}: "
                f"{_name(_class_of(substitute, form))} goes there instead of {_WORDS[object_kind]}"
            )
    if "sr" in form.objects and destination.report == "auto" and form.report != ResultForm.report:
        yield (
            f"it does not accept {_name(REPORT_CLASSES[ResultForm.report])}: the report goes "
            f"there as {_name(REPORT_CLASSES[form.report])}"
        )
    for object_kind in refused:
        yield (
            f"it does not accept {_names(object_kind, form, destination)}, nor what could go there instead"
            if object_kind in stand_ins
            else (f"it does not accept {_name(_class_of(object_kind, form))}, which the configuration names")
        )
    if offer.accepted and all(
        syntaxes == (str(ImplicitVRLittleEndian),) for syntaxes in offer.accepted.values()
    ):
        yield "it accepts Implicit VR Little Endian only, so objects are sent in that"


def _names(object_kind: ResultKind, form: ResultForm, destination: DestinationSettings) -> str:
    if object_kind == "sr" and destination.report == "auto":
        *report_names, last = (_name(uid) for uid in REPORT_CLASSES.values())
        return f"{', '.join(report_names)} or {last}"
    return _name(_class_of(object_kind, form))


def _name(uid: str) -> str:
    return UID(uid).name
