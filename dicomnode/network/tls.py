"""TLS as PS3.15 B.12 asks for it (BCP 195: RFC 8996, RFC 9325).

Contexts for both directions, certificates, and failures in words.

Rules for this file:
1. Both ends show a certificate, and only the authorities of the configuration vouch for one.
2. A failure is explained by its kind: neither a certificate's text nor a password is ever quoted.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicomnode.errors import StartError
from dicomnode.settings.config import DestinationSettings, TlsSettings

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# RFC 9325 4.2: forward secrecy and authenticated encryption. The suites of TLS 1.3 are all of that kind and
# stand beside these.
_TLS_1_2_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
# RFC 8446: the record that a TLS client speaks first; and PS3.8 9.3.2: an A-ASSOCIATE-RQ begins with 1.
TLS_HANDSHAKE = b"\x16"
A_ASSOCIATE_RQ = b"\x01"


@dataclass(frozen=True)
class Certificate:
    """What a peer showed.

    The SHA-256 of its DER bytes, and the names in its subject (CN) and subject alternative names.
    """

    fingerprint: str
    names: frozenset[str]

    def fits(self, rules: Collection[str]) -> bool:
        """Return whether one of the rules is about this certificate.

        A rule is `sha256:...` or a name; case does not count.
        """
        known_names = {self.fingerprint, *(name.lower() for name in self.names)}
        return any(rule.lower() in known_names for rule in rules)


@dataclass(frozen=True)
class HandshakeProblem:
    """Why no TLS connection came about, and what to change."""

    seen: str
    advice: str


def acceptor_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return the context of our listener: a caller must show a certificate of our authorities.

    `StartError` names the file that is wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return _furnished(context, settings)


def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return the context for a server of another kind (syslog) that our authorities vouch for by its name.

    `StartError` as above.
    """
    return _furnished(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), settings)


class RequestorTls:
    """TLS towards one destination, for one connection.

    Pynetdicom takes `arguments`, and `problem` says afterwards what went wrong.

    Raises
    ------
    StartError
        Names the file that is wrong.
    """

    def __init__(self, destination: DestinationSettings) -> None:
        self.problem: OSError | None = None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Whose certificate is pinned needs no name in it: many archives have none that fits.
        context.check_hostname = destination.tls_fingerprint is None
        context.sslsocket_class = _watched(self, destination.tls_fingerprint)
        self.arguments = (_furnished(context, destination.identity), destination.tls_name or destination.host)


def _watched(tls: RequestorTls, fingerprint: str | None) -> type[ssl.SSLSocket]:
    """Return a socket class that keeps what went wrong, which pynetdicom swallows.

    The socket takes the pinned certificate only.
    """

    class Watched(ssl.SSLSocket):
        def connect(self, addr: Any) -> None:
            try:
                super().connect(addr)
            except OSError:
                self.close()
                raise

        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
                certificate = certificate_of(self)
                if fingerprint and (certificate is None or certificate.fingerprint != fingerprint):
                    raise ssl.SSLCertVerificationError(1, _OTHER_CERTIFICATE)
            except OSError as problem:
                tls.problem = problem
                raise

        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            # With TLS 1.3 a peer that refuses our certificate says so after the handshake.
            try:
                return super().recv(buflen, flags)
            except ssl.SSLError as problem:
                tls.problem = problem
                raise

    return Watched


def certificate_of(connection: Any) -> Certificate | None:
    """Return the certificate of the other end of a connection; None without TLS."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    encoded = connection.getpeercert(binary_form=True)
    if not encoded:
        return None
    decoded: Any = connection.getpeercert() or {}
    common = [value for entry in decoded.get("subject", ()) for key, value in entry if key == "commonName"]
    alternative_names = [
        value for _kind, value in decoded.get("subjectAltName", ()) if isinstance(value, str)
    ]
    return Certificate(
        f"sha256:{hashlib.sha256(encoded).hexdigest()}", frozenset([*common, *alternative_names])
    )


def fingerprint_of(file: Path) -> str:
    """Return the fingerprint of the first certificate in a PEM file. Raises `OSError` or `ValueError`."""
    text = file.read_text(encoding="ascii", errors="replace")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    first = text[text.index(begin) : text.index(end) + len(end)]
    return f"sha256:{hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()}"


def speaks_tls(host: str, port: int, timeout_s: float) -> bool:
    """Return whether whoever listens there answers a TLS greeting; nothing is sent to it but that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout_s) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return True
    except ssl.SSLError as problem:
        # An alert is spoken in TLS.
        return "ALERT" in (problem.reason or "")
    except OSError:
        return False


def expires_in_days(file: Path, now: float) -> float:
    """Return for how long our certificate is good yet, in days; negative when it has expired.

    Raises `OSError` or `ValueError`.
    """
    # The standard library decodes a certificate in a file here only; the name has been the same since Python
    # 3.0.
    decoded = ssl._ssl._test_decode_cert(str(file))  # type: ignore[attr-defined]  # noqa: SLF001
    return (ssl.cert_time_to_seconds(decoded["notAfter"]) - now) / 86_400


def explain(problem: BaseException) -> HandshakeProblem:
    """Put a failed handshake in words."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        if _OTHER_CERTIFICATE in problem.args:
            return HandshakeProblem(
                _OTHER_CERTIFICATE,
                "compare tls_fingerprint with the peer's certificate; find out who changed it",
            )
        return _VERIFICATION.get(getattr(problem, "verify_code", 0), _UNVERIFIED)
    if isinstance(problem, ssl.SSLError):
        reason = problem.reason or ""
        return next(
            (words for key, words in _REASONS.items() if key in reason),
            HandshakeProblem(f"TLS failed ({reason or 'unknown'})", _SEE),
        )
    if isinstance(problem, TimeoutError):
        return HandshakeProblem("the TLS handshake was not finished in time", _PLAIN_THERE)
    return HandshakeProblem("the peer broke off during the TLS handshake", _PLAIN_THERE)


def _furnished(context: ssl.SSLContext, settings: TlsSettings) -> ssl.SSLContext:
    context.minimum_version = _VERSIONS[settings.minimum_version]
    context.set_ciphers(_TLS_1_2_SUITES)
    if settings.certificate is None or settings.key is None or settings.authorities is None:
        raise StartError("tls: set tls.certificate, tls.key and tls.authorities")
    try:
        context.load_cert_chain(
            settings.certificate, settings.key, lambda: _password(settings.key_password_file)
        )
    except (OSError, ValueError) as problem:
        raise StartError(f"tls.certificate, tls.key: {_file_problem(problem)}") from None
    try:
        context.load_verify_locations(settings.authorities)
    except (OSError, ValueError) as problem:
        raise StartError(f"tls.authorities: {_file_problem(problem)}") from None
    if settings.revoked is not None:
        try:
            context.load_verify_locations(settings.revoked)
        except (OSError, ValueError) as problem:
            raise StartError(f"tls.revoked: {_file_problem(problem)}") from None
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    if settings.key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) & ~stat.S_IRGRP:
        raise StartError(
            f"tls.key: {settings.key} can be read or changed by others; `chmod 640` it, or stricter"
        )
    return context


def _password(file: Path | None) -> str:
    """Return the first line of the password file; never ask at the terminal."""
    if file is None:
        raise ValueError("the key has a password: set tls.key_password_file")
    try:
        return file.read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        raise ValueError("tls.key_password_file cannot be read, or is empty") from None


def _file_problem(problem: Exception) -> str:
    if isinstance(problem, ssl.SSLError):
        reason = problem.reason or ""
        if "KEY_VALUES_MISMATCH" in reason:
            return "the key does not belong to the certificate"
        return (
            "the file holds nothing in PEM form that is meant here, or the password in "
            "tls.key_password_file does not open the key"
        )
    if isinstance(problem, OSError):
        return f"a file cannot be read: {problem.strerror}"
    return str(problem)


_SEE = "see the peer's log; `openssl s_client` shows what it offers"
_OTHER_CERTIFICATE = "it showed another certificate than the pinned one"
_PLAIN_THERE = (
    "does it speak TLS at all? Plain DICOM on that port answers so; turn TLS on or off on both sides"
)
_UNVERIFIED = HandshakeProblem(
    "the peer's certificate was not accepted", "see that one of tls.authorities has signed it"
)
_WRONG_AUTHORITY = HandshakeProblem(
    "the peer's certificate was signed by an authority that is not in tls.authorities",
    "add that authority, or give the peer another certificate",
)
_WRONG_NAME = HandshakeProblem(
    "the name in the peer's certificate is another one",
    "set destinations.tls_name to a name in it, or pin it by tls_fingerprint",
)
# OpenSSL's X509_V_ERR_ codes.
_VERIFICATION = {
    9: HandshakeProblem("the peer's certificate is not valid yet", "compare the clocks of both machines"),
    10: HandshakeProblem(
        "the peer's certificate has expired", "renew it there; compare the clocks of both machines"
    ),
    3: HandshakeProblem("there is no revocation list of the peer's authority", "add it to tls.revoked"),
    12: HandshakeProblem("the revocation list has expired", "fetch a new one for tls.revoked"),
    18: _WRONG_AUTHORITY,
    19: _WRONG_AUTHORITY,
    20: _WRONG_AUTHORITY,
    21: _WRONG_AUTHORITY,
    23: HandshakeProblem("the peer's certificate was revoked", "give the peer a new one"),
    62: _WRONG_NAME,
    64: _WRONG_NAME,
}
_TOO_OLD = HandshakeProblem(
    "no TLS version that both sides speak",
    "turn TLS 1.2 or 1.3 on there; tls.minimum_version says what we take",
)
_PLAIN = HandshakeProblem(
    "plain DICOM where TLS was expected",
    "turn TLS on at the other side, or off here (network.tls, destinations.tls)",
)
# Parts of OpenSSL's reasons; the first that fits counts. An "alert" is what the other side said of us.
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": HandshakeProblem(
        "the peer showed no certificate", "give it one of an authority in tls.authorities (mutual TLS)"
    ),
    "ALERT_CERTIFICATE_REQUIRED": HandshakeProblem(
        "the peer wants a certificate and got none", "set tls.certificate and tls.key"
    ),
    "ALERT_UNKNOWN_CA": HandshakeProblem(
        "the peer does not trust the authority of our certificate",
        "have that authority added there, or take a certificate of one it knows",
    ),
    "ALERT_CERTIFICATE_EXPIRED": HandshakeProblem(
        "our certificate has expired, says the peer", "renew tls.certificate; compare the clocks"
    ),
    "ALERT_CERTIFICATE_REVOKED": HandshakeProblem(
        "our certificate was revoked, says the peer", "get a new tls.certificate"
    ),
    "CERTIFICATE": HandshakeProblem(
        "the peer does not accept our certificate",
        "see its log; the name or the use may be what it objects to",
    ),
    "ALERT_PROTOCOL_VERSION": _TOO_OLD,
    "UNSUPPORTED_PROTOCOL": _TOO_OLD,
    "NO_PROTOCOLS_AVAILABLE": _TOO_OLD,
    "NO_SHARED_CIPHER": HandshakeProblem(
        "no cipher suite that both sides take",
        "turn on an ECDHE suite with AES-GCM or ChaCha20 there (RFC 9325)",
    ),
    "ALERT_HANDSHAKE_FAILURE": HandshakeProblem(
        "the peer ended the handshake: no common cipher suite, or it wants another certificate",
        "turn on an ECDHE suite with AES-GCM there",
    ),
    "WRONG_VERSION_NUMBER": _PLAIN,
    "HTTP_REQUEST": HandshakeProblem(
        "HTTP where DICOM over TLS was expected", "somebody's browser or scanner; nothing to do"
    ),
    "UNEXPECTED_EOF": HandshakeProblem("the peer broke off during the TLS handshake", _PLAIN_THERE),
}
