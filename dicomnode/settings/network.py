"""How others reach us, and who they are: [network] and [[peers]]."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from dicomnode.settings.destinations import DestinationSettings, TlsSettings
from dicomnode.settings.section import AETitle, Section

# What a certificate may be known by: the SHA-256 of its DER bytes, or a name in its subject or subject
# alternative names.
CertificateRule = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]


class NetworkSettings(Section):
    """How others reach this node."""

    ae_title: AETitle = Field("DICOMNODE", description="Our AE title: what a sender must call.")
    more_ae_titles: tuple[AETitle, ...] = Field(
        (),
        description="Further AE titles of ours on the same port; "
        "[[rules]] may choose by the one that a sender called.",
    )
    bind: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(
        11112, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one and prints it."
    )
    tls: bool = Field(
        False,
        description=(
            "Take TLS only on network.port (PS3.15 B.12): needs [tls]; a caller without TLS is cut off."
        ),
    )
    require_called_ae: bool = Field(
        True, description="Refuse an association that calls another AE title than ours."
    )
    accept_unknown_peers: Literal["never", "loopback", "always"] = Field(
        "loopback", description="Callers that are not in [[peers]]: never, only from this machine, or always."
    )
    maximum_associations: int = Field(
        20, ge=1, le=500, description="Associations served at once; more are refused for the moment."
    )
    maximum_associations_per_peer: int = Field(
        8,
        ge=1,
        le=500,
        description="Of these for one peer (AE title and address), so that one does not starve the others.",
    )
    maximum_open_studies: int = Field(
        1000,
        ge=1,
        description="While more studies wait for their answer, new associations are refused for the moment.",
    )
    maximum_instance_mb: int = Field(
        384, ge=1, description="A larger instance is answered 0xA700 and not kept, in MiB."
    )
    receive_memory_mb: int = Field(
        512,
        ge=1,
        description=(
            "What is received at the same time may take so much memory; what comes on top is "
            "answered 0xA700, in MiB."
        ),
    )
    maximum_pdu_bytes: int = Field(131072, ge=4096, description="Largest PDU that we take, in bytes.")
    acse_timeout_s: float = Field(30, gt=0, description="Longest wait for association messages, in seconds.")
    dimse_timeout_s: float = Field(60, gt=0, description="Longest wait for a DIMSE message, in seconds.")
    network_timeout_s: float = Field(
        120, gt=0, description="An association that is idle for so long is aborted, in seconds."
    )
    other_objects: Literal["keep", "refuse"] = Field(
        "keep",
        description=(
            "Storage classes that are not MR images: keep them unused, or refuse their presentation contexts."
        ),
    )

    @property
    def own_ae_titles(self) -> tuple[str, ...]:
        """Every AE title that a sender may call."""
        return (self.ae_title, *self.more_ae_titles)


class PeerSettings(Section):
    """Somebody who may send to us."""

    ae_title: AETitle = Field(description="The AE title that the peer calls itself.")
    hosts: tuple[str, ...] = Field(
        (), description="Addresses or networks (CIDR) it may call from; empty means any."
    )
    host: str = Field("", description="Where we call it: address or host name; empty: where it called from.")
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description=(
            "Where we call it: TCP port. Needed to tell it that its images are safe after it "
            "hung up, and to pull."
        ),
    )
    tls: bool = Field(False, description="Call it with TLS: needs [tls].")

    certificates: tuple[CertificateRule, ...] = Field(
        (),
        description="With network.tls: certificates that it may show, each as sha256:<hex of the DER file> "
        "or as a name in the subject or the alternative names; empty means any that "
        "tls.authorities vouches for.",
    )

    @field_validator("certificates")
    @classmethod
    def _fingerprints_are_whole(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        for rule in rules:
            if rule.lower().startswith("sha256:") and not re.fullmatch(r"sha256:[0-9a-f]{64}", rule.lower()):
                raise ValueError(
                    f"{rule!r} is not sha256: and 64 hex digits; `openssl x509 -noout -fingerprint "
                    "-sha256` prints them"
                )
        return rules

    @field_validator("hosts")
    @classmethod
    def _hosts_are_addresses(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            try:
                ipaddress.ip_network(host, strict=False)
            except ValueError:
                raise ValueError(
                    f"{host!r} is not an address or network; host names are not looked up"
                ) from None
        return hosts

    def as_destination(self, identity: TlsSettings, called_from: str = "") -> DestinationSettings:
        """Return where to call the peer, as who we are.

        `ValueError` when its port, or any address, is not known.
        """
        address = DestinationSettings(
            name="peer",
            ae_title=self.ae_title,
            host=self.host or called_from,
            port=self.port or 0,
            tls=self.tls,
        )
        address.introduce(identity)
        return address
