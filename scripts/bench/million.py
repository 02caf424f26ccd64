"""What a node costs that holds a million instances: `python -m scripts.bench.million [--instances 1000000]`.

A ledger is filled with made-up studies that are answered and delivered, and a spool with an empty file for
each of their instances. Then each query that the node asks again and again is asked, and its processor time
noted; and `dicomnode receive` is started on that folder until it listens: as after a crash, when spool and
ledger are compared, and as after an orderly stop; with warm caches and, as root, with every cache of the
system emptied. It needs about 2 GB of disk and a million inodes in `--folder`, and removes what it made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from dicomnode.ledger.ledger import Ledger
from dicomnode.records import AssociationNews, ReceivedInstance
from dicomnode.spool.orderly import NOTE
from scripts.bench.receive import cpu_seconds, free_port, peak_memory_mb

OF_A_STUDY = 226
LATEST = 12
"""So many studies are waiting; their last images came just now."""
CALLS = 9
QUERY_MS, START_S, START_MB = 20.0, 5.0, 150.0
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
# As long as the header of a real image.
HEADER = json.dumps({"SOPClassUID": MR, "Modality": "MR", "Rows": 240, "filling": "x" * 900})
INSTANCES = """
    INSERT INTO instances
        ("SOPInstanceUID", sha256, path, received_at, "StudyInstanceUID", "SeriesInstanceUID", header,
         indexed_at, "SOPClassUID", "TransferSyntaxUID", arrival, size_bytes, calling_ae, peer_host, reading)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 131072, 'SCANNER', '10.0.0.7', 'indexed')
"""


def main() -> None:
    """Fill, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the disk has room (the usual temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-million-", dir=options.folder) as name:
        root = Path(name)
        ledger = Ledger.open(f"sqlite:///{root / 'ledger.sqlite3'}")
        studies = fill(root, options.instances)
        print(
            f"{options.instances} instances in {studies} studies\n\n| query | ms CPU | asked |\n|---|---|---|"
        )
        for query, ask in queries(ledger, studies, root / "spool").items():
            milliseconds = cpu_ms(ask)
            print(f"| {query} | {milliseconds:.1f} | {verdict(milliseconds, QUERY_MS)} |", flush=True)
        ledger.close()
        for caches in ("warm", "emptied"):
            for before in ("a crash", "an orderly stop"):
                if before == "a crash":
                    (root / "spool" / NOTE).unlink(missing_ok=True)
                try:
                    if caches == "emptied":
                        empty_caches()
                except OSError as problem:
                    print(f"| start of `receive`, caches {caches} | not measured: {problem.strerror} | |")
                    continue
                start_s, cpu_s, peak_mb = start_receive(root)
                start = f"start of `receive` after {before}, caches {caches}"
                print(f"| {start}, s | {start_s:.1f} ({cpu_s:.1f} CPU) | {verdict(start_s, START_S)} |")
                print(f"| its peak memory, MB | {peak_mb:.0f} | {verdict(peak_mb, START_MB)} |", flush=True)


def empty_caches() -> None:
    """Have the kernel forget every file that it holds in memory; `OSError` where this process may not."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def verdict(figure: float, bound: float) -> str:
    """Return whether a figure keeps below what was asked."""
    return f"under {bound:g}: {'met' if figure < bound else '**not met**'}"


def cpu_ms(ask: Callable[[], object]) -> float:
    """Return the median processor time of some calls, in milliseconds."""
    times = []
    for _ in range(CALLS):
        began = time.process_time()
        ask()
        times.append(1000 * (time.process_time() - began))
    return statistics.median(times)


def fill(root: Path, instances: int) -> int:
    """Write the rows straight into the tables, and the files; return how many studies there are."""
    now, studies = time.time(), -(-instances // OF_A_STUDY)
    incoming = root / "spool" / "incoming"
    for digit in "0123456789abcdef":
        (incoming / digit).mkdir(parents=True)
    with closing(sqlite3.connect(root / "ledger.sqlite3")) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        for number in range(studies):
            at = now - (studies - 1 - number) * 300.0
            _fill_study(connection, number, at, is_waiting=number >= studies - LATEST)
            images = min(OF_A_STUDY, instances - number * OF_A_STUDY)
            rows = list(_images(number, images, at))
            connection.executemany(INSTANCES, rows)
            # An empty file for each; one has as many names as a file may have.
            first = root / "spool" / rows[0][2]
            first.touch()
            for row in rows[1:]:
                os.link(first, root / "spool" / row[2])
    return studies


def study_uid(number: int) -> str:
    """Return the UID of a study."""
    return f"2.25.7{number:08d}"


def _images(study: int, count: int, at: float) -> Iterator[tuple[object, ...]]:
    uid = study_uid(study)
    for number in range(count):
        instance = f"{uid}.{number}"
        name = hashlib.sha256(instance.encode()).hexdigest()
        path = f"incoming/{name[0]}/{name[:32]}-{name[32:]}.dcm"
        yield (instance, name, path, at, uid, f"{uid}.{number % 2}", HEADER, at, MR, EXPLICIT_LITTLE)


def _fill_study(connection: sqlite3.Connection, number: int, at: float, *, is_waiting: bool) -> None:
    uid, state = study_uid(number), "waiting" if is_waiting else "done"
    connection.execute("INSERT INTO studies VALUES (?, ?, ?)", (uid, at, at))
    job = connection.execute(
        'INSERT INTO jobs ("StudyInstanceUID", revision, state, attempts, reason, outcome, detail, '
        "not_before, created_at, updated_at) VALUES (?, 1, ?, 1, '', 'lesions', '{}', ?, ?, ?)",
        (uid, state, at, at, at),
    ).lastrowid
    for event in ("opened", "ready", "claimed", "encoded", "sent", "done"):
        connection.execute(
            'INSERT INTO events ("StudyInstanceUID", at, what, detail) VALUES (?, ?, ?, ?)',
            (uid, at, event, "{}"),
        )
    if is_waiting:
        return
    connection.execute(
        'INSERT INTO answers ("StudyInstanceUID", received_at, answered_at, outcome, code, lesions_ml) '
        "VALUES (?, ?, ?, 'lesions', '', 2.5)",
        (uid, at, at + 30),
    )
    for kind in ("seg", "sr"):
        result = connection.execute(
            'INSERT INTO results (job_id, kind, path, sha256, "SOPInstanceUID", "SOPClassUID", '
            "\"SeriesInstanceUID\", created_at) VALUES (?, ?, 'results/x', '0', ?, '1.2', '1.3', ?)",
            (job, kind, f"{uid}.9.{kind == 'sr':d}", at),
        ).lastrowid
        connection.execute(
            'INSERT INTO deliveries (job_id, result_id, "StudyInstanceUID", destination, state, attempts, '
            "next_attempt_at, last_status, updated_at) VALUES (?, ?, ?, 'pacs', 'confirmed', 1, ?, '', ?)",
            (job, result, uid, at, at),
        )


def queries(ledger: Ledger, studies: int, spool: Path) -> dict[str, Callable[[], object]]:
    """Return what the node asks while it receives, every second, every ten seconds or for each study."""
    newest, now = study_uid(studies - 1), time.time()
    serial = iter(range(10**6))

    def add() -> object:
        uid = f"2.25.8{next(serial):08d}"
        sha256 = hashlib.sha256(uid.encode()).hexdigest()
        path = f"incoming/0/{sha256[:32]}-{sha256[32:]}.dcm"
        # What is listed has a file: one that is missing is told of at every start.
        (spool / path).touch()
        return ledger.instances.add(
            ReceivedInstance(uid, MR, EXPLICIT_LITTLE, path, sha256, 131072, "SCANNER", "10.0.0.7", now)
        )

    instances, jobs, deliveries = ledger.instances, ledger.jobs, ledger.deliveries
    return {
        "receive: list an instance": add,
        "receive: an association": lambda: ledger.senders.record(
            [AssociationNews("bench", "SCANNER", "10.0.0.7", now, now, True)]
        ),
        "each second: what has no header": lambda: instances.unindexed(500),
        "each second: the oldest of them": instances.oldest_unread_at,
        "each second: waiting studies": jobs.waiting,
        "each second: open jobs": jobs.open_ids,
        "each second: is a study due": lambda: jobs.has_due(now),
        "each second: claim a study": lambda: jobs.claim("bench", now, 60.0),
        "each second: close what is delivered": lambda: jobs.close_delivered(now),
        "each second: destinations that are due": lambda: deliveries.due_destinations(now),
        "each second: claim deliveries": lambda: deliveries.claim("bench", now, 60.0, 64),
        "each second: proofs that are due": lambda: ledger.confirmations.due_destinations(now),
        "each second: fetches that are due": lambda: ledger.fetches.due(now),
        "a waiting study: its mark": lambda: instances.content_mark(newest),
        "a waiting study: its last image": lambda: instances.last_received_at(newest),
        "a waiting study: habits of its senders": lambda: ledger.senders.habits_of_study(newest, 120.0),
        "each ten seconds: times": lambda: ledger.times.mend(now, lease_s=60, fetch_wait_s=60, learn_s=60),
        "each ten seconds: health": ledger.history.health,
        "each hour: forget senders": lambda: ledger.senders.forget_old(now),
        "each hour: forget answers": lambda: ledger.answers.forget_old(now),
        "each hour: expired studies, none": lambda: ledger.retention.expired_studies(0.0),
        "each hour: unreadable instances": lambda: ledger.retention.expired_unreadable(now),
        "`status`, statistics: answers of 30 days": lambda: ledger.answers.figures(now - 30 * 86_400.0),
    }


def start_receive(root: Path) -> tuple[float, float, float]:
    """Start `dicomnode receive` on a folder; return seconds until it listens, CPU seconds and peak memory."""
    config = root / "node.toml"
    config.write_text(
        f'[network]\nport = {free_port()}\nae_title = "BENCH"\n'
        f'[storage]\nroot = "{root}"\nminimum_free_mb = 1\n'
    )
    command = [sys.executable, "-m", "dicomnode", "receive", "--config", str(config)]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (root / "receive.json").exists():
            if process.poll() is not None or time.monotonic() > began + 300:
                raise SystemExit("the receiver did not start")
            time.sleep(0.02)
        return time.monotonic() - began, cpu_seconds(process.pid), peak_memory_mb(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


if __name__ == "__main__":
    main()
