"""`dicomnode doctor`: looks at the set-up as a PACS administrator would and says what to change."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal

from dicomnode.answer import SHIPPED_MODELS
from dicomnode.delivery.adapt import adapt
from dicomnode.delivery.learn import remember
from dicomnode.errors import RetryLater, StartError
from dicomnode.ledger.ledger import Ledger
from dicomnode.network.probe import Probe, probe_destination
from dicomnode.network.sender import echo
from dicomnode.network.tls import acceptor_context, expires_in_days, fingerprint_of
from dicomnode.records import Offer
from dicomnode.settings.config import Config, DestinationSettings
from pipeline.counts import counted
from pipeline.errors import BundleError
from pipeline.measure.regions.choice import choose_region_map
from pipeline.measure.regions.territories import AtlasError, read_territories
from pipeline.segmenters.families import find_bundle

_EXPIRES_SOON_DAYS = 30
_EVERY_INTERFACE = ("0.0.0.0", "::", "")  # noqa: S104  compared with, not bound


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it stands, what was seen, what to do."""

    name: str
    level: Literal["ok", "warning", "problem"]
    seen: str
    advice: str = ""


def examine(config: Config) -> Iterator[Check]:
    """Yield every check in the order in which a set-up is done."""
    yield from _storage(config)
    yield from _models(config)
    yield from _atlas(config)
    yield from _tls(config)
    yield from _listener(config)
    yield from _senders(config)
    yield from _destinations(config)


def _storage(config: Config) -> Iterator[Check]:
    # Only looked at, never made: what an administrator makes as root, the service user cannot write to.
    root = config.storage.root
    if not root.is_dir():
        advice = "the first start makes it; else make it and give it to the service user, or set storage.root"
        yield Check("storage", "warning", f"{root} is not there", advice)
    elif not os.access(root, os.W_OK):
        yield Check("storage", "problem", f"{root} is not writable", "give it to the service user")
        return
    else:
        if root.stat().st_mode & 0o007:
            yield Check(
                "storage",
                "warning",
                f"{root} is open to every user",
                f"the next start closes it; by hand: chmod 0700 {root}",
            )
        free_mb = shutil.disk_usage(root).free // 2**20
        level: Literal["ok", "problem"] = "ok" if free_mb > config.storage.minimum_free_mb else "problem"
        advice = (
            ""
            if level == "ok"
            else "free some space or lower storage.minimum_free_mb: every instance is answered 0xA700 now"
        )
        yield Check("storage", level, f"{root} has {free_mb} MiB free", advice)
    if not config.storage.ledger_url and not (root / "ledger.sqlite3").exists():
        yield Check("ledger", "ok", "not there yet; the first start makes it")
        return
    try:
        Ledger.open(config.storage.database_url).close()
        yield Check("ledger", "ok", "opens and is up to date")
    except StartError as problem:
        yield Check("ledger", "problem", str(problem), "see storage.ledger_url")


def _models(config: Config) -> Iterator[Check]:
    folder = config.pipeline.models or SHIPPED_MODELS
    for key, name in (
        ("brain_model", config.pipeline.brain_model),
        ("lesion_model", config.pipeline.lesion_model),
    ):
        try:
            bundle = find_bundle(folder, name)
            yield Check(f"pipeline.{key}", "ok", f"{bundle.name} {bundle.version}: {bundle.statement}")
        except BundleError as problem:
            yield Check(
                f"pipeline.{key}", "problem", str(problem), "`dicomnode models list` shows what is there"
            )


def _atlas(config: Config) -> Iterator[Check]:
    yield Check("regions", "ok", f"lobes are read from {choose_region_map().identity}")
    if config.pipeline.atlas is None:
        return
    try:
        count = len(read_territories(config.pipeline.atlas).territories)
        yield Check(
            "pipeline.atlas",
            "ok",
            f"{config.pipeline.atlas.name}: {counted(count, 'territory', 'territories')}",
        )
    except AtlasError as problem:
        yield Check("pipeline.atlas", "problem", str(problem), "put it right, or take pipeline.atlas out")


def _tls(config: Config) -> Iterator[Check]:
    if (
        not (config.network.tls or any(destination.tls for destination in config.destinations))
        or config.tls.certificate is None
    ):
        return
    try:
        acceptor_context(config.tls)
        days = expires_in_days(config.tls.certificate, time.time())
    except (StartError, OSError, ValueError) as problem:
        yield Check("tls", "problem", str(problem), "see [tls]")
        return
    if days < 0:
        yield Check(
            "tls",
            "problem",
            f"our certificate expired {counted(round(-days), 'day')} ago",
            "renew tls.certificate, and tell the peers that pin it",
        )
    elif days < _EXPIRES_SOON_DAYS:
        yield Check(
            "tls",
            "warning",
            f"our certificate expires in {counted(round(days), 'day')}",
            "renew tls.certificate, and tell the peers that pin it",
        )
    else:
        yield Check(
            "tls",
            "ok",
            f"our certificate is good for {counted(round(days), 'day')}; "
            f"TLS {config.tls.minimum_version} and newer",
        )


def _listener(config: Config) -> Iterator[Check]:
    announcement = config.storage.root / "receive.json"
    network = config.network
    if announcement.exists():
        yield _running_listener(config, announcement)
        return
    try:
        with socket.socket() as probe_socket:
            probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe_socket.bind((network.bind, network.port))
        yield Check(
            "listener",
            "warning",
            f"not running; {network.bind}:{network.port} is free",
            "start `dicomnode serve`",
        )
    except OSError as problem:
        yield Check(
            "listener",
            "problem",
            f"{network.bind}:{network.port} cannot be used: {problem.strerror}",
            "set network.bind and network.port",
        )


def _running_listener(config: Config, announcement: Path) -> Check:
    network = config.network
    stale = "if it is not running, start `dicomnode serve`; else see its log"
    try:
        host, port = (json.loads(announcement.read_text())[key] for key in ("host", "port"))
    except (OSError, ValueError, KeyError) as problem:
        return Check(
            "listener", "problem", f"{announcement} cannot be read ({type(problem).__name__})", stale
        )
    host = "127.0.0.1" if host in _EVERY_INTERFACE else host
    ourselves = DestinationSettings(
        name="self", ae_title=network.ae_title, host=host, port=port, objects=("sr",), tls=network.tls
    )
    # Called from within, it need not have the name that is in our own certificate: the pin is stricter.
    if network.tls and config.tls.certificate is not None:
        ourselves = ourselves.model_copy(update={"tls_fingerprint": fingerprint_of(config.tls.certificate)})
        ourselves.introduce(config.tls)
    if not _takes_us(config):
        # A call would be rejected, logged and audited, as a stranger's is.
        observation = (
            f"{network.ae_title} listens at port {port}; it takes known callers only, so it was not called"
        )
        return (
            Check("listener", "ok", observation)
            if _is_bound(port)
            else Check("listener", "problem", f"nothing listens at port {port}", stale)
        )
    # C-ECHO only: offering what results need would be logged as contexts that were rejected.
    outcome = echo(ourselves, network.ae_title, 10.0)
    if outcome.verdict == "ok":
        return Check("listener", "ok", f"{network.ae_title} answers C-ECHO at port {port}")
    return Check("listener", "problem", outcome.reason, stale)


def _takes_us(config: Config) -> bool:
    """Return whether the node takes an association that this machine makes under the node's own AE title."""
    network = config.network
    if network.accept_unknown_peers != "never":
        return True
    return any(peer.ae_title == network.ae_title and _covers_loopback(peer.hosts) for peer in config.peers)


def _covers_loopback(hosts: tuple[str, ...]) -> bool:
    return not hosts or any(ip_address("127.0.0.1") in ip_network(host, strict=False) for host in hosts)


def _is_bound(port: int) -> bool:
    """Return whether a process listens at a port of this machine (proc(5))."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with suppress(OSError):
            rows = (row.split() for row in table.read_text().splitlines()[1:])
            if any(row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port for row in rows):
                return True
    return False


def _senders(config: Config) -> Iterator[Check]:
    network = config.network
    if network.bind.startswith("127."):
        yield Check(
            "network.bind",
            "warning",
            f"listens on {network.bind} only",
            "set network.bind to 0.0.0.0 so that scanners and the PACS reach it",
        )
    strict = [peer.ae_title for peer in config.peers if peer.certificates]
    if strict and not network.tls:
        yield Check(
            "peers",
            "problem",
            f"{strict[0]} must show a certificate, but network.tls is off: it is refused",
            "set network.tls",
        )
    elif not config.peers and network.accept_unknown_peers != "always":
        yield Check(
            "peers",
            "warning",
            "nobody but this machine may send",
            "add a [[peers]] table for each scanner and PACS",
        )
    else:
        yield Check(
            "peers", "ok", f"{len(config.peers)} known; unknown callers: {network.accept_unknown_peers}"
        )


def _destinations(config: Config) -> Iterator[Check]:
    if not config.destinations:
        yield Check(
            "destinations",
            "problem",
            "there is none: results stay in the spool",
            "add a [[destinations]] table for the PACS",
        )
    for destination in config.destinations:
        name = f"destination {destination.name}"
        if destination.url:
            yield _web_destination(name, destination, config.delivery.timeout_s)
            continue
        probe = probe_destination(
            destination, destination.calling_ae_title or config.network.ae_title, config.delivery.timeout_s
        )
        if probe.problem:
            yield Check(name, "problem", probe.problem, probe.advice)
            continue
        _remember(config, destination, probe)
        yield _acceptance(name, destination, probe)
        yield _proof(name, destination, probe)


def _remember(config: Config, destination: DestinationSettings, probe: Probe) -> None:
    """Let the node know what was learned, where it has a ledger.

    An archive that was put right need not wait for the next round.
    """
    if not config.storage.ledger_url and not (config.storage.root / "ledger.sqlite3").exists():
        return
    # What is wrong with the ledger has a check of its own.
    with suppress(StartError, RetryLater), closing(Ledger.open(config.storage.database_url)) as ledger:
        # The probe sends nothing, so it cannot see a refusal by status: what was put right is tried again.
        ledger.offers.forgive(destination.name)
        remember(ledger, config, destination, probe.accepted, time.time())


def _acceptance(name: str, destination: DestinationSettings, probe: Probe) -> Check:
    """Say what goes there, and what was left out or changed because it is not accepted."""
    adapted = adapt(destination, Offer(probe.accepted, 0.0))
    gets = ", ".join(object_kind for object_kind in adapted.destination.form.kinds)
    observation = f"{destination.ae_title} answers C-ECHO and gets {gets}"
    remarks = "; ".join(adapted.remarks)
    if adapted.refused:
        named = set(adapted.refused) & set(destination.objects) or (
            destination.report != "auto" and "sr" in adapted.refused
        )
        instead = (
            'leave the choice to the node: objects = ["auto"], report = "auto"'
            if named
            else "see that it accepts some result"
        )
        return Check(
            name, "problem", f"{observation}, but {remarks}", f"allow these SOP classes there, or {instead}"
        )
    if (
        adapted.destination.form.objects != destination.form.objects
        or adapted.destination.form.report != destination.form.report
    ):
        advice = (
            "nothing has to be done; where these SOP classes are allowed there, it gets the "
            "usual objects within delivery.learn_s"
        )
        return Check(name, "warning", f"{observation}: {remarks}", advice)
    return Check(name, "ok", f"{observation}: {remarks}" if remarks else observation)


def _proof(name: str, destination: DestinationSettings, probe: Probe) -> Check:
    """Say by what the destination can prove that it keeps what it takes, held against `confirm`."""
    offered = [
        proof_kind for proof_kind, offers in (("commitment", probe.commits), ("find", probe.finds)) if offers
    ]
    words = {"commitment": "storage commitment", "find": "C-FIND"}
    observation = (
        f"proves what it keeps by {' and '.join(words[proof_kind] for proof_kind in offered)}"
        if offered
        else "offers neither storage commitment nor C-FIND"
    )
    if destination.confirm in words and destination.confirm not in offered:
        return Check(
            name,
            "problem",
            observation,
            f"destinations.confirm is {destination.confirm}: allow it there for us, or set auto",
        )
    if destination.confirm == "auto" and not offered:
        return Check(
            name,
            "warning",
            observation,
            "allow one of them there for us: else its answer to C-STORE is all there is",
        )
    return Check(name, "ok", observation)


def _web_destination(name: str, destination: DestinationSettings, timeout_s: float) -> Check:
    from dicomnode.network.stow import probe_web

    outcome = probe_web(destination, timeout_s)
    if outcome.verdict == "ok":
        return Check(name, "ok", outcome.reason)
    return Check(
        name,
        "problem",
        outcome.reason,
        "check url, credentials, [tls] authorities, firewall, and that the service runs",
    )
