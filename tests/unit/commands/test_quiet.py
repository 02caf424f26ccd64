"""Commands print nothing that a library quotes from a header."""

from __future__ import annotations

import subprocess
import sys

SAY = """
import logging, warnings
from dicomnode.commands.quiet import silence_libraries
{silence}
for name in ("pydicom", "pynetdicom.acse", "highdicom.sr", "dicom2nifti"):
    logging.getLogger(name).error("DOE^JOHN")
warnings.warn("DOE^JOHN", UserWarning)
"""


def printed(silence: str) -> str:
    command = [sys.executable, "-c", SAY.format(silence=silence)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return answer.stdout + answer.stderr


def test_what_a_library_says_of_a_patient_is_not_printed() -> None:
    assert "DOE" in printed("")
    assert printed("silence_libraries()") == ""
