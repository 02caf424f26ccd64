"""Where results go, and who we are there: [tls] and [[destinations]]."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, StringConstraints, model_validator

from dicomnode.settings.forms import ObjectChoice, PictureChoice, ReportChoice, ResultForm, SegmentationForm
from dicomnode.settings.section import AETitle, Section

# What a certificate is known by: the SHA-256 of its DER bytes.
Fingerprint = Annotated[
    str, StringConstraints(strip_whitespace=True, to_lower=True, pattern=r"^sha256:[0-9a-fA-F]{64}$")
]


class TlsSettings(Section):
    """Who we are and whom we trust (TLS, PS3.15 B.12: BCP 195).

    The record serves `network.tls` and destinations with TLS. All files are PEM.
    """

    certificate: Path | None = Field(
        None, description="Our certificate, then those between it and its authority."
    )
    key: Path | None = Field(None, description="Its private key; readable for the service user only.")
    key_password_file: Path | None = Field(
        None,
        description=(
            "File whose first line is the password of the key; such as a systemd credential. "
            "Absent: the key has none."
        ),
    )
    authorities: Path | None = Field(
        None,
        description=(
            "Authorities whose certificates we accept, of callers and of destinations; the "
            "system's own list is not used."
        ),
    )
    revoked: Path | None = Field(
        None, description="Revocation lists of these authorities; absent: revocation is not checked."
    )
    minimum_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest TLS version that we speak.")


class DestinationSettings(Section):
    """Where results go."""

    name: str = Field(
        min_length=1, pattern=r"^[A-Za-z0-9_.-]+$", description="Short name, used in status and logs."
    )
    ae_title: AETitle | Literal[""] = Field(
        "", description="AE title of the destination; needed unless there is a url."
    )
    host: str = Field("", description="Address or host name.")
    port: int = Field(0, ge=0, le=65535, description="TCP port.")
    url: str = Field(
        "",
        description=(
            "Instead of the three above, which then do not count: root of a DICOMweb service, "
            "for delivery by STOW-RS. https://, or http:// to this machine."
        ),
    )
    plain_http: bool = Field(
        False, description="Allow http:// to other machines: patient data then crosses the network readable."
    )
    secret_file: Path | None = Field(
        None,
        description=(
            "With url: file that holds user:password (HTTP Basic) or a bearer token; such as a "
            "systemd credential."
        ),
    )
    calling_ae_title: AETitle | None = Field(
        None, description="AE title that we call ourselves there; ours when absent."
    )
    confirm: Literal["auto", "commitment", "find", "none"] = Field(
        "auto",
        description="Proof that it keeps what it answered success to: storage commitment, C-FIND (find), "
        "none, or auto: storage commitment where it is offered and answered, else C-FIND, else "
        "none.",
    )
    objects: tuple[ObjectChoice, ...] = Field(
        ("auto",),
        min_length=1,
        description="Which results go there: auto (seg and sr; where it does not accept one, pictures or "
        "pdf in its stead), seg (outlines), sr (report), summary (where there are lesions: the "
        "report as text only, for viewers that draw the other on the images), pictures "
        "(secondary captures with the outlines burned in), pdf (one page), ko (list of the key "
        "images), seg-t1 (the outlines on the T1 too), probability (lesion probability as a "
        "SEG). What is named goes there, accepted or not.",
    )
    segmentation: SegmentationForm = Field(
        ResultForm.segmentation,
        description="How a SEG is encoded: binary (1 bit); pseudo-fractional (8 bits, all or nothing) for "
        "viewers that cannot read 1 bit; auto: pseudo-fractional where the image's columns are "
        "no multiple of 8, which many read wrongly; labelmap (few read it yet).",
    )
    report: ReportChoice = Field(
        "auto",
        description="SOP class of the report: comprehensive-3d, comprehensive, enhanced, or auto, the "
        "first of these that it accepts; the content is the same.",
    )
    pictures: PictureChoice = Field(
        "auto",
        description="Pictures as one multi-frame true colour object (multi-frame), each as an object of "
        "its own (single-frame), or auto, the first of these that it accepts.",
    )
    tls: bool = Field(False, description="Connect with TLS (PS3.15 B.12): needs [tls].")
    tls_name: str = Field("", description="Name that must stand in its certificate; empty: host.")
    tls_fingerprint: Fingerprint | None = Field(
        None,
        description="SHA-256 of its certificate, as sha256:<hex>: only this one is taken, whatever its name.",
    )
    _identity: TlsSettings = PrivateAttr(default_factory=TlsSettings)

    @model_validator(mode="after")
    def _address_is_whole(self) -> DestinationSettings:
        if not self.url:
            missing = [key for key in ("ae_title", "host", "port") if not getattr(self, key)]
            if missing:
                raise ValueError(f"{', '.join(missing)} missing: give ae_title, host and port, or a url")
            if self.secret_file:
                raise ValueError("secret_file needs a url")
            return self
        if self.confirm == "commitment":
            raise ValueError("confirm: a DICOMweb service has no storage commitment; use auto, find or none")
        _check_url(self.url, self.plain_http)
        return self

    @property
    def form(self) -> ResultForm:
        """What goes there, and in which form; what is left to the node is the usual."""
        usual = ResultForm()
        objects = [
            object_kind
            for choice in self.objects
            for object_kind in (usual.objects if choice == "auto" else (choice,))
        ]
        report = usual.report if self.report == "auto" else self.report
        pictures = usual.pictures if self.pictures == "auto" else self.pictures
        return ResultForm(tuple(dict.fromkeys(objects)), self.segmentation, report, pictures)

    @property
    def address(self) -> str:
        """Whom it means, in one word: what was learned of another is not believed of this one."""
        return self.url or f"{self.ae_title}@{self.host}:{self.port}"

    @property
    def identity(self) -> TlsSettings:
        """Who we are there: the configuration's [tls]."""
        return self._identity

    def introduce(self, identity: TlsSettings) -> None:
        """Say who we are there; `Config` does it for those in [[destinations]]."""
        self._identity = identity


def _check_url(url: str, plain_http: bool) -> None:
    parsed = urlsplit(url)
    if parsed.scheme not in {"http", "https"} or not parsed.hostname:
        raise ValueError(f"url: {url!r} is not of the form https://host/path")
    if parsed.username or parsed.password:
        raise ValueError("url: user and password belong into secret_file")
    if (
        parsed.scheme == "http"
        and parsed.hostname not in {"localhost", "127.0.0.1", "::1"}
        and not plain_http
    ):
        raise ValueError(
            "url: http:// to another machine is readable on the way; use https://, or set plain_http"
        )
