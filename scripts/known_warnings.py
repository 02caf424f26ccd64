"""What dciodvfy of Debian (2022-06-18) warns about in our objects, and why that is right.

The table serves the tests and docs/conformance.md.
"""

from __future__ import annotations

from collections.abc import Mapping

KNOWN_WARNINGS: Mapping[str, str] = {
    "DeviceUID(0018,1002)": "Device UID in Contributing Equipment tells builds of a network apart (IHE AIR "
    "6.5.3.1); the standard has it there (PS3.3 C.12.1.1.5, CP 2031), this "
    "dciodvfy does not know it yet",
    "needed to build DICOMDIR": "an identifier, date or time that the source lacks, or has no legal value "
    "for, stays empty (type 2): a result never invents who the patient is or "
    "when the study was",
    "Value dubious for this VR [PN]": "a name in the retired form, without components: "
    "names are copied letter by letter",
    "Unrecognized defined term = <99DICOMNODE>": "reports that compare with an earlier study, or hold an "
    "agreement or a calibrated certainty, name the scheme of their own codes in Coding "
    "Scheme Identification Sequence (PS3.3 C.12.1), which is "
    "what it is for",
    "PatientWeight(0010,1030)[1]> - Value is zero": "copied from the source",
}
"""Key: words of the warning."""
