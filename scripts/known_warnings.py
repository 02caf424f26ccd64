"""What dciodvfy of Debian (2022-06-18) warns about in our objects, and why that is right: for the tests and docs/conformance.md."""

from __future__ import annotations

from collections.abc import Mapping

KNOWN_WARNINGS: Mapping[str, str] = {
    "DeviceUID(0018,1002)": "Device UID in Contributing Equipment tells builds of a network apart (IHE AIR 6.5.3.1); "
    "the standard has it there (PS3.3 C.12.1.1.5, CP 2031), this dciodvfy does not know it yet",
}
"""Key: words of the warning."""
