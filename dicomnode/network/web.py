"""One HTTP request to a DICOMweb service: who we are there, whom we trust, and every fault in words.

Rules for this file:
1. Nothing that a server does raises.
2. No redirect is followed: the object would go, patient's name and all, to a host that nobody configured.
3. Proxies and passwords come from the configuration only, never from the environment or a .netrc.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from dicomnode.network.tls import explain
from dicomnode.records import SendOutcome
from dicomnode.settings.config import DestinationSettings

# OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH.
_WRONG_NAME = frozenset({62, 64})
# A temporary redirect is often a service that is being maintained; a permanent one asks for another url.
_TEMPORARY_REDIRECTS = frozenset({302, 303, 307})
# "Not now", or credentials that somebody is about to renew: the secret file is read afresh for every try.
_PASSING = frozenset({401, 403, 407, 408, 409, 423, 425, 429, 500, 502, 503, 504, 507})
_ADVICE = {
    401: "see secret_file",
    403: "this user may not do that there; see secret_file",
    404: "see url",
    413: "the object is too large for it",
}
# A response on one object is a few hundred bytes; a query for one instance lists one.
_LARGEST_BODY_BYTES = 4 * 2**20
# The timeout of a request is one for each read; a server that drips ends here.
_LONGEST_TIMEOUTS = 10


@dataclass(frozen=True)
class Reply:
    """What a server answered: the status, the media type and the body.

    The media type is in small letters, without its parameters.
    """

    status: int
    media_type: str
    body: bytes
    location: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 2xx."""
        return 200 <= self.status < 300

    @property
    def is_web_page(self) -> bool:
        """Whether it is a page for people, such as the form of a log-in, whatever its media type says."""
        start = self.body.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
        return "html" in self.media_type or start.startswith((b"<!doctype html", b"<html"))

    def datasets(self) -> list[Mapping[str, Any]]:
        """Return the data sets of a DICOM JSON body (PS3.18 F.2), one or an array of them.

        The result is None when the body is something else.
        """
        try:
            content = json.loads(self.body.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return []
        return [
            entry
            for entry in (content if isinstance(content, list) else [content])
            if isinstance(entry, dict)
        ]


class WebService:
    """A DICOMweb service, for as long as its session is open."""

    def __init__(self, session: requests.Session, root_url: str, timeout_s: float) -> None:
        self._session, self._root_url, self._timeout_s = session, root_url.rstrip("/"), timeout_s

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "",
    ) -> Reply | SendOutcome:
        """Send one request and return the answer, or why there was none.

        A redirect is no answer.
        """
        headers = {
            "Accept": "application/dicom+json",
            **({"Content-Type": content_type} if content_type else {}),
        }
        try:
            with self._session.request(
                method,
                self._root_url + path,
                params=query,
                data=body,
                headers=headers,
                timeout=self._timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                reply = Reply(
                    response.status_code,
                    media_type_of(response.headers.get("Content-Type", "")),
                    self._read(response),
                    response.headers.get("Location", ""),
                )
        except (requests.RequestException, ValueError) as problem:
            return unreachable(problem)
        return redirected(reply) if 300 <= reply.status < 400 else reply

    def _read(self, response: requests.Response) -> bytes:
        end, body = time.monotonic() + self._timeout_s * _LONGEST_TIMEOUTS, b""
        for chunk in response.iter_content(65536):
            body += chunk
            if len(body) > _LARGEST_BODY_BYTES or time.monotonic() > end:
                raise requests.exceptions.ReadTimeout("the response does not end")
        return body


@contextmanager
def open_service(destination: DestinationSettings, timeout_s: float) -> Iterator[WebService | SendOutcome]:
    """Open a destination's service; the credentials are read from their file anew each time."""
    try:
        session = _session(destination)
    except OSError as problem:
        yield SendOutcome("transient", f"secret_file cannot be read: {problem.strerror}")
        return
    except UnicodeDecodeError:
        yield SendOutcome("transient", "secret_file cannot be read: it is not UTF-8 text")
        return
    with session:
        yield WebService(session, destination.url, timeout_s)


def media_type_of(header: str) -> str:
    """Return a Content-Type without parameters, in small letters: case does not count (RFC 9110 8.3.1)."""
    return header.partition(";")[0].strip().lower()


def redirected(reply: Reply) -> SendOutcome:
    """Name where a server wanted to send us; only the host, since a path may quote an object."""
    target = urlsplit(reply.location)
    host = re.sub(r"[^A-Za-z0-9.:\[\]-]", "", target.netloc.rpartition("@")[2])[:100]
    scheme = target.scheme if target.scheme in {"http", "https"} else ""
    address = f"{scheme}://{host}" if scheme and host else host or "another path of this server"
    reason = (
        f"HTTP {reply.status}: the server redirects to {address}, which is not followed; set "
        "destinations.url to the right address"
    )
    return SendOutcome(
        "transient" if reply.status in _TEMPORARY_REDIRECTS else "permanent", reason, reply.status
    )


def refused(service: str, status: int) -> SendOutcome:
    """Say what an HTTP status other than 2xx means for the next try."""
    advice = f"; {_ADVICE[status]}" if status in _ADVICE else ""
    return SendOutcome(
        "transient" if status in _PASSING else "permanent",
        f"{service} was answered HTTP {status}{advice}",
        status,
    )


def web_page(service: str, status: int) -> SendOutcome:
    """Say that a page for people came back, which is no answer of a DICOMweb service."""
    return SendOutcome(
        "transient",
        (
            f"{service} was answered HTTP {status} with a web page, perhaps a log-in; nothing "
            "counts as stored: see url and secret_file"
        ),
        status,
    )


def unreachable(problem: Exception) -> SendOutcome:
    """Say why there was no response; of a certificate that was not accepted, what to do about it."""
    fault = _tls_fault(problem)
    if fault is None and isinstance(problem, requests.exceptions.SSLError):
        return SendOutcome(
            "transient",
            "no TLS connection: it showed another certificate; compare tls_fingerprint and tls_name with it",
        )
    if fault is None and isinstance(problem, requests.exceptions.InvalidHeader | UnicodeError):
        return SendOutcome(
            "transient",
            (
                "no request was made: the content of secret_file cannot be sent; it must be one line "
                "of plain text"
            ),
        )
    if fault is None:
        return SendOutcome("transient", f"the server cannot be reached ({type(problem).__name__})")
    words = explain(fault)
    if isinstance(fault, ssl.SSLCertVerificationError) and fault.verify_code in _WRONG_NAME:
        return SendOutcome(
            "transient",
            (
                f"no TLS connection: {words.seen}; use a name of its certificate in destinations.url, "
                "or set tls_name"
            ),
        )
    if isinstance(fault, ssl.SSLCertVerificationError) or "ALERT" in (fault.reason or ""):
        return SendOutcome("transient", f"no TLS connection: {words.seen}; {words.advice}")
    return SendOutcome(
        "transient", f"no TLS connection ({fault.reason}); does the server speak HTTPS on that port?"
    )


def _tls_fault(problem: BaseException) -> ssl.SSLError | None:
    """Return OpenSSL's own error; `requests` and urllib3 wrap it, each in its own way."""
    chain: list[BaseException] = [problem]
    for error in chain:
        if isinstance(error, ssl.SSLError):
            return error
        causes = (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
        chain += [cause for cause in causes if isinstance(cause, BaseException) and cause not in chain]
    return None


class _NamedServer(HTTPAdapter):
    """Takes one certificate only (`tls_fingerprint`).

    The certificate may instead be bound to another name than the url's host (`tls_name`).
    """

    def __init__(self, destination: DestinationSettings) -> None:
        pin = (destination.tls_fingerprint or "").removeprefix("sha256:")
        self._checks: dict[str, Any] = {
            "assert_fingerprint": pin or None,
            "assert_hostname": destination.tls_name or None,
        }
        super().__init__()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_options: Any
    ) -> None:
        """Have every connection make these checks."""
        super().init_poolmanager(connections, maxsize, block, **pool_options, **self._checks)


def _session(destination: DestinationSettings) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    if destination.secret_file is not None:
        secret = destination.secret_file.read_text(encoding="utf-8-sig").strip()
        user, colon, password = secret.partition(":")
        if colon:
            # As bytes: requests would take a text for Latin-1.
            session.auth = HTTPBasicAuth(user.encode(), password.encode())
        else:
            session.headers["Authorization"] = f"Bearer {secret}"
    session.mount("https://", _NamedServer(destination))
    identity = destination.identity
    if identity.authorities is not None:
        session.verify = str(identity.authorities)
    if destination.tls and identity.certificate is not None and identity.key is not None:
        session.cert = (str(identity.certificate), str(identity.key))
    return session
