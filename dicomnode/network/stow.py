"""Delivery by DICOMweb (PS3.18): STOW-RS in place of C-STORE, QIDO-RS in place of C-FIND; same outcomes, same retry rules.

Rules for this file:
1. Nothing that a server does raises: every file gets a `SendOutcome`.
2. An object counts as stored only when the response names it in its Referenced SOP Sequence (PS3.18 10.5.3).
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from requests.adapters import HTTPAdapter

from dicomnode.network.query import InstanceKey
from dicomnode.network.status import PROCESSING_FAILURE, judge
from dicomnode.network.tls import explain
from dicomnode.records import SendOutcome
from dicomnode.settings.config import DestinationSettings

NOT_OFFERED = "the server does not offer QIDO-RS"

# OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH.
_WRONG_NAME = frozenset({62, 64})
# 408, 409 and 425 are "not now"; 429 and 5xx say so themselves. 501 and 505 will not change.
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 507})
_ADVICE = {
    401: "see secret_file",
    403: "this user may not store there",
    404: "see url",
    413: "the object is too large for it",
}


def stow_files(
    files: Sequence[Path],
    destination: DestinationSettings,
    *,
    timeout_s: float,
) -> list[SendOutcome]:
    """Store files and return one outcome per file, in their order; each file is a request of its own, so that one cannot fail another."""
    with _client(destination, timeout_s) as client:
        return [client if isinstance(client, SendOutcome) else _store(client, path) for path in files]


def find_by_qido(destination: DestinationSettings, wanted: Sequence[InstanceKey], *, timeout_s: float) -> frozenset[str] | SendOutcome:
    """Return which of the wanted SOP Instance UIDs a server lists."""
    found: set[str] = set()
    with _client(destination, timeout_s) as client:
        if isinstance(client, SendOutcome):
            return client
        for key in wanted:
            try:
                listed = client.search_for_instances(
                    key.StudyInstanceUID, key.SeriesInstanceUID, search_filters={"SOPInstanceUID": key.SOPInstanceUID}
                )
            except requests.HTTPError as problem:
                code = _code(problem)
                # Some answer "not found" for a study that is not there yet.
                if code == 404:
                    continue
                return SendOutcome("permanent", NOT_OFFERED) if code in (400, 405, 501) else _refused("QIDO-RS", code)
            except (requests.RequestException, json.JSONDecodeError, ValueError) as problem:
                return _unreachable(problem)
            uids = {str(value) for entry in listed for value in entry.get("00080018", {}).get("Value", [])}
            found |= uids & {key.SOPInstanceUID}
    return frozenset(found)


def probe_web(destination: DestinationSettings, timeout_s: float) -> SendOutcome:
    """Ask whether the service is there and lets us in, without storing anything: a search for one study."""
    with _client(destination, timeout_s) as client:
        if isinstance(client, SendOutcome):
            return client
        try:
            client.search_for_studies(limit=1)
        except requests.HTTPError as problem:
            return _refused("QIDO-RS", _code(problem))
        except (requests.RequestException, ValueError) as problem:
            return _unreachable(problem)
    return SendOutcome("ok", "the DICOMweb service answers and lets us in")


@contextmanager
def _client(destination: DestinationSettings, timeout_s: float) -> Iterator[DICOMwebClient | SendOutcome]:
    try:
        session = _session(destination)
    except OSError as problem:
        yield SendOutcome("transient", f"secret_file cannot be read: {problem.strerror}")
        return
    with session:
        client = DICOMwebClient(destination.url, session=session, timeout=timeout_s)
        # Trying again is the outbox's, which remembers it.
        client.set_http_retry_params(retry=False)
        yield client


class _NamedServer(HTTPAdapter):
    """Takes one certificate only (`tls_fingerprint`), or one with another name than the url's host (`tls_name`)."""

    def __init__(self, destination: DestinationSettings) -> None:
        pin = (destination.tls_fingerprint or "").removeprefix("sha256:")
        self._wanted: dict[str, Any] = {"assert_fingerprint": pin or None, "assert_hostname": destination.tls_name or None}
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        """Have every connection look for it."""
        super().init_poolmanager(connections, maxsize, block, **more, **self._wanted)


def _session(destination: DestinationSettings) -> requests.Session:
    session = requests.Session()
    # Proxies and passwords come from the configuration only, never from the environment or a .netrc.
    session.trust_env = False
    if destination.secret_file is not None:
        secret = destination.secret_file.read_text(encoding="utf-8").strip()
        user, colon, password = secret.partition(":")
        if colon:
            session.auth = (user, password)
        else:
            session.headers["Authorization"] = f"Bearer {secret}"
    session.mount("https://", _NamedServer(destination))
    identity = destination.identity
    if identity.authorities is not None:
        session.verify = str(identity.authorities)
    if destination.tls and identity.certificate is not None and identity.key is not None:
        session.cert = (str(identity.certificate), str(identity.key))
    return session


def _store(client: DICOMwebClient, path: Path) -> SendOutcome:
    try:
        instance = dcmread(path)
    except OSError as problem:
        lasting = isinstance(problem, FileNotFoundError | IsADirectoryError | PermissionError)
        return SendOutcome("permanent" if lasting else "transient", f"the file cannot be read: {problem.strerror}")
    except InvalidDicomError:
        return SendOutcome("permanent", "not a DICOM file with File Meta Information")
    try:
        response = client.store_instances([instance])
    except requests.HTTPError as problem:
        return _from_error(problem, str(instance.SOPInstanceUID))
    except requests.RequestException as problem:
        return _unreachable(problem)
    except (ValueError, KeyError, AttributeError, TypeError) as problem:
        return SendOutcome("transient", f"the server's response to STOW-RS cannot be read ({type(problem).__name__})")
    return _verdict(response, str(instance.SOPInstanceUID))


def _unreachable(problem: Exception) -> SendOutcome:
    """Say why there was no response; of a certificate that was not accepted, what to do about it."""
    fault = _tls_fault(problem)
    if fault is None and isinstance(problem, requests.exceptions.SSLError):
        return SendOutcome("transient", "no TLS connection: it showed another certificate; compare tls_fingerprint and tls_name with it")
    if fault is None:
        return SendOutcome("transient", f"the server cannot be reached ({type(problem).__name__})")
    words = explain(fault)
    if isinstance(fault, ssl.SSLCertVerificationError) and fault.verify_code in _WRONG_NAME:
        return SendOutcome(
            "transient", f"no TLS connection: {words.seen}; use a name of its certificate in destinations.url, or set tls_name"
        )
    if isinstance(fault, ssl.SSLCertVerificationError) or "ALERT" in (fault.reason or ""):
        return SendOutcome("transient", f"no TLS connection: {words.seen}; {words.advice}")
    return SendOutcome("transient", f"no TLS connection ({fault.reason}); does the server speak HTTPS on that port?")


def _tls_fault(problem: BaseException) -> ssl.SSLError | None:
    """Return what OpenSSL said; `requests` and urllib3 wrap it, each in its own way."""
    seen: list[object] = [problem]
    for one in seen:
        if isinstance(one, ssl.SSLError):
            return one
        if isinstance(one, BaseException):
            inner = (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__)
            seen += [other for other in inner if isinstance(other, BaseException) and other not in seen]
    return None


def _verdict(response: Dataset, SOPInstanceUID: str) -> SendOutcome:
    for item in response.get("FailedSOPSequence") or ():
        if item.get("ReferencedSOPInstanceUID", SOPInstanceUID) == SOPInstanceUID:
            return _failed(int(item.get("FailureReason") or PROCESSING_FAILURE))
    if any(item.get("ReferencedSOPInstanceUID") == SOPInstanceUID for item in response.get("ReferencedSOPSequence") or ()):
        return SendOutcome("ok", "STOW-RS: stored", 0x0000)
    return SendOutcome("transient", "the server's response to STOW-RS does not name the object")


def _from_error(problem: requests.HTTPError, SOPInstanceUID: str) -> SendOutcome:
    """Read the reason from the body where there is one (409 with a Failed SOP Sequence, PS3.18 Table 10.5.3-1)."""
    code = _code(problem)
    if code in (400, 409, 422) and problem.response is not None:
        try:
            outcome = _verdict(Dataset.from_json(problem.response.json()), SOPInstanceUID)
        except (ValueError, KeyError, AttributeError, TypeError):
            return _refused("STOW-RS", code)
        return outcome if outcome.status is not None else _refused("STOW-RS", code)
    return _refused("STOW-RS", code)


def _code(problem: requests.HTTPError) -> int:
    return problem.response.status_code if problem.response is not None else 0


def _failed(reason: int) -> SendOutcome:
    judgement = judge(reason)
    verdict = "transient" if judgement.verdict == "ok" and reason != 0x0111 else judgement.verdict
    return SendOutcome(verdict, f"STOW-RS: failed with 0x{reason:04X}: {judgement.meaning}", reason)


def _refused(service: str, code: int) -> SendOutcome:
    advice = f"; {_ADVICE[code]}" if code in _ADVICE else ""
    return SendOutcome("transient" if code in _PASSING else "permanent", f"{service} was answered HTTP {code}{advice}", code)
