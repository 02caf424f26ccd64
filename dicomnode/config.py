"""Every setting once: name, default, unit, help. TOML in, one frozen `Config` out; all problems are reported together.

Rules for this file:
1. A setting that is not here does not exist; code never reads the environment or another file.
2. The help text below is the documentation: `config/dicomnode.toml` is checked against it by a test.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from dicomnode.errors import ConfigError

AETitle = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]+$")]
# What a certificate is known by: the SHA-256 of its DER bytes, or a name in its subject or subject alternative names.
Fingerprint = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, pattern=r"^sha256:[0-9a-fA-F]{64}$")]
CertificateRule = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]
ResultKind = Literal["seg", "seg-t1", "probability", "pictures", "pdf", "sr", "ko"]
SegmentationForm = Literal["binary", "pseudo-fractional", "auto", "labelmap"]
ReportForm = Literal["comprehensive-3d", "comprehensive", "enhanced"]
PictureForm = Literal["multi-frame", "single-frame"]
# What the node chooses by itself, from what a destination accepts (`dicomnode.delivery.adapt`).
ObjectChoice = Literal["auto", ResultKind]
ReportChoice = Literal["auto", ReportForm]
PictureChoice = Literal["auto", PictureForm]


@dataclass(frozen=True)
class ResultForm:
    """Which results are made, and how each is encoded; the settings of [[destinations]] say what the words mean."""

    objects: tuple[ResultKind, ...] = ("seg", "sr")
    segmentation: SegmentationForm = "binary"
    report: ReportForm = "comprehensive-3d"
    pictures: PictureForm = "multi-frame"

    def kind_of(self, part: ResultKind) -> str:
        """Return the name of a result in this form; two results of one name are the same object.

        >>> ResultForm(report="enhanced", segmentation="auto").kind_of("sr")
        'sr.enhanced.auto'
        """
        forms: dict[ResultKind, tuple[str, ...]] = {
            "seg": (self.segmentation,),
            "seg-t1": (self.segmentation,),
            # Reports and key objects point to the segmentation that goes to the same place.
            "sr": (self.report, self.segmentation),
            "ko": (self.segmentation,),
            "pictures": (self.pictures,),
        }
        plain = (ResultForm.segmentation, ResultForm.report, ResultForm.pictures)
        return ".".join([part, *(form for form in forms.get(part, ()) if form not in plain)])

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the results that are wanted."""
        return tuple(self.kind_of(part) for part in self.objects)


PLAIN_FORM = ResultForm()


class Section(BaseModel):
    """A table of the TOML file: frozen, and an unknown key is a problem."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class NetworkSettings(Section):
    """How others reach this node."""

    ae_title: AETitle = Field("DICOMNODE", description="Our AE title: what a sender must call.")
    bind: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(11112, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one and prints it.")
    tls: bool = Field(False, description="Take TLS only on network.port (PS3.15 B.12): needs [tls]; a caller without TLS is cut off.")
    require_called_ae: bool = Field(True, description="Refuse an association that calls another AE title than ours.")
    accept_unknown_peers: Literal["never", "loopback", "always"] = Field(
        "loopback", description="Callers that are not in [[peers]]: never, only from this machine, or always."
    )
    maximum_associations: int = Field(20, ge=1, le=500, description="Associations served at once; more are refused for the moment.")
    maximum_associations_per_peer: int = Field(
        8, ge=1, le=500, description="Of these for one peer (AE title and address), so that one does not starve the others."
    )
    maximum_open_studies: int = Field(
        1000, ge=1, description="While more studies wait for their answer, new associations are refused for the moment."
    )
    maximum_instance_mb: int = Field(384, ge=1, description="A larger instance is answered 0xA700 and not kept, in MiB.")
    receive_memory_mb: int = Field(
        512, ge=1, description="What is received at the same time may take so much memory; what comes on top is answered 0xA700, in MiB."
    )
    maximum_pdu_bytes: int = Field(131072, ge=4096, description="Largest PDU that we take, in bytes.")
    acse_timeout_s: float = Field(30, gt=0, description="Longest wait for association messages, in seconds.")
    dimse_timeout_s: float = Field(60, gt=0, description="Longest wait for a DIMSE message, in seconds.")
    network_timeout_s: float = Field(120, gt=0, description="An association that is idle for so long is aborted, in seconds.")
    other_objects: Literal["keep", "refuse"] = Field(
        "keep", description="Storage classes that are not MR images: keep them unused, or refuse their presentation contexts."
    )


class PeerSettings(Section):
    """Somebody who may send to us."""

    ae_title: AETitle = Field(description="The AE title that the peer calls itself.")
    hosts: tuple[str, ...] = Field((), description="Addresses or networks (CIDR) it may call from; empty means any.")
    host: str = Field("", description="Where we call it: address or host name; empty: where it called from.")
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Where we call it: TCP port. Needed to tell it that its images are safe after it hung up, and to pull.",
    )
    tls: bool = Field(False, description="Call it with TLS: needs [tls].")

    certificates: tuple[CertificateRule, ...] = Field(
        (),
        description="With network.tls: certificates that it may show, each as sha256:<hex of the DER file> or as a name in the subject or "
        "the alternative names; empty means any that tls.authorities vouches for.",
    )

    @field_validator("certificates")
    @classmethod
    def _fingerprints_are_whole(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        for rule in rules:
            if rule.lower().startswith("sha256:") and not re.fullmatch(r"sha256:[0-9a-f]{64}", rule.lower()):
                raise ValueError(f"{rule!r} is not sha256: and 64 hex digits; `openssl x509 -noout -fingerprint -sha256` prints them")
        return rules

    @field_validator("hosts")
    @classmethod
    def _hosts_are_addresses(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            try:
                ipaddress.ip_network(host, strict=False)
            except ValueError:
                raise ValueError(f"{host!r} is not an address or network; host names are not looked up") from None
        return hosts

    def as_destination(self, identity: TlsSettings, called_from: str = "") -> DestinationSettings:
        """Return where to call the peer, as who we are; `ValueError` when its port, or any address, is not known."""
        address = DestinationSettings(name="peer", ae_title=self.ae_title, host=self.host or called_from, port=self.port or 0, tls=self.tls)
        address.introduce(identity)
        return address


class TlsSettings(Section):
    """Who we are and whom we trust (TLS, PS3.15 B.12: BCP 195): for network.tls and for destinations with tls. All files are PEM."""

    certificate: Path | None = Field(None, description="Our certificate, then those between it and its authority.")
    key: Path | None = Field(None, description="Its private key; readable for the service user only.")
    key_password_file: Path | None = Field(
        None, description="File whose first line is the password of the key; such as a systemd credential. Absent: the key has none."
    )
    authorities: Path | None = Field(
        None, description="Authorities whose certificates we accept, of callers and of destinations; the system's own list is not used."
    )
    revoked: Path | None = Field(None, description="Revocation lists of these authorities; absent: revocation is not checked.")
    minimum_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest TLS version that we speak.")


class DestinationSettings(Section):
    """Where results go."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.-]+$", description="Short name, used in status and logs.")
    ae_title: AETitle | Literal[""] = Field("", description="AE title of the destination; needed unless there is a url.")
    host: str = Field("", description="Address or host name.")
    port: int = Field(0, ge=0, le=65535, description="TCP port.")
    url: str = Field(
        "",
        description="Instead of the three above, which then do not count: root of a DICOMweb service, for delivery by STOW-RS. https://, or http:// to this machine.",
    )
    plain_http: bool = Field(False, description="Allow http:// to other machines: patient data then crosses the network readable.")
    secret_file: Path | None = Field(
        None, description="With url: file that holds user:password (HTTP Basic) or a bearer token; such as a systemd credential."
    )
    calling_ae_title: AETitle | None = Field(None, description="AE title that we call ourselves there; ours when absent.")
    confirm: Literal["auto", "commitment", "find", "none"] = Field(
        "auto",
        description="Proof that it keeps what it answered success to: storage commitment, C-FIND (find), none, or "
        "auto: storage commitment where it is offered and answered, else C-FIND, else none.",
    )
    objects: tuple[ObjectChoice, ...] = Field(
        ("auto",),
        min_length=1,
        description="Which results go there: auto (seg and sr; where it does not accept one, pictures or pdf in its stead), seg (outlines), "
        "sr (report), pictures (secondary captures with the outlines burned in), pdf (one page), ko (list of the key images), "
        "seg-t1 (the outlines on the T1 too), probability (lesion probability as a SEG). What is named goes there, accepted or not.",
    )
    segmentation: SegmentationForm = Field(
        ResultForm.segmentation,
        description="How a SEG is encoded: binary (1 bit); pseudo-fractional (8 bits, all or nothing) for viewers that cannot read 1 bit; "
        "auto: pseudo-fractional where the image's columns are no multiple of 8, which many read wrongly; labelmap (few read it yet).",
    )
    report: ReportChoice = Field(
        "auto",
        description="SOP class of the report: comprehensive-3d, comprehensive, enhanced, or auto, the first of these that it accepts; "
        "the content is the same.",
    )
    pictures: PictureChoice = Field(
        "auto",
        description="Pictures as one multi-frame true colour object (multi-frame), each as an object of its own (single-frame), "
        "or auto, the first of these that it accepts.",
    )
    tls: bool = Field(False, description="Connect with TLS (PS3.15 B.12): needs [tls].")
    tls_name: str = Field("", description="Name that must stand in its certificate; empty: host.")
    tls_fingerprint: Fingerprint | None = Field(
        None, description="SHA-256 of its certificate, as sha256:<hex>: only this one is taken, whatever its name."
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
        objects = [part for choice in self.objects for part in (usual.objects if choice == "auto" else (choice,))]
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
    if parsed.scheme == "http" and parsed.hostname not in {"localhost", "127.0.0.1", "::1"} and not plain_http:
        raise ValueError("url: http:// to another machine is readable on the way; use https://, or set plain_http")


class StorageSettings(Section):
    """Where everything is kept."""

    root: Path = Field(Path("/var/lib/dicomnode"), description="Folder of the spool and the ledger; private to the service user.")
    ledger_url: str = Field(
        "",
        description="SQLAlchemy URL of the ledger; empty: an SQLite file in the root folder. A password for PostgreSQL belongs into the file that "
        "PGPASSFILE names, not here.",
    )
    minimum_free_mb: int = Field(1024, ge=0, description="Below this free space new instances are answered 0xA700, in MiB.")
    resume_free_mb: int = Field(2048, ge=0, description="Once that was so, instances are taken again from so much free space on, in MiB.")
    keep_days: float = Field(14, gt=0, description="Answered and delivered studies are removed after so many days.")

    @field_serializer("ledger_url", when_used="json")
    def _without_password(self, url: str) -> str:
        return re.sub(r"(?<=:)[^:@/]+(?=@)", "***", url)

    @property
    def spool(self) -> Path:
        """Root of the spool."""
        return self.root / "spool"

    @property
    def database_url(self) -> str:
        """The ledger's URL, defaulted."""
        return self.ledger_url or f"sqlite:///{self.root / 'ledger.sqlite3'}"


class StudySettings(Section):
    """When a study is worked on."""

    settle_s: float = Field(
        3, ge=0, description="Quiet time after which a T1 and FLAIR that are complete by evidence are processed, in seconds."
    )
    quiet_s: float = Field(60, gt=0, description="Quiet time after which a study is taken as it is, in seconds.")
    maximum_instances: int = Field(20000, ge=1, description="A study with more instances is refused.")


class FetchSettings(Section):
    """What the node asks a PACS for by itself before it works on a study."""

    source: str = Field("", description="Who is asked: name of a destination, or AE title of a peer with host and port; empty: nobody.")
    missing_series: bool = Field(
        True, description="Where the T1 or the FLAIR is missing: fetch the MR series of the study that are not here."
    )
    series_description: str = Field(
        r"t1|mprage|mp2rage|spgr|bravo|tfe|flair|dark.?fluid",
        description="Regular expression, searched without regard to case: only such series are fetched, and those without a description.",
    )
    prior_studies: int = Field(
        0, ge=0, le=5, description="So many earlier MR studies of the patient are fetched too, and answered like any other study."
    )
    counts: bool = Field(
        False,
        description="Take the number of images per series that it lists as evidence that a series is complete, once it stood still for study.settle_s.",
    )

    @field_validator("series_description")
    @classmethod
    def _pattern_compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as problem:
            raise ValueError(f"not a regular expression: {problem}") from None
        return pattern


class SelectionRule(Section):
    """A site's own word on its series; the first rule that matches wins over the built-in reading of the attributes."""

    use: Literal["t1", "flair", "ignore"] = Field(description="Role that a matching series fills, or ignore.")
    series_description: str = Field("", description="Regular expression, searched without regard to case.")
    protocol_name: str = Field("", description="Regular expression, searched without regard to case.")
    sequence_name: str = Field("", description="Regular expression, searched without regard to case.")

    @model_validator(mode="after")
    def _patterns_compile(self) -> SelectionRule:
        patterns = {"series_description": self.series_description, "protocol_name": self.protocol_name, "sequence_name": self.sequence_name}
        if not any(patterns.values()):
            raise ValueError("a rule needs at least one pattern")
        for key, pattern in patterns.items():
            try:
                re.compile(pattern)
            except re.error as problem:
                raise ValueError(f"{key} is not a regular expression: {problem}") from None
        return self


class SelectionSettings(Section):
    """Which series are taken."""

    minimum_slices: int = Field(10, ge=2, description="A volume with fewer slices is not taken.")
    minimum_coverage_mm: float = Field(80, gt=0, description="A volume that covers less along its normal is not taken, in mm.")
    maximum_slice_spacing_mm: float = Field(10, gt=0, description="A volume with a larger slice spacing is not taken, in mm.")
    rules: tuple[SelectionRule, ...] = Field((), description="The site's own rules, in order.")


class PipelineSettings(Section):
    """What is computed."""

    models: Path | None = Field(None, description="Folder of model bundles; empty: the ones that ship with the node.")
    lesion_model: str = Field("stroke-lesion-2mm", description="Bundle that finds the lesions: name, or name/version.")
    brain_model: str = Field("brain-extractor-3mm", description="Bundle that finds the brain: name, or name/version.")
    threshold: float | None = Field(None, gt=0, lt=1, description="Lesion probability threshold; empty: the manifest's.")
    minimum_volume_mm3: float | None = Field(None, ge=0, description="Smaller lesions are dropped, in mm3; empty: the manifest's.")
    bias_correction: bool = Field(True, description="N4 bias field correction before the network.")
    cache: Path | None = Field(
        None, description="Folder that keeps what slow steps computed (parts of patients' images), so that a replay is quick; empty: none."
    )
    cache_limit_mb: int = Field(2048, ge=1, description="The oldest go when the cache grows over this, in MB.")
    follow_up: bool = Field(True, description="Compare with the newest earlier study of the same patient that the node still has.")


class ComputeSettings(Section):
    """Where and how heavily it is computed (Dask distributed)."""

    scheduler: str = Field("", description="Address of a Dask scheduler, such as tcp://10.0.0.5:8786; empty: a worker process of our own.")
    memory_limit_mb: int = Field(4096, ge=512, description="A worker that outgrows this is restarted, in MiB.")
    threads: int = Field(2, ge=1, description="Threads of one inference.")
    provider: Literal["auto", "cpu", "cuda", "openvino"] = Field(
        "auto", description="What runs the networks: cpu, cuda, openvino (extras); auto is openvino where it is installed, else cpu."
    )
    job_limit_s: float = Field(1200, gt=0, description="A study that takes longer is stopped and tried again, in seconds.")
    attempts: int = Field(3, ge=1, description="Tries after which a study is answered with a failure report.")
    poll_s: float = Field(1, gt=0, description="How often the work side looks for something to do, in seconds.")


class ResultSettings(Section):
    """How results look."""

    series_number_base: int = Field(9000, ge=1, le=99000, description="Series Number of the first result series.")
    maximum_segments: int = Field(
        40, ge=1, le=200, description="More lesions than this are merged into the last segment; the report says so."
    )
    institution_name: str = Field("", max_length=64, description="Institution Name in results; empty: the source's.")


class DeliverySettings(Section):
    """How results are delivered."""

    backoff_first_s: float = Field(5, gt=0, description="Wait after the first failed delivery, in seconds; doubled each time.")
    backoff_maximum_s: float = Field(900, gt=0, description="Longest wait between two tries, in seconds.")
    give_up_after_hours: float = Field(72, gt=0, description="A delivery that has failed for so long is given up and shown.")
    timeout_s: float = Field(30, gt=0, description="Longest wait for a destination's answer, in seconds.")
    learn_s: float = Field(
        3600, gt=0, description="How often a destination is asked which SOP classes and transfer syntaxes it accepts, in seconds."
    )
    confirm_first_s: float = Field(2, ge=0, description="Wait before a destination is asked after what it took, in seconds.")
    confirm_wait_s: float = Field(
        60, gt=0, description="Longest wait for its report on a storage commitment, in seconds; then it is asked anew."
    )
    confirm_tries: int = Field(3, ge=1, description="Answers without proof after which an object counts as not kept.")
    resends: int = Field(
        3, ge=0, description="An object that a destination took and did not keep is sent so often again, then given up and shown."
    )


class AuditSettings(Section):
    """Who came, what came, where it went (PS3.15 A.5): always in audit/audit.jsonl below storage.root, and at a syslog server if there is one."""

    syslog_host: str = Field("", description="Audit record repository that takes RFC 5424 messages; empty: none.")
    syslog_port: int = Field(6514, ge=1, le=65535, description="Its TCP port.")
    syslog_tls: bool = Field(True, description="Connect to it with TLS (RFC 5425): needs [tls].")


class LogSettings(Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level that is written.")
    format: Literal["console", "json"] = Field("console", description="For people or for machines.")


class Config(Section):
    """The whole configuration."""

    network: NetworkSettings = NetworkSettings()
    peers: tuple[PeerSettings, ...] = ()
    destinations: tuple[DestinationSettings, ...] = ()
    tls: TlsSettings = TlsSettings()
    storage: StorageSettings = StorageSettings()
    study: StudySettings = StudySettings()
    fetch: FetchSettings = FetchSettings()
    selection: SelectionSettings = SelectionSettings()
    pipeline: PipelineSettings = PipelineSettings()
    compute: ComputeSettings = ComputeSettings()
    results: ResultSettings = ResultSettings()
    delivery: DeliverySettings = DeliverySettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()

    @property
    def forms(self) -> tuple[ResultForm, ...]:
        """The forms in which results are made: each that a destination wants, once; the plain one where there is no destination."""
        return tuple(dict.fromkeys(destination.form for destination in self.destinations)) or (PLAIN_FORM,)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        names = [destination.name for destination in self.destinations]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"destinations: the name {twice[0]!r} is used twice")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Config:
        users = ["network.tls"] if self.network.tls else []
        users += ["audit.syslog_tls"] if self.audit.syslog_host and self.audit.syslog_tls else []
        users += [f"destination {destination.name}" for destination in self.destinations if destination.tls]
        users += [f"peer {peer.ae_title}" for peer in self.peers if peer.tls]
        missing = [key for key in ("certificate", "key", "authorities") if getattr(self.tls, key) is None]
        if users and missing:
            raise ValueError(f"tls: {users[0]} needs {', '.join(f'tls.{key}' for key in missing)}")
        for destination in self.destinations:
            destination.introduce(self.tls)
        return self


def parse_config(values: dict[str, Any]) -> Config:
    """Check the values of a TOML file; raise `ConfigError` with every problem, each with its key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError([_problem(item) for item in error.errors()]) from None


def load_config(path: Path) -> Config:
    """Read and check a TOML file; raise `ConfigError` with every problem."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; copy config/dicomnode.toml and edit it"]) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise ConfigError([f"{path}: {problem}"]) from None
    return parse_config(values)


def _problem(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"{key}: there is no such setting"
    # A whole table, or an address that may hold a password, is not quoted.
    quoted = item["type"] != "missing" and not isinstance(item["input"], dict | BaseModel) and "url" not in key
    seen = f" (got {item['input']!r})" if quoted else ""
    return f"{key}: {item['msg'].removeprefix('Value error, ')}{seen}"
