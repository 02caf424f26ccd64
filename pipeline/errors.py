"""The pipeline's errors. Each carries a reason code that the node copies into its report.

    CaseRefused                the case gets no segmentation; `code` names why
    `- PipelineError           the pipeline refuses it
       |- GeometryError           an affine, a grid or a frame of reference does not fit
       |- ImageError              the voxels cannot be used (NaN, zero range, empty, wrong shape)
       |- RegistrationError       T1 and FLAIR could not be brought together
       |- BrainExtractionError    no plausible brain was found
       `- BundleError             a model bundle is missing, altered, or does not fit the input

The node's own refusals are of the kind `CaseRefused` too. `answer.py` turns a `CaseRefused` into a report
that says why; anything else that is raised is a bug.
"""


class CaseRefused(Exception):
    """The case cannot be processed.

    Parameters
    ----------
    message : str
        What is wrong, with the value that was seen, and what to do. No patient data.
    code : str
        Short kebab-case reason, stable across releases (it is stored and shown).
    """

    default_code = "refused"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code

    def __reduce__(self) -> tuple[object, ...]:
        # The error crosses a process boundary (Dask), so the keyword must survive pickling.
        return (_rebuild, (type(self), str(self), self.code))


def _rebuild(kind: type[CaseRefused], message: str, code: str) -> CaseRefused:
    return kind(message, code=code)


class PipelineError(CaseRefused):
    """The pipeline cannot process the case."""

    default_code = "pipeline-refused"


class GeometryError(PipelineError):
    """An affine, a grid or a frame of reference does not fit."""

    default_code = "geometry-invalid"


class ImageError(PipelineError):
    """The voxels cannot be used: NaN, zero range, empty, wrong shape."""

    default_code = "image-unusable"


class RegistrationError(PipelineError):
    """T1 and FLAIR could not be brought together."""

    default_code = "registration-failed"


class BrainExtractionError(PipelineError):
    """No plausible brain was found in the image."""

    default_code = "brain-not-found"


class BundleError(PipelineError):
    """A model bundle is missing, altered, or does not fit the input."""

    default_code = "model-unusable"
