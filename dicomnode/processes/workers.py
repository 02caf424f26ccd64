"""The processes that studies are computed in on this machine.

What they listen on, who may speak to them, where they write.

Rules for this file:
1. Dask runs whatever it is sent, so its parts listen on the loopback address and take only the certificate
   that was made for this run.
2. A worker opens no HTTP server, and what it leaves behind when it is killed is removed.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Nanny, Scheduler, SpecCluster, Worker
from distributed.security import Security


class _SilentScheduler(Scheduler):
    """A scheduler without its HTTP server, which tells whoever asks about tasks and workers."""

    def start_http_server(self, *_args: Any, **_kwargs: Any) -> None:
        """Start none."""


class _SilentWorker(Worker):
    """A worker without an HTTP server, with a folder of its own for temporary files."""

    def __init__(self, *args: Any, scratch: str, **kwargs: Any) -> None:
        # Called once, in the worker's process, before anything in it has made a temporary file.
        self._scratch_lock = claim_scratch(Path(scratch))
        super().__init__(*args, **kwargs)

    def start_http_server(self, *_args: Any, **_kwargs: Any) -> None:
        """Start none."""


def claim_scratch(scratch: Path) -> int:
    """Make this process keep its temporary files in a new folder below `scratch`.

    Remove the folders of processes that ended.

    Returns the open lock: the kernel frees it however the process ends, so that the next one may remove the
    folder.
    """
    import fcntl

    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    gate = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for folder in scratch.iterdir():
            _remove_unless_locked(folder)
        folder_of_process = tempfile.mkdtemp(prefix="worker-", dir=scratch)
        lock = os.open(folder_of_process, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(gate)
    tempfile.tempdir = folder_of_process
    os.environ["TMPDIR"] = folder_of_process
    return lock


def _remove_unless_locked(folder: Path) -> None:
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # Its process lives.
    finally:
        os.close(handle)


def start_workers(memory_limit_mb: int, workers: int, security: Security, scratch: Path) -> SpecCluster:
    """Start a scheduler in this process and workers in processes of their own.

    All listen on the loopback address, by TLS only.
    """
    # Python would take a `socket.py` of the working folder for its own, in every process that is started from
    # here (-P).
    os.environ["PYTHONSAFEPATH"] = "1"
    address = {"host": "127.0.0.1", "protocol": "tls://", "security": security}
    worker = {
        "cls": Nanny,
        "options": {
            **address,
            "nthreads": 1,
            "memory_limit": memory_limit_mb * 2**20,
            "silence_logs": logging.CRITICAL,  # its error lines print the argument, which holds header text
            "local_directory": str(scratch / "dask"),
            "worker_class": _SilentWorker,
            "scratch": str(scratch / "workers"),
        },
    }
    return SpecCluster(
        scheduler={"cls": _SilentScheduler, "options": {**address, "port": 0, "dashboard": False}},
        worker=worker,
        workers=dict.fromkeys(range(workers), worker),
        security=security,
        silence_logs=logging.CRITICAL,
    )


def make_temporary_security() -> Security:
    """Return a key and a certificate that nobody else has.

    The parts take no other, and it is never written into a file of ours.

    Dask's own `Security.temporary` ends after a year and does not hold once the clock is set back; a node may
    run for longer.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dicomnode-workers")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        # RFC 5280 4.1.2.5: the date of a certificate without a well-defined end.
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return security_of(certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem)


def security_of(certificate: str, key: str, authorities: str = "") -> Security:
    """Return the same PEM certificate and key for every part, each a path or the text itself.

    A certificate alone vouches for itself.
    """
    pair = {
        f"tls_{role}_{kind}": value
        for role in ("client", "scheduler", "worker")
        for kind, value in (("cert", certificate), ("key", key))
    }
    return Security(require_encryption=True, tls_ca_file=authorities or certificate, **pair)
