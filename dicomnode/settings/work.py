"""What is computed, where, how results look and speak, and how they leave.

[pipeline], [compute], [results], [report] and [delivery].
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dicomnode.settings.section import Section


class PipelineSettings(Section):
    """What is computed."""

    models: Path | None = Field(
        None, description="Folder of model bundles; empty: the ones that ship with the node."
    )
    lesion_model: str = Field(
        "stroke-lesion-ensemble", description="Bundle that finds the lesions: name, or name/version."
    )
    brain_model: str = Field(
        "brain-extractor-3mm", description="Bundle that finds the brain: name, or name/version."
    )
    threshold: float | None = Field(
        None, gt=0, lt=1, description="Lesion probability threshold; empty: the manifest's."
    )
    peak: float | None = Field(
        None,
        ge=0,
        lt=1,
        description=(
            "Pieces that nowhere reach this probability are dropped, 0: none is; empty: the manifest's."
        ),
    )
    minimum_volume_mm3: float | None = Field(
        None, ge=0, description="Smaller lesions are dropped, in mm3; empty: the manifest's."
    )
    bias_correction: bool = Field(True, description="N4 bias field correction before the network.")
    require_head: bool = Field(
        True, description="Refuse what does not look like a head; false only to try the node with phantoms."
    )
    atlas: Path | None = Field(
        None,
        description=(
            "Atlas of arterial territories: a NIfTI volume of labels in MNI space, with a table of the same "
            "name (.txt, .csv or .tsv) next to it; empty: no territories are reported."
        ),
    )
    cache: Path | None = Field(
        None,
        description=(
            "Folder that keeps what slow steps computed (parts of patients' images), so that a "
            "replay is quick; empty: none."
        ),
    )
    cache_limit_mb: int = Field(
        2048, ge=1, description="The oldest go when the cache grows over this, in MB."
    )
    follow_up: bool = Field(
        True, description="Compare with the newest earlier study of the same patient that the node still has."
    )


class ComputeSettings(Section):
    """Where and how heavily it is computed (Dask distributed)."""

    scheduler: str = Field(
        "",
        description=(
            "Address of a Dask scheduler on another machine, such as tls://10.0.0.5:8786; empty: "
            "a worker process of our own."
        ),
    )
    certificate: Path | None = Field(
        None,
        description="With scheduler: our certificate for it (PEM). Whoever holds a certificate of "
        "compute.authorities can run programs on the workers, so use an authority that signs "
        "for nothing else; the files of [tls] are not used here.",
    )
    key: Path | None = Field(
        None,
        description=(
            "With scheduler: its private key (PEM), without a password and readable for the "
            "service user only."
        ),
    )
    authorities: Path | None = Field(
        None,
        description=(
            "With scheduler: the authority that signed the scheduler's and the workers' certificates (PEM)."
        ),
    )
    plain_tcp: bool = Field(
        False,
        description=(
            "Allow a scheduler at tcp://, without TLS: whoever reaches its port runs programs as "
            "the workers' user and reads the images."
        ),
    )
    memory_limit_mb: int = Field(
        4096, ge=512, description="A worker that outgrows this is restarted, in MiB."
    )
    threads: int = Field(2, ge=1, description="Threads of one inference.")
    provider: Literal["auto", "cpu", "cuda", "openvino"] = Field(
        "auto",
        description=(
            "What runs the networks: cpu, cuda, openvino (extras); auto is openvino where it is "
            "installed, else cpu."
        ),
    )
    job_limit_s: float = Field(
        1200, gt=0, description="A study that takes longer is stopped and tried again, in seconds."
    )
    attempts: int = Field(3, ge=1, description="Tries after which a study is answered with a failure report.")
    poll_s: float = Field(
        1, gt=0, description="How often the work side looks for something to do, in seconds."
    )

    @model_validator(mode="after")
    def _scheduler_is_protected(self) -> ComputeSettings:
        if not self.scheduler:
            return self
        scheme, separator, address = self.scheduler.partition("://")
        if not separator or scheme not in {"tls", "tcp"} or not re.fullmatch(r".+:\d{1,5}", address):
            raise ValueError(f"scheduler: {self.scheduler!r} is not of the form tls://host:port")
        if scheme == "tcp" and not self.plain_tcp:
            raise ValueError(
                "scheduler: tcp:// lets whoever reaches that port run programs as the workers' user; "
                "use tls:// with certificates, or set plain_tcp"
            )
        missing = [key for key in ("certificate", "key", "authorities") if getattr(self, key) is None]
        if scheme == "tls" and missing:
            raise ValueError(f"scheduler: tls:// needs {', '.join(missing)}")
        return self


Language = Literal["en", "de", "fr", "es"]
"""What the words of results are written in; codes have none."""


class ReportSettings(Section):
    """How results speak."""

    language: Language = Field(
        "en",
        description=(
            "Language of the words in results: en (English), de (German), fr (French) or es (Spanish). "
            "Codes stay codes."
        ),
    )


class ResultSettings(Section):
    """How results look."""

    series_number_base: int = Field(
        9000, ge=1, le=99000, description="Series Number of the first result series."
    )
    maximum_segments: int = Field(
        40,
        ge=1,
        le=200,
        description="More lesions than this are merged into the last segment; the report says so.",
    )
    paper: Literal["A4", "Letter"] = Field("A4", description="Size of the pages of the PDF report.")
    institution_name: str = Field(
        "", max_length=64, description="Institution Name in results; empty: the source's."
    )


class DeliverySettings(Section):
    """How results are delivered."""

    backoff_first_s: float = Field(
        5, gt=0, description="Wait after the first failed delivery, in seconds; doubled each time."
    )
    backoff_maximum_s: float = Field(900, gt=0, description="Longest wait between two tries, in seconds.")
    give_up_after_hours: float = Field(
        72, gt=0, description="A delivery that has failed for so long is given up and shown."
    )
    timeout_s: float = Field(30, gt=0, description="Longest wait for a destination's answer, in seconds.")
    learn_s: float = Field(
        3600,
        gt=0,
        description=(
            "How often a destination is asked which SOP classes and transfer syntaxes it accepts, in seconds."
        ),
    )
    confirm_first_s: float = Field(
        2, ge=0, description="Wait before a destination is asked after what it took, in seconds."
    )
    confirm_wait_s: float = Field(
        60,
        gt=0,
        description="Longest wait for its report on a storage commitment, in seconds; then it is asked anew.",
    )
    confirm_tries: int = Field(
        3, ge=1, description="Answers without proof after which an object counts as not kept."
    )
    index_wait_s: float = Field(
        600,
        ge=0,
        description=(
            "An object that a destination took but does not list counts as not kept after this "
            "time at the earliest, in seconds."
        ),
    )
    resends: int = Field(
        3,
        ge=0,
        description=(
            "An object that a destination took and did not keep is sent so often again, then "
            "given up and shown."
        ),
    )
