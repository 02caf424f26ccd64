"""The runtimes report to nobody: they write no identifier, keep no events and open no connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline.inference.providers import available_providers

OPEN = """
import socket, sys
from pathlib import Path

def refuse(*_):
    raise SystemExit("it spoke to the network")

socket.socket.connect = socket.getaddrinfo = refuse
from pipeline.segmenters.families import find_bundle
from pipeline.inference.providers import open_session
open_session(find_bundle(Path("models"), "stroke-lesion-2mm"), 1, "model.onnx", sys.argv[1])
print([name for name, module in sys.modules.items() if "openvino_telemetry" in name and module])
"""


def test_no_runtime_reports_to_its_makers(repo_root: Path, tmp_path: Path) -> None:
    changed = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")
    }
    for provider in set(available_providers()) - {"cuda"}:
        command = [sys.executable, "-c", OPEN, provider]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=repo_root,
            env={**changed, "HOME": str(tmp_path)},
        )

        assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
        # ONNX Runtime's first sign is its device identifier, OpenVINO's a folder "intel".
        assert sorted(str(path) for path in tmp_path.rglob("*")) == [], provider
