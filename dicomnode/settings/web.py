"""The pages of the node: [web]."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from dicomnode.settings.section import Section


class WebSettings(Section):
    """Pages to watch the node, to look at results and to try a study (docs/web.md)."""

    enabled: bool = Field(False, description="Whether `serve` starts the pages, in a process of their own.")
    bind: str = Field(
        "127.0.0.1",
        description="Address to listen on. Beyond this machine it needs web.tls or web.trusted_proxies.",
    )
    port: int = Field(
        8042,
        ge=0,
        le=65535,
        description="TCP port to listen on; 0 takes a free one and writes it to web.json.",
    )
    login: bool = Field(
        True,
        description=(
            "Ask for a name and a password. false lets everybody on this machine in as "
            "administrator, and is allowed with a loopback address only."
        ),
    )
    users: Path | None = Field(
        None, description="File of users, made by `dicomnode users add`; needed when there is a login."
    )
    tls: bool = Field(False, description="Serve HTTPS with tls.certificate and tls.key.")
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description=(
            "Addresses of proxies that speak HTTPS for us; from them alone X-Forwarded-For and "
            "X-Forwarded-Proto are believed."
        ),
    )
    hosts: tuple[str, ...] = Field(
        (),
        description=(
            "Names by which browsers may call the pages (the Host header); empty: any where there is "
            "a login, localhost where there is none."
        ),
    )
    idle_minutes: float = Field(30, gt=0, description="A session that is not used so long ends, in minutes.")
    session_hours: float = Field(12, gt=0, description="A session ends after so many hours, used or not.")
    upload_maximum_mb: int = Field(
        2048, ge=1, description="An upload, packed or unpacked, may take so much disk, in MiB."
    )
    upload_maximum_files: int = Field(10000, ge=1, description="Files that one upload may have.")
    upload_days: float = Field(
        7, gt=0, description="Uploads and their results are removed after so many days."
    )
    viewer_url: str = Field(
        "",
        description=(
            "Link to the site's own viewer; {StudyInstanceUID} stands for the study. Empty: no link."
        ),
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_addresses(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError:
                raise ValueError(f"{proxy!r} is not an address or network") from None
        return proxies

    @field_validator("viewer_url")
    @classmethod
    def _viewer_is_a_page(cls, url: str) -> str:
        if url and not (url.startswith(("https://", "http://")) and "{StudyInstanceUID}" in url):
            raise ValueError("is not an http or https address with {StudyInstanceUID} in it")
        return url

    @model_validator(mode="after")
    def _nobody_listens_in(self) -> WebSettings:
        if not self.enabled:
            return self
        if not self.is_local and not (self.tls or self.trusted_proxies):
            raise ValueError(
                f"{self.bind} is not this machine alone: "
                "set web.tls, or web.trusted_proxies for a proxy with HTTPS"
            )
        if not self.login and not self.is_local:
            raise ValueError('login = false is for a loopback address only (web.bind = "127.0.0.1")')
        if not self.login and self.trusted_proxies:
            raise ValueError(
                "login = false cannot go with web.trusted_proxies: the proxy would let everybody in"
            )
        if self.login and self.users is None:
            raise ValueError(
                "web.users is missing: make the file by `dicomnode users add NAME --role administrator`"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the pages."""
        try:
            return ipaddress.ip_address(self.bind).is_loopback
        except ValueError:
            return self.bind == "localhost"
