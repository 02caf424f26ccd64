"""Whether serving pages slows receiving: `python -m scripts.bench.receive_with_pages`.

`dicomnode receive` and `dicomnode web` run on one ledger that holds 10,000 made-up studies. One sender
stores image after image over one association, in studies of 400. Meanwhile a client is stopped and continued
in turn, every half second. It opens what `--readers` open browsers fetch: each a list of studies, and a page
of a study, both anew every three seconds. With `--readers 0` it opens page after page without a pause.

The ledger says when each image came, so the rate with pages is compared with that of the half seconds before
and after: what else the machine does is the same for both. Printed are the ratio and, by drawing the pairs
again and again, between which figures it lies in 95 of 100 draws. Beside it stands the processor time that
`receive` takes for an image, with and without pages: other work on the machine changes it less than the rate.

Browsers run on other machines, so the client gets only the processor time that is left. It needs dcmtk, and
stops only what it has started.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from scripts.bench.pages import STUDY, fill
from scripts.bench.receive import (
    AE_TITLE,
    ENVIRONMENT,
    cpu_seconds,
    free_port,
    make_instances,
    wait_for_echo,
)

STUDIES = 10_000
TURN_S = 0.5
# After a change of turns: a page that was begun is finished, a client that goes on begins one.
_LEFT_OUT_S = 0.1
_IMAGES = 400
_IMAGES_A_SERIES = 100
# How often an open page fetches itself anew (`data-live` of its template).
_REFRESH_S = 3.0
_DRAWS = 2000
_QUIET = subprocess.DEVNULL
# As `nice` counts: far before the usual 0 of other work. What stands between the node's processes stays.
_FIRST = -15
_AFTER_THE_NODE = 14


@dataclass(frozen=True)
class Turn:
    """When a turn began, and what the two processes had taken of the processors by then, in seconds."""

    at: float
    receive_s: float
    pages_s: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=20_000)
    parser.add_argument(
        "--first",
        action="store_true",
        help="put sender, receive and pages before all other work of the machine (as root)",
    )
    parser.add_argument("--readers", type=int, default=3, help="open browsers; 0: page after page")
    parser.add_argument("--browse", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.browse:
        browse(options.browse, options.readers)
        return
    with tempfile.TemporaryDirectory(prefix="bench-pages-") as name:
        folder = Path(name)
        with node(folder, is_first=options.first) as (port, address, processes):
            turns, pages = send_meanwhile(folder, port, address, processes, options)
        received_at = read_times(folder / "root" / "ledger.sqlite3")
    report(turns, received_at, pages)


def send_meanwhile(
    folder: Path,
    port: int,
    address: str,
    processes: list[subprocess.Popen[bytes]],
    options: argparse.Namespace,
) -> tuple[list[Turn], int]:
    """Send; return the turns, the first without pages, and how many pages were opened in all."""
    folders = make_instances(folder / "images", _IMAGES)
    studies = ["+IR", str(_IMAGES_A_SERIES), "+IS", str(_IMAGES // _IMAGES_A_SERIES)]
    repeat = [*studies, "--repeat", str(options.instances // _IMAGES)]
    command = ["storescu", *repeat, "-aec", AE_TITLE, "127.0.0.1", str(port), "+sd", *map(str, folders)]
    turns = []
    with client(address, options) as (browser, count):
        browser.send_signal(signal.SIGSTOP)
        with priority(is_first=options.first):
            sender = subprocess.Popen(command, env=ENVIRONMENT, stdout=_QUIET, stderr=_QUIET)
        while sender.poll() is None:
            turns.append(Turn(time.time(), *(cpu_seconds(process.pid) for process in processes)))
            time.sleep(TURN_S)
            browser.send_signal(signal.SIGCONT if len(turns) % 2 else signal.SIGSTOP)
        browser.send_signal(signal.SIGCONT)
        pages = count()
    if sender.returncode:
        raise SystemExit(f"storescu ended with {sender.returncode}")
    return turns, pages


def read_times(ledger: Path) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return when each image of the sender came, in order."""
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        rows = connection.execute(
            "SELECT received_at FROM instances WHERE peer_host = '127.0.0.1' ORDER BY 1"
        )
        return np.array([row[0] for row in rows])


def report(turns: list[Turn], received_at: np.ndarray[tuple[int], np.dtype[np.float64]], pages: int) -> None:
    """Print rates, their ratio, and the processor time."""
    at = np.array([turn.at for turn in turns])
    begins, ends = at + _LEFT_OUT_S, np.append(at[1:], at[-1])
    counts = np.searchsorted(received_at, ends) - np.searchsorted(received_at, begins)
    rates = counts / np.maximum(ends - begins, 1e-6)
    # The first turns fill caches, the last is cut.
    pairs = rates[4 : len(rates) // 2 * 2 - 2].reshape(-1, 2)
    drawn = np.random.default_rng(0).integers(len(pairs), size=(_DRAWS, len(pairs)))
    ratios = pairs[drawn, 1].sum(axis=1) / pairs[drawn, 0].sum(axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    alone, beside = pairs.mean(axis=0)
    seconds = float(np.sum(ends[1::2] - at[1::2]))
    print(f"without pages      {alone:6.0f} instances/s")
    print(f"with {pages / seconds:4.0f} pages/s  {beside:6.0f} instances/s")
    print(f"ratio              {beside / alone:6.3f} (95 of 100 draws between {low:.3f} and {high:.3f})")
    report_processors(turns, received_at)
    print(
        f"{len(pairs)} pairs of {TURN_S} s, {os.cpu_count()} cores, "
        f"load of the machine {os.getloadavg()[0]:.1f}"
    )


def report_processors(turns: list[Turn], received_at: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """Print what an image costs `receive`, without and with pages, and how much of a core the pages took."""
    at = np.array([turn.at for turn in turns])
    receive_s = np.diff([turn.receive_s for turn in turns])
    pages_s = np.diff([turn.pages_s for turn in turns])
    counts = np.diff(np.searchsorted(received_at, at))
    # The first turns fill caches.
    for words, first in (("without pages", 4), ("with pages", 5)):
        cost_ms = 1000 * receive_s[first::2].sum() / max(1, counts[first::2].sum())
        share = pages_s[first::2].sum() / max(1e-6, np.diff(at)[first::2].sum())
        print(f"{words:18} {cost_ms:6.2f} ms of a core an image; the pages take {share:.3f} of a core")


@contextmanager
def priority(*, is_first: bool) -> Iterator[None]:
    """Have processes that are started meanwhile go before the other work of the machine, or not."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    if is_first:
        os.setpriority(os.PRIO_PROCESS, 0, _FIRST)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)


@contextmanager
def node(folder: Path, *, is_first: bool) -> Iterator[tuple[int, str, list[subprocess.Popen[bytes]]]]:
    """Run the two processes; give the port of DICOM, the address of the pages, and both."""
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
                with priority(is_first=is_first):
                    processes.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log))
                if side == "receive":
                    wait_for_echo(port, processes[0], folder / "log", [])
                    fill(folder / "root" / "ledger.sqlite3", STUDIES)
        address = f"http://127.0.0.1:{web_port}"
        wait_for_page(address, processes[1])
        wait_for_index(processes[1])
        yield port, address, processes
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


def wait_for_index(process: subprocess.Popen[bytes]) -> None:
    """Wait until the pages have read the headers of all studies for their search, once after their start."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        before_s = cpu_seconds(process.pid)
        time.sleep(2)
        if cpu_seconds(process.pid) - before_s < 0.1:
            return
    raise SystemExit("the pages did not come to rest")


@contextmanager
def client(
    address: str, options: argparse.Namespace
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], int]]]:
    """Start a client; give its process and a function that ends it and says how many pages it opened."""
    command = [sys.executable, "-m", "scripts.bench.receive_with_pages", "--browse", address]
    command += ["--readers", str(options.readers)]
    with priority(is_first=options.first):
        browser = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE)
    assert browser.stdout is not None
    browser.stdout.readline()

    def count() -> int:
        browser.send_signal(signal.SIGTERM)
        return int(browser.communicate(timeout=60)[0])

    try:
        yield browser, count
    finally:
        if browser.poll() is None:
            browser.kill()
            browser.wait()


def browse(address: str, readers: int) -> None:
    """Open pages until told to stop, then print how many."""
    pause_s = _REFRESH_S / (2 * readers) if readers else 0.0
    opened = 0
    os.nice(_AFTER_THE_NODE)

    def stop(*_: object) -> None:
        print(opened, flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    with httpx.Client(base_url=address, timeout=60) as browser:
        print("ready", flush=True)
        while True:
            paths = ("/", f"/studies/{STUDY.format(opened % STUDIES)}", "/?state=done")
            # Of open browsers every second page is a list; without a pause two of three are.
            path = paths[opened % (2 if readers else 3)]
            browser.get(path).raise_for_status()
            opened += 1
            time.sleep(pause_s)


if __name__ == "__main__":
    main()
