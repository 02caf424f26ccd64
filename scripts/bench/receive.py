"""How fast `dicomnode receive` takes images, against Orthanc and against itself without a disk, in one run.

    python scripts/bench/receive.py [--instances 400] [--repeats 5] [--sender storescu] [--json FILE]

Every contender gets the same 131 kB MR instances from the same dcmtk sender over the loopback, with
TCP_NODELAY=1 at both ends, into a fresh folder of the same disk; contenders take turns, so that a busy
machine is busy for all of them, and the median counts. It needs dcmtk and Orthanc (Debian packages `dcmtk`,
`orthanc`), and stops only what it has started. Who waits for the disk twice per instance waits twice for a
processor too: on a machine that has other work, run it under `chrt -r 5`, which puts sender and receivers
alike first.

    node            `dicomnode receive` as it is shipped: write, fsync, rename, fsync of the folder,
                    ledger row, then 0x0000
    node-tls        the same over TLS with certificates at both ends (needs the openssl program;
                    storescu only)
    orthanc         Orthanc as it is shipped: SyncStorageArea, SQLite index
    nothing         the node's own receiver with a writer and a ledger that do nothing
    stock-nothing   pynetdicom's own acceptor with a handler that does nothing
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTENDERS = ("node", "node-tls", "orthanc", "nothing", "stock-nothing")
AE_TITLE = "BENCH"
SENDERS = 4
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sender", choices=("storescu", "dcmsend"), default="storescu")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=("nothing", "stock-nothing"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.port)
        return
    with tempfile.TemporaryDirectory(prefix="bench-receive-") as name:
        report = measure(Path(name), options)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(work: Path, options: argparse.Namespace) -> dict[str, object]:
    """Return rates per contender and number of associations, their ratios, and the node's peak memory."""
    folders = make_instances(work / "images", options.instances)
    rates: dict[str, dict[int, list[float]]] = {name: {1: [], SENDERS: []} for name in options.contenders}
    peak_mb = 0.0
    for repeat in range(options.repeats):
        for associations in (1, SENDERS):
            for name in options.contenders:
                folder = work / f"{name}-{associations}-{repeat}"
                folder.mkdir()
                with contender(name, folder) as (port, process):
                    took_s = send(
                        options.sender,
                        port,
                        folders,
                        associations,
                        tls_words(folder) if name == "node-tls" else [],
                    )
                    if name == "node":
                        peak_mb = max(peak_mb, peak_memory_mb(process.pid))
                check_stored(name, folder, options.instances)
                shutil.rmtree(folder)
                rates[name][associations].append(options.instances / took_s)
                print(
                    (
                        f"  {name:14} {associations} associations: {rates[name][associations][-1]:6.0f} "
                        "instances/s"
                    ),
                    file=sys.stderr,
                    flush=True,
                )
    middle = {
        name: {str(count): round(statistics.median(values), 1) for count, values in by.items()}
        for name, by in rates.items()
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
        "repeats": options.repeats,
        "cpus": os.cpu_count(),
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "instances_per_second": middle,
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
    lines = ["| | 1 association | 4 associations |", "|---|---|---|"]
    lines += [
        f"| {name}, instances/s | {by['1']:.0f} | {by[str(SENDERS)]:.0f} |" for name, by in rates.items()
    ]
    lines += [f"| {name} | {by['1']:.2f} | {by[str(SENDERS)]:.2f} |" for name, by in ratios.items()]
    lines.append(
        f"\nPeak memory of the node: {report['node_peak_memory_mb']} MB. Load of the machine: "
        f"{report['load_average_1_min']}."
    )
    return "\n".join(lines)


def make_instances(folder: Path, count: int) -> list[Path]:
    """Write `count` MR images of 256 x 256 in one folder per sender, and return the folders."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folders = [folder / str(sender) for sender in range(SENDERS)]
    for number in range(count):
        target = folders[number * SENDERS // count]
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
    sender: str, port: int, folders: Sequence[Path], associations: int, tls: Sequence[str] = ()
) -> float:
    """Send everything over 1 association, or each folder over its own; return the seconds that it took."""
    command = [sender, *tls, "-aec", AE_TITLE, "127.0.0.1", str(port), "+sd"]
    batches = [folders] if associations == 1 else [[folder] for folder in folders]
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
    if name in ("node", "node-tls"):
        settings = f'[network]\nport = {port}\nae_title = "{AE_TITLE}"\n'
        if name == "node-tls":
            settings += f"tls = true\n{tls_table(folder)}"
        settings += f'[storage]\nroot = "{folder}/root"\n[log]\nlevel = "warning"\n'
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
    else:
        command = [sys.executable, __file__, "--serve", name, "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
    try:
        wait_for_echo(port, process, folder / "log", tls_words(folder) if name == "node-tls" else [])
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
    if name in ("node", "node-tls"):
        stored = len(list((folder / "root" / "spool" / "incoming").rglob("*.dcm")))
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
