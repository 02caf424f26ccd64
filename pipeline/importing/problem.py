"""The one error of importing: what was given cannot become a bundle, and why."""

from __future__ import annotations

from pipeline.errors import BundleError


class ImportProblem(BundleError):
    """What was given cannot become a bundle; nothing was installed.

    The message names the file and the reason.
    """

    default_code = "import-refused"
