"""Whether serving pages slows receiving: `python -m scripts.bench.receive_with_pages`.

`dicomnode receive` and `dicomnode web` run on one ledger that holds 10,000 made-up studies. The same images
are sent again and again, in turn with nobody at the pages, with five tabs open (each refreshes the list
every three seconds), and with a client that opens one page after the other without a pause. The turns are
interleaved, so that a busy machine is busy for all of them. Each rate is compared with that of its own
round, and the median of these ratios counts. Browsers run on other machines, so the clients here get only
the processor time that is left. It needs dcmtk, and stops only what it has started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from scripts.bench.pages import STUDY, fill
from scripts.bench.receive import AE_TITLE, ENVIRONMENT, free_port, make_instances, send, wait_for_echo

KINDS = ("nobody", "five tabs", "one page after the other")
TABS, TAB_PAUSE_S = 5, 3.0
STUDIES = 10_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--associations", type=int, choices=(1, 4), default=1)
    parser.add_argument("--browse", nargs=2, metavar=("ADDRESS", "PAUSE_S"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.browse:
        browse(options.browse[0], float(options.browse[1]))
        return
    with tempfile.TemporaryDirectory(prefix="bench-pages-") as name:
        folder = Path(name)
        with node(folder) as (port, address):
            rates, pages = measure(folder, port, address, options)
    report(rates, pages, options)


def measure(
    folder: Path, port: int, address: str, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return instances a second, and pages a second, of each kind in each round."""
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    pages: dict[str, list[float]] = {kind: [] for kind in KINDS}
    images = folder / "images"
    for number in range(options.rounds):
        # The order turns, so that no kind always comes after the same other.
        for kind in (*KINDS[number % len(KINDS) :], *KINDS[: number % len(KINDS)]):
            folders = make_instances(images, options.instances)
            rename(folders, f"{number} {kind}")
            with client(kind, address) as count:
                took_s = send("storescu", port, folders, options.associations)
                opened = count()
            rates[kind].append(options.instances / took_s)
            pages[kind].append(opened / took_s)
            shutil.rmtree(images)
            line = f"  {kind:26} {rates[kind][-1]:6.0f} instances/s, {pages[kind][-1]:5.1f} pages/s"
            print(line, file=sys.stderr)
    return rates, pages


def report(rates: dict[str, list[float]], pages: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Print the table."""
    print("| at the pages | pages/s | instances/s | of the rate with nobody |")
    print("|---|---|---|---|")
    for kind in KINDS:
        ratios = [rate / alone for rate, alone in zip(rates[kind], rates["nobody"], strict=True)]
        print(
            f"| {kind} | {statistics.median(pages[kind]):.1f} | {statistics.median(rates[kind]):.0f} | "
            f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    print(
        f"\n{options.rounds} rounds of {options.instances} instances, associations: {options.associations}, "
        f"{os.cpu_count()} cores, load of the machine {os.getloadavg()[0]:.1f}."
    )


@contextmanager
def node(folder: Path) -> Iterator[tuple[int, str]]:
    """Run the two processes; give the port of DICOM and the address of the pages."""
    port, web_port = free_port(), free_port()
    config = folder / "node.toml"
    config.write_text(
        f'[network]\nport = {port}\nae_title = "{AE_TITLE}"\n[storage]\nroot = "{folder}/root"\n'
        '[log]\nlevel = "warning"\n'
        f"[web]\nenabled = true\nlogin = false\nport = {web_port}\n"
    )
    processes = []
    try:
        with (folder / "log").open("wb") as log:
            for side in ("receive", "web"):
                command = [sys.executable, "-m", "dicomnode", side, "--config", str(config)]
                processes.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log))
                if side == "receive":
                    wait_for_echo(port, processes[0], folder / "log", [])
                    fill(folder / "root" / "ledger.sqlite3", STUDIES)
        address = f"http://127.0.0.1:{web_port}"
        wait_for_page(address, processes[1])
        yield port, address
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)


def wait_for_page(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the first page is answered."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(address, timeout=30)
            return
        time.sleep(0.2)
    raise SystemExit("the pages did not start")


@contextmanager
def client(kind: str, address: str) -> Iterator[Callable[[], int]]:
    """Have pages opened meanwhile; give a function that says how many were."""
    pauses = {"nobody": [], "five tabs": [TAB_PAUSE_S] * TABS, "one page after the other": [0.0]}[kind]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "scripts.bench.receive_with_pages", "--browse", address, str(pause_s)],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        for pause_s in pauses
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()

    def count() -> int:
        total = 0
        for process in processes:
            process.send_signal(signal.SIGTERM)
            output = process.communicate(timeout=60)[0]
            total += int(json.loads(output))
        return total

    yield count


def browse(address: str, pause_s: float) -> None:
    """Open pages until told to stop, then print how many."""
    opened = 0
    os.nice(19)

    def stop(*_: object) -> None:
        print(opened, flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    with httpx.Client(base_url=address, timeout=60) as browser:
        print("ready", flush=True)
        while True:
            paths = ("/",) if pause_s else ("/", f"/studies/{STUDY.format(opened % STUDIES)}", "/?state=done")
            browser.get(paths[opened % len(paths)]).raise_for_status()
            opened += 1
            time.sleep(pause_s)


def rename(folders: list[Path], seed: str) -> None:
    """Give the images UIDs of their own: what came before is not stored again."""
    import pydicom
    from pydicom.uid import generate_uid

    study = generate_uid(entropy_srcs=["bench", seed])
    for folder in folders:
        for path in folder.iterdir():
            image = pydicom.dcmread(path)
            image.StudyInstanceUID = study
            image.SOPInstanceUID = generate_uid(entropy_srcs=[seed, path.name])
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            image.save_as(path)


if __name__ == "__main__":
    main()
