"""How quick the pages are with many studies in the ledger: `python -m scripts.bench.pages`.

The ledger is filled with made-up studies of two images and one answer each; the pages are called in this
process, as the guard and the templates cost on a node, without a network between. Prints the median and the
slowest of some calls of each page.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from datetime import datetime
from pathlib import Path

import httpx
import numpy as np

from dicomnode.ledger.ledger import Ledger
from dicomnode.settings.config import parse_config
from dicomnode.web.application import make_application
from dicomnode.web.open_site import open_site

STUDY = "2.25.7{:08d}"
RARE = 20
PAGES = {
    "list of studies": "/",
    "list, one state": "/?state=done",
    "list, a rare state": "/?state=failed",
    "list, one outcome": "/?outcome=lesions",
    "list, a rare outcome": "/?outcome=negative",
    "list, a rare delivery": "/?delivery=given_up",
    "list, one sender": "/?ae=SCANNER3",
    "list, a part of the UID": "/?uid=700000{}",
    "list, far back": "/?until={oldest}",
    "page of a study": "/studies/" + STUDY,
    "statistics of 30 days": "/statistics",
}
_HEADER = (
    '{"SOPInstanceUID":"1","SOPClassUID":"1.2.840.10008.5.1.4.1.1.4",'
    '"StudyInstanceUID":"1","SeriesInstanceUID":"1"}'
)


def main() -> None:
    """Fill a ledger and time the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config({"storage": {"root": folder}, "web": {"enabled": True, "login": False}})
        ledger = Ledger.open(config.storage.database_url)
        fill(Path(folder) / "ledger.sqlite3", options.studies)
        site = open_site(config, ledger, lambda _event: None, lambda _config: (), lambda _config: ())
        with _client(make_application(site)) as client:
            for name, path in PAGES.items():
                oldest = (
                    datetime.fromtimestamp(time.time() - options.studies * 57)
                    .astimezone()
                    .strftime("%Y-%m-%d")
                )
                times = [
                    _seconds(client, path.replace("{oldest}", oldest).format(number % options.studies))
                    for number in range(options.calls)
                ]
                print(
                    f"{name:28} median {1000 * np.median(times):6.0f} ms, slowest {1000 * max(times):6.0f} ms"
                )
        ledger.close()


def fill(path: Path, studies: int) -> None:
    """Write studies straight into the tables: by the ledger's verbs it would take minutes."""
    now = time.time()
    with sqlite3.connect(path) as connection:
        for number in range(studies):
            uid, at = STUDY.format(number), now - number * 60
            # The oldest few are what is rare: a walk from the newest on would come to them last.
            is_rare = number >= studies - RARE
            state, outcome = ("failed", "negative") if is_rare else ("done", "lesions")
            delivery = "given_up" if is_rare else "confirmed"
            connection.execute("INSERT INTO studies VALUES (?, ?, ?)", (uid, at, at))
            detail = (
                '{"lesions": [{"label": 1, "volume_ml": 2.5, "laterality": "left", "centroid_lps_mm": [1, 2, '
                '3], "mean_probability": 0.9}]}'
            )
            job = connection.execute(
                'INSERT INTO jobs ("StudyInstanceUID", revision, state, attempts, reason, outcome, detail, '
                "not_before, created_at, updated_at) "
                "VALUES (?, 1, ?, 1, '1 lesion, 2.5 ml in all.', ?, ?, ?, ?, ?)",
                (uid, state, outcome, detail, at, at, at + 60),
            ).lastrowid
            connection.execute(
                'INSERT INTO answers ("StudyInstanceUID", received_at, answered_at, '
                "outcome, code, lesions_ml) "
                "VALUES (?, ?, ?, ?, '', 2.5)",
                (uid, at, at + 30, outcome),
            )
            result = connection.execute(
                'INSERT INTO results (job_id, kind, path, sha256, "SOPInstanceUID", "SOPClassUID", '
                '"SeriesInstanceUID", created_at) '
                "VALUES (?, 'seg', 'results/x', '0', ?, '1.2', '1.3', ?)",
                (job, f"{uid}.9", at + 30),
            ).lastrowid
            connection.execute(
                'INSERT INTO deliveries (job_id, result_id, "StudyInstanceUID", destination, state, '
                "attempts, next_attempt_at, last_status, updated_at) "
                "VALUES (?, ?, ?, 'pacs', ?, 1, ?, '0x0000', ?)",
                (job, result, uid, delivery, at, at),
            )
            for image in range(2):
                connection.execute(
                    'INSERT INTO instances ("SOPInstanceUID", sha256, arrival, "SOPClassUID", '
                    '"TransferSyntaxUID", path, size_bytes, calling_ae, '
                    'peer_host, received_at, reading, "StudyInstanceUID", "SeriesInstanceUID", header) '
                    "VALUES (?, ?, 0, '1.2', '1.2', ?, 1000, ?, '10.0.0.1', ?, 'indexed', ?, ?, ?)",
                    (
                        f"{uid}.{image}",
                        f"{number}.{image}",
                        f"incoming/{number}.{image}",
                        f"SCANNER{number % 5}",
                        at,
                        uid,
                        f"{uid}.1",
                        _HEADER,
                    ),
                )
            for event in ("opened", "ready", "claimed", "encoded", "sent", "done"):
                connection.execute(
                    'INSERT INTO events ("StudyInstanceUID", at, what, detail) VALUES (?, ?, ?, ?)',
                    (uid, at, event, "{}"),
                )


def _client(application: object) -> httpx.Client:
    from starlette.testclient import TestClient

    return TestClient(application, base_url="http://127.0.0.1")  # type: ignore[arg-type]


def _seconds(client: httpx.Client, path: str) -> float:
    started = time.perf_counter()
    answer = client.get(path)
    if answer.status_code != 200 or (STUDY[:5] not in answer.text and "statistics" not in path):
        raise SystemExit(f"{path}: {answer.status_code}")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
