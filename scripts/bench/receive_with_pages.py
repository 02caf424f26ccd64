"""Whether serving pages slows receiving: `python -m scripts.bench.receive_with_pages`.

`dicomnode receive` and `dicomnode web` run on one ledger that holds 10,000 made-up studies. One sender
stores image after image over one association. Meanwhile a client that opens one page after the other
without a pause is stopped and continued in turn, every half second. The ledger says when each image came,
so the rate with pages is compared with that of the half seconds before and after: what else the machine
does is the same for both. Printed are the ratio and, by drawing the pairs again and again, between which
figures it lies in 95 of 100 draws.

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
from pathlib import Path

import httpx
import numpy as np

from scripts.bench.pages import STUDY, fill
from scripts.bench.receive import AE_TITLE, ENVIRONMENT, free_port, make_instances, wait_for_echo

STUDIES = 10_000
TURN_S = 0.5
# After a change of turns: a page that was begun is finished, a client that goes on begins one.
_LEFT_OUT_S = 0.1
_IMAGES = 400
_DRAWS = 2000
_QUIET = subprocess.DEVNULL
# As `nice` counts: far before the usual 0 of other work. What stands between the node's processes stays.
_FIRST = -15
_AFTER_THE_NODE = 14


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
    parser.add_argument("--browse", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.browse:
        browse(options.browse)
        return
    with tempfile.TemporaryDirectory(prefix="bench-pages-") as name:
        folder = Path(name)
        with node(folder, is_first=options.first) as (port, address):
            turns, pages = send_meanwhile(folder, port, address, options)
        received_at = read_times(folder / "root" / "ledger.sqlite3")
    report(turns, received_at, pages)


def send_meanwhile(
    folder: Path, port: int, address: str, options: argparse.Namespace
) -> tuple[list[float], int]:
    """Send; return when each turn began, the first without pages, and how many pages were opened in all."""
    folders = make_instances(folder / "images", _IMAGES)
    repeat = ["+II", "--repeat", str(options.instances // _IMAGES)]
    command = ["storescu", *repeat, "-aec", AE_TITLE, "127.0.0.1", str(port), "+sd", *map(str, folders)]
    turns = []
    with client(address, is_first=options.first) as (browser, count):
        browser.send_signal(signal.SIGSTOP)
        with priority(is_first=options.first):
            sender = subprocess.Popen(command, env=ENVIRONMENT, stdout=_QUIET, stderr=_QUIET)
        while sender.poll() is None:
            turns.append(time.time())
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


def report(turns: list[float], received_at: np.ndarray[tuple[int], np.dtype[np.float64]], pages: int) -> None:
    """Print rates and their ratio."""
    begins = np.array(turns) + _LEFT_OUT_S
    ends = np.append(turns[1:], turns[-1])
    counts = np.searchsorted(received_at, ends) - np.searchsorted(received_at, begins)
    rates = counts / np.maximum(ends - begins, 1e-6)
    # The first turns fill caches, the last is cut.
    pairs = rates[4 : len(rates) // 2 * 2 - 2].reshape(-1, 2)
    drawn = np.random.default_rng(0).integers(len(pairs), size=(_DRAWS, len(pairs)))
    ratios = pairs[drawn, 1].sum(axis=1) / pairs[drawn, 0].sum(axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    alone, beside = pairs.mean(axis=0)
    seconds = float(np.sum(ends[1::2] - np.array(turns)[1::2]))
    print(f"without pages      {alone:6.0f} instances/s")
    print(f"with {pages / seconds:4.0f} pages/s  {beside:6.0f} instances/s")
    print(f"ratio              {beside / alone:6.3f} (95 of 100 draws between {low:.3f} and {high:.3f})")
    print(
        f"{len(pairs)} pairs of {TURN_S} s, {os.cpu_count()} cores, "
        f"load of the machine {os.getloadavg()[0]:.1f}"
    )


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
def node(folder: Path, *, is_first: bool) -> Iterator[tuple[int, str]]:
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
                with priority(is_first=is_first):
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
def client(address: str, *, is_first: bool) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], int]]]:
    """Start a client; give its process and a function that ends it and says how many pages it opened."""
    command = [sys.executable, "-m", "scripts.bench.receive_with_pages", "--browse", address]
    with priority(is_first=is_first):
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


def browse(address: str) -> None:
    """Open pages until told to stop, then print how many."""
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
            browser.get(paths[opened % len(paths)]).raise_for_status()
            opened += 1


if __name__ == "__main__":
    main()
