"""Which results are made and how each is encoded: the words of [[destinations]], and what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ResultKind = Literal["seg", "seg-t1", "probability", "pictures", "pdf", "sr", "ko", "summary"]
SegmentationForm = Literal["binary", "pseudo-fractional", "auto", "labelmap"]
ReportForm = Literal["comprehensive-3d", "comprehensive", "enhanced"]
PictureForm = Literal["multi-frame", "single-frame"]
# What the node chooses by itself, from what a destination accepts (`dicomnode.delivery.adapt`).
ObjectChoice = Literal["auto", ResultKind]
ReportChoice = Literal["auto", ReportForm]
PictureChoice = Literal["auto", PictureForm]


@dataclass(frozen=True)
class ResultForm:
    """Which results are made, and how each is encoded.

    The settings of [[destinations]] say what the words mean.
    """

    objects: tuple[ResultKind, ...] = ("seg", "sr")
    segmentation: SegmentationForm = "binary"
    report: ReportForm = "comprehensive-3d"
    pictures: PictureForm = "multi-frame"

    def kind_of(self, object_kind: ResultKind) -> str:
        """Return the name of a result in this form; two results of one name are the same object.

        >>> ResultForm(report="enhanced", segmentation="auto").kind_of("sr")
        'sr.enhanced.auto'
        """
        forms: dict[ResultKind, tuple[str, ...]] = {
            "seg": (self.segmentation,),
            "seg-t1": (self.segmentation,),
            # Reports and key objects point to the segmentation that goes to the same place.
            "sr": (self.report, self.segmentation),
            "ko": (self.segmentation,),
            "summary": (self.report, self.segmentation),
            "pictures": (self.pictures,),
        }
        plain = (ResultForm.segmentation, ResultForm.report, ResultForm.pictures)
        return ".".join([object_kind, *(form for form in forms.get(object_kind, ()) if form not in plain)])

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the results that are wanted."""
        return tuple(self.kind_of(object_kind) for object_kind in self.objects)


PLAIN_FORM = ResultForm()
