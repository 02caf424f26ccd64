"""The rooms of the house: what lives in each and what it may import.

One table serves the import test and docs/architecture.md.

Rules for this file:
1. A room is a module or a package by its dotted name; the longest name that fits owns a file.
2. A room may always import itself, the standard library, `structlog` and the rooms of `EVERYWHERE`; "*" is
   everything of ours.
3. The direction is the arrow's:
   association -> spool -> ledger -> study -> volume -> pipeline -> results -> delivery.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """One room: its dotted name, what lives there, and what it may import.

    It may import some rooms, and some libraries by their top-level names.
    """

    name: str
    what: str
    rooms: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


def _dicomnode(*names: str) -> tuple[str, ...]:
    return tuple(f"dicomnode.{name}" for name in names)


def _pipeline(*names: str) -> tuple[str, ...]:
    return tuple(f"pipeline.{name}" for name in names)


# Leaves that every room may ask: they import nothing.
EVERYWHERE = ("pipeline.counts",)
_PLAIN = _dicomnode("records", "states", "errors", "settings", "uids", "audit.events")
_VOLUMES_IN = _pipeline("records", "errors", "geometry")
# What calls others: who sends needs no listener.
_CALLS = ("commitment", "offer", "query", "result_classes", "sender", "stow")
# What looks after processes.
_SUPERVISION = ("notify", "reload", "signals", "supervise")
# What the builders of results share.
_BUILDERS = _dicomnode(
    *("results.records", "results.headers", "results.provenance", "results.words"),
    *("results.parts", "results.segments"),
)

ROOMS = (
    # The front of the house: words and exit codes, no logic.
    Room("dicomnode.__main__", "`python -m dicomnode`", _dicomnode("commands.cli")),
    Room(
        "dicomnode.commands",
        "the command line: what each command does, prints and exits with",
        ("*",),
        ("onnx", "rich", "torch", "typer"),
    ),
    Room(
        "dicomnode.commands.cli",
        "commands and exit codes; no logic",
        _dicomnode(
            "commands",
            "processes.app",
            "processes.monitor",
            "processes.usable",
            "errors",
        ),
        ("typer",),
    ),
    Room(
        "dicomnode.commands.story",
        "the ledger in words: `status`, `why`, `retry`",
        _dicomnode("commands.terminal", "errors", "ledger", "processes.app", "settings", "spool"),
        ("typer",),
    ),
    Room(
        "dicomnode.commands.rules",
        "`rules test`: which rule a study falls under",
        _dicomnode("commands.terminal", "errors", "offline.cases", "records", "settings", "study"),
        ("typer",),
    ),
    Room(
        "dicomnode.commands.doctor",
        "first checks of a set-up",
        (
            *_PLAIN,
            *_dicomnode("answer", "delivery", "ledger", "network"),
            *_pipeline("errors", "measure.regions", "segmenters.families"),
        ),
    ),
    Room(
        "dicomnode.commands.demo",
        "one synthetic study through a whole node",
        (*_PLAIN, *_dicomnode("network", "simulator"), *_VOLUMES_IN, *_pipeline("evaluate")),
        ("numpy", "pydicom", "highdicom"),
    ),
    Room("dicomnode.commands.terminal", "one console, tables or JSON, a spinner", (), ("rich", "typer")),
    # The processes.
    Room("dicomnode.processes", "what runs: the processes of a node"),
    Room("dicomnode.processes.app", "the one place where objects are built and joined", ("*",)),
    Room(
        "dicomnode.processes.schedule",
        "what runs how often; it only triggers",
        _dicomnode("audit", "errors", "flow", "processes.lookout", "processes.waker", "settings", "spool"),
        ("apscheduler",),
    ),
    Room("dicomnode.processes.locks", "locks on files, on systems with and without `fcntl`"),
    Room("dicomnode.processes.signals", "SIGTERM, SIGINT and SIGHUP as requests to stop and to reload"),
    Room(
        "dicomnode.processes.reload",
        "reading the configuration again: all of what can be applied, or nothing",
        _dicomnode("audit.events", "errors", "settings"),
    ),
    Room(
        "dicomnode.processes.usable",
        "whether the certificates, bundles, addresses and atlas that a configuration names "
        "can be worked with",
        (
            *_dicomnode("answer", "errors", "network.tls", "notifications.addresses", "settings"),
            *_pipeline("errors", "measure.regions"),
        ),
    ),
    Room("dicomnode.processes.notify", "signs of life to whoever started a process", (), ("sdnotify",)),
    Room(
        "dicomnode.processes.serve",
        "the sides as processes, looked after and reloaded",
        _dicomnode("errors", "settings", *(f"processes.{name}" for name in _SUPERVISION)),
    ),
    Room(
        "dicomnode.processes.step_news",
        "the step that a run is in, from its worker to the process that waits for it",
        (),
        ("distributed",),
    ),
    Room(
        "dicomnode.processes.workers",
        "the compute processes of this machine: TLS, loopback only, a scratch folder each",
        (),
        ("cryptography", "distributed"),
    ),
    Room(
        "dicomnode.processes.tally",
        "counts of one process on their way into the ledger, and its signs of life",
        _dicomnode("errors", "ledger"),
    ),
    Room(
        "dicomnode.processes.monitor",
        "the process that monitoring programs ask",
        _dicomnode(
            "audit",
            "log",
            "errors",
            "monitoring",
            "notifications",
            "processes.app",
            "processes.reload",
            "processes.signals",
            "processes.turns",
            "settings",
        ),
    ),
    Room(
        "dicomnode.notifications",
        "telling people what happened: what is worth a message, its words, and sending it until it arrives",
        _dicomnode("errors", "ledger", "monitoring.snapshot", "settings"),
        ("apprise",),
    ),
    Room(
        "dicomnode.monitoring",
        "metrics, health, and an HTTP listener for them",
        _dicomnode("errors", "ledger", "network.tls", "settings"),
        ("prometheus_client",),
    ),
    Room(
        "dicomnode.processes.turns",
        "who may run on a node's folder; what is left of a journal is read first",
        _dicomnode("errors", "processes.locks", "spool"),
    ),
    Room(
        "dicomnode.processes.intake",
        "how `receive` makes instances safe and lists them: by a journal, or each as a file",
        _dicomnode("ledger", "network.handlers", "processes.messenger", "records", "settings", "spool"),
    ),
    Room("dicomnode.processes.root", "the node's own folder, private to its user", _dicomnode("errors")),
    Room("dicomnode.processes.supervise", "a child process that is started again when it dies or hangs"),
    Room("dicomnode.processes.lookout", "signs of life of what runs on a timer"),
    Room("dicomnode.processes.waker", "wakes timers at once when something came or was done"),
    Room("dicomnode.processes.bell", "a bell that `receive` rings and `work` hears"),
    Room(
        "dicomnode.processes.messenger",
        "what `receive` tells the working side, in a thread of its own",
        _dicomnode("errors", "records"),
    ),
    Room(
        "dicomnode.web",
        "the pages: what came, what became of it, why; viewer, upload, orders of an operator",
        (
            *_PLAIN,
            *_dicomnode("answer", "audit", "ledger", "offline", "results", "spool", "study", "volumes"),
            *_VOLUMES_IN,
        ),
        (
            "PIL",
            "argon2",
            "fastapi",
            "highdicom",
            "jinja2",
            "markupsafe",
            "numpy",
            "pydicom",
            "scipy",
            "starlette",
            "uvicorn",
        ),
    ),
    # Known to every room.
    Room(
        "dicomnode.settings",
        "every setting once; TOML in, frozen `Config` out",
        _dicomnode("errors"),
        ("pydantic", "pydantic_core"),
    ),
    Room("dicomnode.log", "logging: keyed events, never patient data", _dicomnode("settings")),
    Room("dicomnode.uids", "what a UID is; every room may ask"),
    Room("dicomnode.errors", "the error tree, split by what happens next", _pipeline("errors")),
    Room(
        "dicomnode.records", "frozen records that cross rooms", (*_dicomnode("states"), *_pipeline("records"))
    ),
    Room(
        "dicomnode.states",
        "the job and delivery life cycles, one transition table each",
        _dicomnode("errors"),
    ),
    Room("dicomnode.audit.events", "what is audited, with the codes of PS3.15 A.5; JSON and XML"),
    Room("dicomnode.audit", "the append-only audit trail; a copy to a syslog server"),
    # The working side.
    Room(
        "dicomnode.flow",
        "**read this first**: the working side in the order of the arrow",
        (*_dicomnode("errors", "delivery", "fetch", "working"),),
    ),
    Room(
        "dicomnode.working",
        "the steps of the working side: from received to ready, from ready to answered",
        (
            *_PLAIN,
            *_dicomnode("ahead", "answer", "compute", "delivery", "fetch", "ledger", "spool", "study"),
        ),
        ("pydicom",),
    ),
    Room(
        "dicomnode.ahead",
        "answers that are computed while their study still waits",
        _dicomnode("answer", "spool"),
    ),
    Room(
        "dicomnode.answer",
        "what a compute worker does: one study's files in, its result files out",
        (
            *_PLAIN,
            *_dicomnode("log", "results", "spool", "study", "volumes", "worker_memory"),
            *_pipeline(
                "cache",
                "errors",
                "followup",
                "inference",
                "measure.regions",
                "plan",
                "records",
                "run",
                "segmenters.families",
            ),
        ),
    ),
    Room(
        "dicomnode.worker_memory",
        "what a compute worker does about its memory, so that studies do not wait for it",
        (),
        ("numpy",),
    ),
    Room(
        "dicomnode.fetch",
        "fetching from peers into the spool: `pull`, and the rules of [fetch]",
        (*_PLAIN, *_dicomnode("ledger", "network", "spool", "study")),
        ("pydicom",),
    ),
    Room(
        "dicomnode.compute",
        "where studies are computed: Dask distributed",
        _dicomnode("errors", "processes.step_news", "processes.workers", "settings"),
        ("dask", "distributed"),
    ),
    # Work on files, without a node.
    Room(
        "dicomnode.api",
        "`segment`, `evaluate` and `load_bundle` for Python programs",
        (
            *_dicomnode("answer", "offline.cases", "offline.masks", "records", "results.outcome"),
            *_dicomnode("settings", "volumes"),
            *_VOLUMES_IN,
            *_pipeline("bundles", "evaluate", "plan", "run", "segmenters"),
        ),
        ("nibabel",),
    ),
    Room("dicomnode.offline", "work on files, without a node"),
    Room(
        "dicomnode.offline.cases",
        "`dicomnode segment`: the same image path on files",
        (
            *_PLAIN,
            *_dicomnode("answer", "offline.bids", "offline.folders", "results", "study", "volumes"),
            *_VOLUMES_IN,
            *_pipeline("plan", "run"),
        ),
    ),
    Room(
        "dicomnode.offline.batch",
        "many cases, each in a process that may die; the derivative dataset's own files",
        (*_PLAIN, *_dicomnode("answer", "compute", "offline.bids", "offline.cases", "results")),
    ),
    Room(
        "dicomnode.offline.bids",
        "the Brain Imaging Data Structure: raw datasets read and written, answers as derivatives",
        (*_PLAIN, *_dicomnode("results", "study", "volumes"), *_VOLUMES_IN),
        ("numpy", "pydicom"),
    ),
    Room(
        "dicomnode.offline.masks",
        "which prediction belongs to which truth, and both on one grid",
        (*_dicomnode("errors", "offline.folders", "volumes"), *_VOLUMES_IN, *_pipeline("evaluate")),
        ("numpy", "pydicom"),
    ),
    Room(
        "dicomnode.offline.evaluation",
        "`dicomnode evaluate`: masks against their truths; tables and pictures",
        (*_dicomnode("errors", "offline.masks"), *_pipeline("errors", "evaluate")),
        ("numpy",),
    ),
    Room("dicomnode.offline.folders", "the files below a folder, links followed"),
    # The arrow.
    Room(
        "dicomnode.network",
        "associations, handlers, peers; C-STORE, storage commitment, query/retrieve, DICOMweb",
        _PLAIN,
        ("pydicom", "pynetdicom", "requests"),
    ),
    Room(
        "dicomnode.spool",
        "every path; durable writing; recovery",
        _dicomnode("audit.events", "records", "errors", "uids", "ledger"),
        ("pydicom",),
    ),
    Room(
        "dicomnode.spool.opening",
        "a stored instance opened for reading, its dataset cleaned of file meta information",
        _dicomnode("spool.part10"),
    ),
    Room(
        "dicomnode.ledger",
        "all SQL; claim by state change with a lease",
        _dicomnode("records", "states", "errors", "uids"),
        ("sqlalchemy", "alembic"),
    ),
    Room(
        "dicomnode.study",
        "headers; instances -> series -> study; which series fills which role; graded findings",
        _dicomnode("records", "errors", "settings", "spool.opening", "uids"),
        ("numpy", "pydicom"),
    ),
    Room(
        "dicomnode.study.earlier",
        "the earlier study of the same patient, found by the files' own headers",
        _dicomnode("records", "ledger", "study"),
    ),
    Room(
        "dicomnode.volumes",
        "DICOM series -> Volume by dicom2nifti, with highdicom's geometry as the second witness",
        (
            *_dicomnode("records", "errors", "settings", "spool.opening", "study"),
            *_VOLUMES_IN,
            *_pipeline("counts"),
        ),
        ("dicom2nifti", "gdcm", "highdicom", "nibabel", "numpy", "pydicom"),
    ),
    Room(
        "dicomnode.results",
        "an answer as finished DICOM objects; each is read back and compared before it leaves",
        (*_PLAIN, "dicomnode.spool.opening", *_VOLUMES_IN, *_pipeline("counts")),
        ("highdicom", "numpy", "pydicom"),
    ),
    Room(
        "dicomnode.results.records",
        "what an answer belongs to, and one finished object of it",
        _dicomnode("settings", "records"),
    ),
    Room(
        "dicomnode.results.segments",
        "which lesion goes into which segment, under which name and colour",
        (*_dicomnode("settings", "results.records", "results.provenance", "results.words"), *_VOLUMES_IN),
        ("highdicom", "numpy", "pydicom"),
    ),
    Room(
        "dicomnode.results.parts",
        "what every builder of results takes: `(parts, form)`",
        (
            *_dicomnode("records", "results.records", "results.provenance"),
            *_dicomnode("results.segments", "results.words"),
            *_VOLUMES_IN,
        ),
        ("pydicom",),
    ),
    Room(
        "dicomnode.results.last_resort",
        "the report that no header can stop: the ledger's row and raw bytes, no library",
    ),
    Room(
        "dicomnode.results.words",
        "what results say: codes, sentences, tables",
        (*_dicomnode("errors", "records", "states", "settings"), *_pipeline("records")),
        ("pydicom",),
    ),
    Room(
        "dicomnode.results.seg",
        "segmentations: made of a result, and read back from an earlier one",
        (*_PLAIN, *_BUILDERS, *_VOLUMES_IN),
        ("highdicom", "numpy", "pydicom"),
    ),
    Room(
        "dicomnode.results.report",
        "the structured report of an answer",
        (*_PLAIN, *_BUILDERS, *_VOLUMES_IN, "dicomnode.results.seg"),
        ("highdicom", "numpy", "pydicom"),
    ),
    Room(
        "dicomnode.results.companions",
        "pictures, page and key objects next to SEG and SR",
        (*_PLAIN, *_BUILDERS, *_VOLUMES_IN, *_dicomnode("results.report", "results.seg")),
        ("PIL", "highdicom", "manimgx_fonts_cjk", "numpy", "pydicom", "pymupdf_fonts"),
    ),
    # The gate shares nothing with the builders: no report, seg, companions, words, headers or provenance.
    Room(
        "dicomnode.results.verify",
        "the last gate: the bytes of every object against the bytes of the source",
        (*_dicomnode("errors", "records", "settings", "results.records"), *_VOLUMES_IN),
        ("numpy", "pydicom"),
    ),
    Room(
        "dicomnode.delivery",
        "what a destination gets, what is due, and sending it",
        (*_PLAIN, *_dicomnode("ledger", "spool", *(f"network.{name}" for name in _CALLS))),
        ("pydicom",),
    ),
    Room(
        "dicomnode.simulator",
        "a scanner and an archive that are made up; never part of the running node",
        (*_dicomnode("records", "errors"), *_pipeline("records")),
        ("numpy", "pydicom", "pynetdicom"),
    ),
    # The pipeline: volumes in, lesions and measurements out. It never imports dicomnode.
    Room("pipeline.counts", "a number with its noun: `1 image`, `2 images`; every room may ask"),
    Room("pipeline.errors", "the pipeline's errors, each with its reason code"),
    Room("pipeline.records", "Volume, Lesion, Measurement, StepRecord, ...", _pipeline("errors"), ("numpy",)),
    Room("pipeline.geometry", "pure functions on affines", _pipeline("errors", "records"), ("numpy",)),
    Room(
        "pipeline.bundles",
        "a model bundle: its manifest read strictly, its files and hashes, what it needs",
        _pipeline("errors", "records"),
        ("numpy", "onnxruntime"),
    ),
    Room("pipeline.journal", "what one run did and noticed: step records, findings", _pipeline("records")),
    Room(
        "pipeline.run",
        "`run_pipeline`: the numbered steps, top to bottom",
        (
            *_VOLUMES_IN,
            *_pipeline(
                "bundles",
                "cache",
                "journal",
                "preprocess",
                "inference",
                "segmenters",
                "postprocess",
                "measure",
                "quality",
            ),
            "pipeline.plan",
        ),
        ("numpy",),
    ),
    Room(
        "pipeline.cache",
        "results of slow steps by the content that they came from",
        (*_VOLUMES_IN, *_pipeline("journal", "preprocess", "segmenters.case")),
        ("numpy",),
    ),
    Room(
        "pipeline.plan",
        "`make_plan`: everything that an answer depends on besides the voxels",
        _pipeline("bundles", "cache", "errors", "measure.regions", "records"),
    ),
    Room(
        "pipeline.followup",
        "today's lesions against those of an earlier study",
        (*_VOLUMES_IN, *_pipeline("journal", "plan", "preprocess", "run")),
        ("numpy",),
    ),
    Room(
        "pipeline.preprocess",
        "one step per file: `plan_*` decides, `apply_*` does",
        _VOLUMES_IN,
        ("SimpleITK", "numpy", "scipy"),
    ),
    Room(
        "pipeline.quality",
        "an image's noise, motion and contrast, and the graded findings that follow",
        (*_VOLUMES_IN, *_pipeline("preprocess")),
        ("numpy", "scipy"),
    ),
    Room(
        "pipeline.inference",
        "ONNX sessions; tiles and blending",
        _pipeline("bundles", "errors", "records"),
        ("numpy", "onnxruntime", "openvino"),
    ),
    Room(
        "pipeline.segmenters",
        "one folder a family of networks: `spec.py` reads its table, `segment.py` runs it",
        (*_VOLUMES_IN, *_pipeline("bundles", "inference", "journal", "preprocess")),
        ("numpy", "scipy"),
    ),
    Room(
        "pipeline.importing",
        "networks of others (nnU-Net, ONNX files) into bundles, held against the original; "
        "needs torch, nobody who runs imports it",
        (
            *_VOLUMES_IN,
            *_pipeline("bundles", "evaluate", "inference", "segmenters", "training.onnx_graph"),
        ),
        ("numpy", "onnx", "onnxruntime", "scipy", "torch"),
    ),
    Room(
        "pipeline.postprocess",
        "threshold, components, back to the source grid",
        (*_VOLUMES_IN, *_pipeline("preprocess")),
        ("SimpleITK", "numpy"),
    ),
    Room(
        "pipeline.measure",
        "one measurement per file; `shape.py` and `intensity.py` gather those of a lesion",
        (*_VOLUMES_IN, "pipeline.measure.regions"),
        ("SimpleITK", "numpy", "scipy"),
    ),
    Room(
        "pipeline.measure.regions",
        "where in the brain: lobes, arterial territories",
        (*_VOLUMES_IN, *_pipeline("measure.extremes", "measure.laterality", "measure.midplane")),
        ("nibabel", "numpy", "scipy"),
    ),
    Room(
        "pipeline.evaluate",
        "metrics against a truth; two methods compared; plots",
        (*_VOLUMES_IN,),
        ("PIL", "numpy", "scipy"),
    ),
    Room(
        "pipeline.training",
        "synthesis, networks, training, export; only `models verify` looks in, where torch is installed",
        tuple(
            _pipeline(
                "bundles",
                "errors",
                "journal",
                "geometry",
                "records",
                "plan",
                "run",
                "evaluate",
                "measure.regions",
                "preprocess",
                "inference",
                "segmenters",
                "postprocess",
            )
        ),
        (
            "SimpleITK",
            "matplotlib",
            "monai",
            "nibabel",
            "nilearn",
            "numpy",
            "onnx",
            "onnxconverter_common",
            "onnxruntime",
            "rich",
            "scipy",
            "torch",
            "typer",
        ),
    ),
)


def owner(module: str) -> Room | None:
    """Return the room that owns a module of ours: the longest name that fits."""
    fitting = [room for room in ROOMS if module == room.name or module.startswith(room.name + ".")]
    return max(fitting, key=lambda room: len(room.name), default=None)


if __name__ == "__main__":
    import sys
    from pathlib import Path

    from scripts.house_figures import measure, vague_names

    paths = [Path(name) for name in sys.argv[1:] if not name.startswith("-")] or [
        Path("dicomnode"),
        Path("pipeline"),
    ]
    if "--vague" in sys.argv:
        print("\n".join(f"{file}:{line} {name}" for file, line, name in vague_names(paths)))
    elif "--measure" in sys.argv:
        print("\n".join(measure(paths).table()))
    else:
        sys.exit("usage: python -m scripts.house --measure | --vague [PATH ...]")
