"""Authorities, keys and certificates made on the spot with the openssl program; nothing of them outlives a test."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Identity:
    """Where a certificate and its key lie."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority of a test.

    Parameters
    ----------
    openssl
        The program.
    folder
        Where its files go.
    name
        Its common name.
    """

    def __init__(self, openssl: str, folder: Path, name: str = "Test Authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._openssl, self.folder = openssl, folder
        self.certificate, self._key = folder / "authority.pem", folder / "authority.key"
        subject = ["-subj", f"/CN={name}", "-days", "30", "-addext", "basicConstraints=critical,CA:TRUE"]
        self._run(
            "req", "-x509", *_NEW_KEY, "-nodes", "-keyout", self._key, "-out", self.certificate, *subject
        )

    def issue(
        self,
        name: str,
        *,
        alternatives: str = "IP:127.0.0.1,DNS:localhost",
        days: int = 30,
        password: str = "",
    ) -> Identity:
        """Make a key and a certificate for `name`; with negative `days` it has expired."""
        certificate, key, request = (self.folder / f"{name}{suffix}" for suffix in (".pem", ".key", ".csr"))
        protection = ["-passout", f"pass:{password}"] if password else ["-nodes"]
        self._run("req", *_NEW_KEY, *protection, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternatives}\n")
        self._run("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", str(days),
                  "-extfile", extensions, "-out", certificate)  # fmt: skip
        return Identity(certificate, key)

    def _run(self, *words: str | Path) -> None:
        subprocess.run([self._openssl, *map(str, words)], check=True, capture_output=True)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def tls_settings(authority: Authority, identity: Identity, **more: Any) -> dict[str, Any]:
    """Return the [tls] table of a configuration."""
    return {
        "certificate": str(identity.certificate),
        "key": str(identity.key),
        "authorities": str(authority.certificate),
        **more,
    }


def client_context(authority: Authority, identity: Identity) -> ssl.SSLContext:
    """Return the context of a caller that shows `identity` and trusts `authority`."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(str(identity.certificate), str(identity.key))
    return context
