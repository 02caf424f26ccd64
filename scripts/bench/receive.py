"""How fast `dicomnode receive` takes images, against Orthanc, dcmtk and itself without a journal, in one run.

    python -m scripts.bench.receive [--instances 400] [--repeats 5] [--sender light]
                                    [--associations 1 4 8] [--disk-writer 50] [--json FILE]

Every contender gets the same 131 kB MR instances over the loopback, with TCP_NODELAY at both ends, into a
fresh folder of the same disk; contenders take turns, so that a busy machine is busy for all of them, and the
median counts. It needs dcmtk and Orthanc (Debian packages `dcmtk`, `orthanc`), and stops only what it has
started. `--sender light` is a sender of our own that costs next to nothing (light_sender.py); `storescu`
takes as much of a processor as a receiver does. On a machine that has other work, run it under `chrt -r 5`,
which puts sender and receivers alike first.

    node            `dicomnode receive` as it is shipped: a record in the journal, a shared sync, then 0x0000;
                    files and rows soon after
    node-files      the same with `storage.journal_mb = 0`: write, fsync, rename, fsync of the folder,
                    ledger row, then 0x0000
    node-tls        node over TLS with certificates at both ends (needs the openssl program)
    orthanc         Orthanc as it is shipped: SyncStorageArea, SQLite index
    storescp        dcmtk's `storescp --fork`, which never syncs: a power cut may take what it has answered
    nothing         the node's own receiver with a writer and a ledger that do nothing
    stock-nothing   pynetdicom's own acceptor with a handler that does nothing

`--disk-writer` lets another program write so many megabytes a second to the same disk meanwhile
(disk_writer.py). A rate counts from the first request to the last answer. CPU counts until every instance is
a file and has a row in the ledger: the work behind is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from scripts.bench.disk_writer import writing  # noqa: E402  also when started by its path
from scripts.bench.light_sender import send_light  # noqa: E402

CONTENDERS = ("node", "node-files", "node-tls", "orthanc", "storescp", "nothing", "stock-nothing")
NODES = ("node", "node-files", "node-tls")
AE_TITLE = "BENCH"
FOLDERS = 8
FIRST_SEGMENTS = 2
ASSOCIATIONS = (1, 4)
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sender", choices=("storescu", "dcmsend", "light"), default="storescu")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--associations", nargs="+", type=int, default=ASSOCIATIONS)
    parser.add_argument("--disk-writer", type=float, default=0.0, metavar="MB_PER_S")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=("nothing", "stock-nothing"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.port)
        return
    with (
        tempfile.TemporaryDirectory(prefix="bench-receive-") as name,
        writing(Path(name), options.disk_writer),
    ):
        report = measure(Path(name), options)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(work: Path, options: argparse.Namespace) -> dict[str, object]:
    """Return rates per contender and number of associations, their ratios, and the node's peak memory."""
    folders = make_instances(work / "images", options.instances)
    associations = getattr(options, "associations", ASSOCIATIONS)
    rates: dict[str, dict[int, list[float]]] = {
        name: {count: [] for count in associations} for name in options.contenders
    }
    cpu_ms: dict[str, dict[int, list[float]]] = {
        name: {count: [] for count in associations} for name in options.contenders
    }
    peak_mb = 0.0
    for repeat in range(options.repeats):
        for count in associations:
            for name in options.contenders:
                folder = work / f"{name}-{count}-{repeat}"
                folder.mkdir()
                with contender(name, folder) as (port, process):
                    before_s = cpu_seconds(process.pid)
                    certificates = (folder / "tls.pem", folder / "tls.key") if name == "node-tls" else None
                    took_s = send(options.sender, port, folders, count, certificates)
                    wait_until_stored(name, folder, options.instances)
                    cpu_s = cpu_seconds(process.pid) - before_s
                    if name == "node":
                        peak_mb = max(peak_mb, peak_memory_mb(process.pid))
                check_stored(name, folder, options.instances)
                shutil.rmtree(folder)
                rates[name][count].append(options.instances / took_s)
                cpu_ms[name][count].append(1000 * cpu_s / options.instances)
                print(
                    (
                        f"  {name:14} {count} associations: {rates[name][count][-1]:6.0f} instances/s, "
                        f"{cpu_ms[name][count][-1]:.2f} ms CPU each"
                    ),
                    file=sys.stderr,
                    flush=True,
                )
    middle = {
        name: {str(count): round(statistics.median(values), 1) for count, values in by.items()}
        for name, by in rates.items()
    }
    cpu_middle = {
        name: {str(count): round(statistics.median(values), 2) for count, values in by.items()}
        for name, by in cpu_ms.items()
    }
    ratios = {
        f"node / {other}": {
            count: round(middle["node"][count] / middle[other][count], 2) for count in middle["node"]
        }
        for other in options.contenders
        if other != "node" and "node" in middle
    }
    size_bytes = next(folders[0].iterdir()).stat().st_size
    command = ["scripts/bench/receive.py", *sys.argv[1:]]
    return {
        "command": " ".join(command),
        "instances": options.instances,
        "instance_bytes": size_bytes,
        "sender": options.sender,
        "disk_writer_mb_per_s": options.disk_writer,
        "repeats": options.repeats,
        "cpus": os.cpu_count(),
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "instances_per_second": middle,
        "cpu_ms_per_instance": cpu_middle,
        "all_rates": {
            name: {str(count): [round(value, 1) for value in values] for count, values in by.items()}
            for name, by in rates.items()
        },
        "ratios": ratios,
        "node_peak_memory_mb": round(peak_mb, 1),
    }


def table(report: dict[str, object]) -> str:
    """Return the report as Markdown."""
    rates: dict[str, dict[str, float]] = report["instances_per_second"]  # type: ignore[assignment]
    ratios: dict[str, dict[str, float]] = report["ratios"]  # type: ignore[assignment]
    cpu_ms: dict[str, dict[str, float]] = report["cpu_ms_per_instance"]  # type: ignore[assignment]
    counts = list(next(iter(rates.values())))
    heads = [f"{count} association{'s' * (count != '1')}" for count in counts]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(counts) + 1) + "|"]
    lines += [
        _row(f"{name}, instances/s", (f"{by[count]:.0f}" for count in counts)) for name, by in rates.items()
    ]
    lines += [_row(name, (f"{by[count]:.2f}" for count in counts)) for name, by in ratios.items()]
    lines += [
        _row(f"{name}, ms CPU an instance", (f"{by[count]:.2f}" for count in counts))
        for name, by in cpu_ms.items()
    ]
    lines.append(
        f"\nPeak memory of the node: {report['node_peak_memory_mb']} MB. Load of the machine: "
        f"{report['load_average_1_min']}."
    )
    return "\n".join(lines)


def _row(name: str, cells: Iterable[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def make_instances(folder: Path, count: int) -> list[Path]:
    """Write `count` MR images of 256 x 256 in eight folders, and return those."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folders = [folder / str(sender) for sender in range(FOLDERS)]
    for number in range(count):
        target = folders[number * FOLDERS // count]
        target.mkdir(parents=True, exist_ok=True)
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = (
            MRImageStorage,
            generate_uid(entropy_srcs=["bench", str(number)]),
        )
        image.StudyInstanceUID = generate_uid(entropy_srcs=["bench study"])
        image.SeriesInstanceUID = generate_uid(entropy_srcs=["bench series", target.name])
        image.Modality, image.PatientID, image.PatientName, image.InstanceNumber = (
            "MR",
            "BENCH",
            "BENCH",
            number,
        )
        image.SamplesPerPixel, image.PhotometricInterpretation, image.Rows, image.Columns = (
            1,
            "MONOCHROME2",
            256,
            256,
        )
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.PixelData = number.to_bytes(2, "little") * (256 * 256)
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.save_as(target / f"{number:05d}.dcm", enforce_file_format=True)
    return folders


def send(
    sender: str,
    port: int,
    folders: Sequence[Path],
    associations: int,
    tls: tuple[Path, Path] | None = None,
) -> float:
    """Send everything over so many associations at the same time; return the seconds that it took.

    `tls` is a certificate and its key, where connections are secured.
    """
    words = tls_words(tls[0].parent) if tls else []
    command = [sender, *words, "-aec", AE_TITLE, "127.0.0.1", str(port), "+sd"]
    batches = [folders[number::associations] for number in range(associations)]
    if sender == "light":
        return send_light(port, AE_TITLE, batches, tls)
    began = time.perf_counter()
    senders = [
        subprocess.Popen([*command, *batch], env=ENVIRONMENT, stdout=subprocess.DEVNULL) for batch in batches
    ]
    codes = [process.wait() for process in senders]
    took_s = time.perf_counter() - began
    if any(codes):
        raise SystemExit(f"{sender} ended with {codes}")
    return took_s


@contextmanager
def contender(name: str, folder: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a receiver in `folder`; it has answered a C-ECHO when its port is given."""
    port = free_port()
    if name in NODES:
        settings = f'[network]\nport = {port}\nae_title = "{AE_TITLE}"\n'
        if name == "node-tls":
            settings += f"tls = true\n{tls_table(folder)}"
        settings += f'[storage]\nroot = "{folder}/root"\n{"journal_mb = 0" if name == "node-files" else ""}\n'
        settings += '[log]\nlevel = "warning"\n'
        (folder / "node.toml").write_text(settings)
        command = [sys.executable, "-m", "dicomnode", "receive", "--config", str(folder / "node.toml")]
    elif name == "orthanc":
        places = {"StorageDirectory": str(folder / "orthanc"), "IndexDirectory": str(folder / "orthanc")}
        settings = {
            "DicomAet": AE_TITLE,
            "DicomPort": port,
            "HttpServerEnabled": False,
            "DicomAlwaysAllowStore": True,
            **places,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        command = [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(folder / "orthanc.json")]
    elif name == "storescp":
        (folder / "storescp").mkdir()
        command = ["storescp", "--fork", "-aet", AE_TITLE, "-od", str(folder / "storescp"), str(port)]
    else:
        command = [sys.executable, __file__, "--serve", name, "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
    try:
        wait_for_echo(port, process, folder / "log", tls_words(folder) if name == "node-tls" else [])
        if name in NODES and name != "node-files":
            wait_for_segments(folder / "root" / "spool" / "journal")
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def tls_table(folder: Path) -> str:
    """Make one certificate that is its own authority and everybody's, and return the node's [tls]."""
    certificate, key = folder / "tls.pem", folder / "tls.key"
    new = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=bench",
        "-days",
        "2",
    ]
    subprocess.run(
        ["openssl", "req", "-x509", *new, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    return f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\nauthorities = "{certificate}"\n'


def tls_words(folder: Path) -> list[str]:
    """Return what dcmtk's programs need to be told for TLS."""
    return ["+tls", str(folder / "tls.key"), str(folder / "tls.pem"), "+cf", str(folder / "tls.pem")]


def wait_for_echo(port: int, process: subprocess.Popen[bytes], log: Path, tls: Sequence[str]) -> None:
    """Wait until C-ECHO is answered."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        echo = subprocess.run(
            ["echoscu", *tls, "-aec", AE_TITLE, "127.0.0.1", str(port)], capture_output=True, check=False
        )
        if echo.returncode == 0:
            return
        time.sleep(0.1)
    raise SystemExit(f"the receiver did not start:\n{log.read_text(errors='replace')}")


def check_stored(name: str, folder: Path, count: int) -> None:
    """Stop when something that was acknowledged is not there."""
    if name in NODES:
        stored = len(list((folder / "root" / "spool" / "incoming").rglob("*.dcm")))
    elif name == "storescp":
        stored = len(list((folder / "storescp").iterdir()))
    elif name == "orthanc":
        stored = sum(
            1
            for path in (folder / "orthanc").rglob("*")
            if path.is_file() and path.stat().st_size > 100_000 and len(path.name) == 36
        )
    else:
        return
    if stored != count:
        raise SystemExit(f"{name} kept {stored} of {count}")


def wait_for_segments(folder: Path) -> None:
    """Wait until a node on a fresh folder has made its first segments: it does that once in its life."""
    end = time.monotonic() + 60
    while len(list(folder.glob("*.segment"))) < FIRST_SEGMENTS and time.monotonic() < end:
        time.sleep(0.05)


def wait_until_stored(name: str, folder: Path, count: int) -> None:
    """Wait until all that a node has acknowledged is listed in its ledger."""
    if name not in NODES:
        return
    end = time.monotonic() + 60
    with sqlite3.connect(folder / "root" / "ledger.sqlite3", timeout=60) as connection:
        while connection.execute("SELECT count(*) FROM instances").fetchone()[0] < count:
            if time.monotonic() > end:
                raise SystemExit(f"{name} has not listed what it acknowledged")
            time.sleep(0.02)
    connection.close()


def cpu_seconds(process_id: int) -> float:
    """Return the processor time of a process and of its children that have ended (Linux)."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def peak_memory_mb(process_id: int) -> float:
    """Return the largest resident size so far (Linux)."""
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def serve(name: str, port: int) -> None:
    """Run a receiver that keeps nothing, until it is told to stop."""
    from pynetdicom import AE, _config, evt
    from pynetdicom.sop_class import MRImageStorage, Verification  # type: ignore[attr-defined]

    from dicomnode.network.association import Receiver
    from dicomnode.records import ReceivedInstance
    from dicomnode.settings.config import parse_config

    class Nothing:
        """A spool that keeps nothing."""

        def holds(self, instance: ReceivedInstance) -> bool:
            return True

        def write(self, encoded_dataset: bytes, **names: object) -> ReceivedInstance:
            """Take the bytes and forget them."""
            return ReceivedInstance("", "", "", "", "", len(encoded_dataset), "", "", 0.0)

    if name == "nothing":
        Receiver(
            parse_config({"network": {"port": port, "ae_title": AE_TITLE}}),
            Nothing(),
            lambda _: "new",
            time.time,
        ).start()
    else:
        _config.LOG_HANDLER_LEVEL = "none"
        entity = AE(AE_TITLE)
        entity.maximum_pdu_size = 131_072
        entity.add_supported_context(MRImageStorage)
        entity.add_supported_context(Verification)
        entity.start_server(
            ("127.0.0.1", port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, lambda event: len(event.encoded_dataset()) * 0)],
        )
    signal.pause()


if __name__ == "__main__":
    main()
