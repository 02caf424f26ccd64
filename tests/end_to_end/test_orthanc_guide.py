"""docs/guides/orthanc.md, run word for word: its blocks configure a real Orthanc and a real node."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from dicomnode.simulator.author import write_series
from tests.factories.fences import Block, blocks_of
from tests.factories.head import head_study, study_uid
from tests.factories.listening import eventually
from tests.factories.orthanc import Orthanc, free_port, orthanc_process

pytestmark = [pytest.mark.slow, pytest.mark.tools, pytest.mark.timeout(900)]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "orthanc.md"

# All that may be replaced, and how often it stands in the blocks of each language.
REPLACED: dict[str, dict[str, int]] = {
    "192.0.2.30": {"json": 1},
    "192.0.2.20": {"toml": 3, "bash": 1},
    "0.0.0.0": {"toml": 1},
    "11112": {"json": 1, "toml": 1, "text": 1},
    "4242": {"json": 1, "toml": 2, "bash": 1},
    "8042": {"bash": 1},
    "STUDYFOLDER": {"bash": 1},
    "STUDY": {"bash": 1},
}
_REPLACEABLE = re.compile("|".join(rf"(?<![\w.]){re.escape(text)}(?![\w.])" for text in REPLACED))
# What the guide leaves to its reader, and networks that answer sooner.
NODE_SETTINGS = """
[storage]
root = {root}
minimum_free_mb = 100

[pipeline]
lesion_model = "stroke-lesion-2mm"
bias_correction = false

"""


@dataclass
class Site:
    """The machine of the guide's reader: where files lie, what replaces an address, which services run."""

    folder: Path
    study: Path
    orthanc_program: str
    services: ExitStack
    orthanc: Orthanc = field(default_factory=lambda: Orthanc(free_port(), free_port()))
    node_port: int = field(default_factory=free_port)
    replaced: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def config(self) -> Path:
        """What the guide calls /etc/dicomnode/dicomnode.toml."""
        return self.folder / "dicomnode.toml"

    @property
    def node_log(self) -> str:
        return (self.folder / "node.log").read_text(encoding="utf-8")

    def localised(self, block: Block) -> str:
        """Return a block with the addresses, ports and paths of this machine."""
        replacements = {
            "192.0.2.30": "127.0.0.1",
            "192.0.2.20": "127.0.0.1",
            "0.0.0.0": "127.0.0.1",
            "11112": str(self.node_port),
            "4242": str(self.orthanc.dicom_port),
            "8042": str(self.orthanc.http_port),
            "STUDYFOLDER": shlex.quote(str(self.study)),
            "STUDY": study_uid("guide")[-12:],
        }
        self.replaced.update((text, block.language) for text in _REPLACEABLE.findall(block.text))
        text = _REPLACEABLE.sub(lambda match: replacements[match[0]], block.text)
        assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", text)) <= {"127.0.0.1"}
        return text

    def configure(self, block: Block) -> None:
        """Put a block where the guide says."""
        text = self.localised(block)
        if block.language == "toml":
            with self.config.open("a", encoding="utf-8") as file:
                file.write(text)
        else:
            name = {"json": "orthanc.json", "lua": "forward.lua"}[block.language]
            (self.folder / "orthanc" / name).write_text(text, encoding="utf-8")

    def run(self, block: Block) -> str:
        """Run the lines of a block and return what they print; each must end with 0."""
        printed = []
        for line in self.localised(block).replace("\\\n", " ").splitlines():
            # systemd is not here; what it starts is.
            if line == "sudo systemctl restart orthanc":
                self.services.enter_context(
                    orthanc_process(self.orthanc_program, self.folder / "orthanc", self.orthanc)
                )
            elif line == "sudo systemctl restart dicomnode":
                self.services.enter_context(running_node(self))
            else:
                printed.append(self.run_line(line))
        return "\n".join(printed)

    def environment(self) -> dict[str, str]:
        """Return the reader's environment: our `dicomnode`, its file, a terminal that wraps no table.

        Of our environment `dicomnode` alone: pynetdicom brings a `storescu` of its own.
        """
        programs = self.folder / "programs"
        programs.mkdir(exist_ok=True)
        if not (programs / "dicomnode").exists():
            (programs / "dicomnode").symlink_to(Path(sys.executable).with_name("dicomnode"))
        ours = str(Path(sys.executable).parent)
        others = (folder for folder in os.environ["PATH"].split(":") if folder != ours)
        return {
            **os.environ,
            "PATH": ":".join([str(programs), *others]),
            "DICOMNODE_CONFIG": str(self.config),
            "COLUMNS": "400",
        }

    def run_line(self, line: str) -> str:
        """Run one command in a shell and return what it prints; it must end with 0."""
        ended = subprocess.run(
            ["sh", "-c", line],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == 0, f"{line}\n{ended.stdout}{ended.stderr}"
        return ended.stdout


@contextmanager
def running_node(site: Site) -> Iterator[None]:
    """Start `dicomnode serve` as its unit does, and wait until it says that it is ready (sd_notify(3))."""
    command = [sys.executable, "-P", "-m", "dicomnode", "serve", "--config", str(site.config)]
    with ExitStack() as closing:
        log = closing.enter_context((site.folder / "node.log").open("wb"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as signs:
            signs.bind("")
            signs.settimeout(300)
            environment = site.environment() | {"NOTIFY_SOCKET": "@" + signs.getsockname()[1:].decode()}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            closing.callback(process.wait, 60)
            closing.callback(process.terminate)
            while b"READY=1" not in (sign := signs.recv(4096)):
                assert sign.startswith(b"EXTEND_TIMEOUT_USEC="), site.node_log
        yield


@pytest.fixture
def site(tmp_path: Path, require_tool: Callable[[str], str]) -> Iterator[Site]:
    require_tool("storescu")
    require_tool("curl")
    (tmp_path / "orthanc").mkdir()
    study = tmp_path / "study"
    study.mkdir()
    with ExitStack() as services:
        reader = Site(tmp_path, study, require_tool("Orthanc"), services)
        write_series(head_study("guide"), study)
        shipped = (GUIDE.parents[2] / "config" / "dicomnode.toml").read_text(encoding="utf-8")
        reader.config.write_text(
            NODE_SETTINGS.format(root=json.dumps(str(tmp_path / "node"))) + shipped, encoding="utf-8"
        )
        machine_settings = {
            "HttpPort": reader.orthanc.http_port,
            "StorageDirectory": str(tmp_path / "archive"),
            "IndexDirectory": str(tmp_path / "archive"),
        }
        (tmp_path / "orthanc" / "this-machine.json").write_text(
            json.dumps(machine_settings), encoding="utf-8"
        )
        yield reader


def rows_of(printed: str) -> str:
    """Return what was printed without the lines of tables, blanks as one."""
    return re.sub(r"[\s│┃]+", " ", printed)


def lines_not_printed(block: Block, site: Site, printed: str) -> list[str]:
    """Return the lines of a block of the guide that a command did not print."""
    return [line for line in site.localised(block).splitlines() if rows_of(line) not in rows_of(printed)]


def test_the_guide_is_followed_to_the_results_in_orthanc(site: Site) -> None:
    printed, missing, languages = "", list[str](), Counter[str]()
    for block in blocks_of(GUIDE.read_text(encoding="utf-8")):
        languages[block.language] += 1
        if block.language == "bash":
            printed = site.run(block)
            if "storescu" in block.text:
                # Two results, each proved; how long that takes is the machine's affair.
                assert eventually(lambda: site.node_log.count("delivery_proved") == 2, 600), site.node_log
        elif block.language == "text":
            missing += lines_not_printed(block, site, printed)
        else:
            site.configure(block)

    assert missing == []
    assert languages == {"json": 1, "lua": 1, "toml": 1, "bash": 5, "text": 3}
    assert site.replaced == {
        (text, language): count for text, counts in REPLACED.items() for language, count in counts.items()
    }
    # Nothing goes round in a circle: the node got the images, and the images alone.
    images = list(site.study.glob("*.dcm"))
    assert len(images) > 50
    health = json.loads(site.run_line("dicomnode status --json"))["health"]
    assert health["instances"] == {"new": 0, "indexed": len(images), "own_result": 0, "unreadable": 0}
    # Orthanc asks in its turn, and the node commits itself to what it was sent.
    pairs = [
        (str(MRImageStorage), str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)) for path in images
    ]
    assert site.orthanc.commitment(pairs, node="dicomnode")["Status"] == "Success"
