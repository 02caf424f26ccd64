"""Who may call: called and calling AE titles, addresses and certificates against the configuration."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from dicomnode.network.tls import Certificate
from dicomnode.settings.config import Config, PeerSettings

# (result, source, reason) of an A-ASSOCIATE-RJ, PS3.8 Table 9-21.
_CALLED_NOT_RECOGNIZED = (1, 1, 7, "called AE title not recognized")
_CALLING_NOT_RECOGNIZED = (1, 1, 3, "calling AE title not recognized")
_CONTEXT_NOT_SUPPORTED = (1, 1, 2, "application context not supported")
_VERSION_NOT_SUPPORTED = (1, 2, 2, "protocol version not supported")
_LOCAL_LIMIT_EXCEEDED = (2, 3, 2, "local limit exceeded")


@dataclass(frozen=True)
class Rejection:
    """Why a caller is turned away.

    The A-ASSOCIATE-RJ triple (PS3.8 Table 9-21), its words, and what the administrator should change.
    """

    result: int
    source: int
    reason: int
    kind: str
    advice: str


def check_caller(
    config: Config, *, called_ae: str, calling_ae: str, host: str, certificate: Certificate | None = None
) -> Rejection | None:
    """Return why an association is rejected, or None when the caller may come in.

    Leading and trailing spaces do not count.

    A title is empty when what came is none (`request`).

    With TLS a peer is an AE title, an address and a certificate: all three have to fit one entry.
    """
    if not calling_ae.strip():
        return Rejection(
            *_CALLING_NOT_RECOGNIZED,
            "what the peer calls itself is no AE title: set one there, 1 to 16 characters of ASCII",
        )
    titles = " or ".join(map(repr, config.network.own_ae_titles))
    if config.network.require_called_ae and called_ae.strip() not in config.network.own_ae_titles:
        return Rejection(
            *_CALLED_NOT_RECOGNIZED,
            f"the peer calls {called_ae.strip()!r}: set it to {titles} there",
        )
    same_title = [peer for peer in config.peers if peer.ae_title == calling_ae.strip()]
    same_host = [peer for peer in same_title if _host_fits(peer, host)]
    if any(_certificate_fits(peer, certificate) for peer in same_host):
        return None
    if same_host:
        fingerprint = certificate.fingerprint if certificate else "none"
        advice = (
            f"{calling_ae.strip()!r} showed another certificate ({fingerprint}): add it to "
            "certificates of its [[peers]] entry"
        )
        return Rejection(*_CALLING_NOT_RECOGNIZED, advice)
    if same_title:
        return Rejection(
            *_CALLING_NOT_RECOGNIZED,
            f"{calling_ae.strip()!r} may not call from {host}: add it to hosts of its [[peers]] entry",
        )
    unknown = config.network.accept_unknown_peers
    if unknown == "always" or (unknown == "loopback" and _address(host).is_loopback):
        return None
    return Rejection(
        *_CALLING_NOT_RECOGNIZED, f"{calling_ae.strip()!r} from {host} is not in [[peers]]: add it"
    )


def peer_of(config: Config, calling_ae: str, host: str) -> PeerSettings | None:
    """Return the [[peers]] entry of a caller."""
    return next(
        (peer for peer in config.peers if peer.ae_title == calling_ae.strip() and _host_fits(peer, host)),
        None,
    )


def is_peer_address(config: Config, host: str) -> bool:
    """Return whether an address is one that a [[peers]] entry names."""
    return any(peer.hosts and _host_fits(peer, host) for peer in config.peers)


def foreign_version() -> Rejection:
    """Return the rejection of who speaks another version of the upper layer protocol."""
    return Rejection(
        *_VERSION_NOT_SUPPORTED,
        "the peer does not speak version 1 of the DICOM upper layer protocol: ask its vendor",
    )


def foreign_context() -> Rejection:
    """Return the rejection of who asks for another application than DICOM."""
    return Rejection(
        *_CONTEXT_NOT_SUPPORTED, "the peer asks for another application context than DICOM's: ask its vendor"
    )


def busy(advice: str) -> Rejection:
    """Return the rejection for the moment: the peer may come again."""
    return Rejection(*_LOCAL_LIMIT_EXCEEDED, advice)


def _host_fits(peer: PeerSettings, host: str) -> bool:
    if not peer.hosts:
        return True
    address = _address(host)
    return any(address in ipaddress.ip_network(allowed, strict=False) for allowed in peer.hosts)


def _certificate_fits(peer: PeerSettings, certificate: Certificate | None) -> bool:
    return not peer.certificates or (certificate is not None and certificate.fits(peer.certificates))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host.partition("%")[0])
    # A listener on :: sees IPv4 callers as ::ffff:a.b.c.d; the configuration names them as IPv4.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
