"""Volumes in, lesions and measurements out: knows no network, no ledger, no DICOM header.

Never imports dicomnode.

What runs the networks is silenced here, before anything can load it: both runtimes report their use to their
makers unless told not to, and a hospital's node speaks to its configured peers only.
"""

import os
import sys

# ONNX Runtime (Privacy.md, "Disabling Telemetry"): no uploader, no device identifier, no event store.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# OpenVINO reports when it is imported; where this module cannot be, it takes a stand-in of its own that does
# nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
