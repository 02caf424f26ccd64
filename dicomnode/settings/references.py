"""Settings that name other settings.

Each is looked up when the configuration is read, not when a study waits for it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dicomnode.errors import ConfigError
from dicomnode.settings.destinations import DestinationSettings

if TYPE_CHECKING:
    from dicomnode.settings.config import Config


def find_source(config: Config, name: str) -> DestinationSettings:
    """Return whom a name means: a destination, the AE title of a peer with a port, or AE@host:port.

    `ConfigError` when nobody.
    """
    for destination in config.destinations:
        if destination.name == name and not destination.url:
            return destination
    for peer in config.peers:
        if peer.ae_title == name and peer.port and (peer.host or len(peer.hosts) == 1):
            return peer.as_destination(config.tls, peer.hosts[0] if peer.hosts else "")
    address = parse_address(name)
    if address is not None:
        return address
    raise ConfigError([_why_nobody(config, name)])


def parse_address(text: str) -> DestinationSettings | None:
    """Read `AE@host:port`; None when it is not of this form."""
    match = re.fullmatch(r"(?P<ae>[^@]{1,16})@(?P<host>[^:@]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})", text)
    if not match or not 1 <= int(match["port"]) <= 65535:
        return None
    return DestinationSettings(
        name="peer", ae_title=match["ae"], host=match["host"].strip("[]"), port=int(match["port"])
    )


def reference_problems(config: Config) -> Iterator[str]:
    """Yield one line for each setting that names something missing, or that another setting contradicts."""
    yield from _fetch_problems(config)
    for position, destination in enumerate(config.destinations, start=1):
        key = f"destinations[{position}]"
        is_encrypted = destination.url.startswith("https://") if destination.url else destination.tls
        if destination.tls and destination.url.startswith("http://"):
            yield f"{key}.tls: the url is http://, which has no TLS; use https://"
        elif not is_encrypted:
            pins = [name for name in ("tls_name", "tls_fingerprint") if getattr(destination, name)]
            yield from (
                (
                    f"{key}.{name}: is checked with TLS only; set "
                    f"{'an https:// url' if destination.url else 'tls'}"
                )
                for name in pins
            )
    for table, low, high in (
        ("storage", "minimum_free_mb", "resume_free_mb"),
        ("delivery", "backoff_first_s", "backoff_maximum_s"),
        ("study", "settle_s", "quiet_s"),
    ):
        section = getattr(config, table)
        if {low, high} & section.model_fields_set and getattr(section, low) > getattr(section, high):
            yield (
                f"{table}.{low}: {getattr(section, low):g} is more than {table}.{high} "
                f"({getattr(section, high):g})"
            )


def _fetch_problems(config: Config) -> Iterator[str]:
    if config.fetch.source:
        try:
            find_source(config, config.fetch.source)
        except (ConfigError, ValueError) as problem:
            yield f"fetch.source: {problem}"
        return
    if config.fetch.prior_studies:
        yield "fetch.prior_studies: needs fetch.source, which is empty: nobody is asked"
    if config.fetch.counts:
        yield "fetch.counts: needs fetch.source, which is empty: nobody is asked"


def _why_nobody(config: Config, name: str) -> str:
    """Say why a name is nobody that can be asked, and whom it may mean."""
    if any(destination.name == name for destination in config.destinations):
        return f"destination {name} has a url; only one with ae_title, host and port can be asked for images"
    if any(peer.ae_title == name for peer in config.peers):
        return (
            f"peer {name} has no address to be called at: give it a port, and a host unless it "
            "has exactly one of hosts"
        )
    names = [destination.name for destination in config.destinations if not destination.url]
    names += [peer.ae_title for peer in config.peers]
    return (
        f"{name!r} is no destination, no peer with host and port, and not of the form "
        f"AE@host:port{did_you_mean(name, names)}"
    )


def did_you_mean(name: str, names: list[str]) -> str:
    """Return the end of a message that names the nearest of some names, or nothing when none is near."""
    folded = {candidate.lower(): candidate for candidate in names}
    nearest = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[nearest[0]]!r}?" if nearest else ""
