"""What a compute worker does: one study's files in, its verified result files out.

`answer_study` is the image path from end to end, one line a stage. It sees no ledger and no network, so it
can run on any worker that sees the spool, and a study that kills its worker harms nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from dicomnode import __version__
from dicomnode.errors import ResultRejected, StudyRefused
from dicomnode.log import configure_logging
from dicomnode.records import EarlierStudy, Finding, IndexedInstance, ResultFile, SetAside, SourceSeries
from dicomnode.results.build import build_answer
from dicomnode.results.companions.preview import montage_png
from dicomnode.results.last_resort.report import UnansweredStudy
from dicomnode.results.outcome import judge, summarize
from dicomnode.results.provenance import describe_algorithm
from dicomnode.results.records import AnswerContext, EncodedResult
from dicomnode.results.refuse import refuse
from dicomnode.results.seg.earlier import read_earlier, referenced_series
from dicomnode.results.verify.gate import verify_answer
from dicomnode.settings.config import Config, Language
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import write_result
from dicomnode.states import Outcome
from dicomnode.study.person import check_one_person
from dicomnode.volumes.study_images import LoadedStudy, load_study
from dicomnode.worker_memory import pause_collector, warm_memory
from pipeline.cache import StepCache
from pipeline.errors import CaseRefused
from pipeline.followup import follow_up
from pipeline.inference.providers import choose_provider
from pipeline.measure.regions.choice import choose_region_map
from pipeline.measure.regions.territories import read_territories
from pipeline.plan import Recipe
from pipeline.records import Lesion, PipelineResult, Volume
from pipeline.run import run_pipeline
from pipeline.segmenters.families import find_bundle, open_networks

log = structlog.get_logger()

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries the networks inside the package, a checkout next to it.
SHIPPED_MODELS = _PACKAGE / "models" if (_PACKAGE / "models").is_dir() else _PACKAGE.parent / "models"
_sheets = ThreadPoolExecutor(1, thread_name_prefix="sheet")


@dataclass(frozen=True)
class StudyTask:
    """Everything that answering one study needs; it crosses to a worker process."""

    StudyInstanceUID: str
    revision: int
    instances: tuple[IndexedInstance, ...]
    config: Config
    set_aside: tuple[SetAside, ...] = ()
    earlier: EarlierStudy | None = None
    earlier_reports: tuple[ResultFile, ...] = ()


@dataclass(frozen=True)
class StudyAnswer:
    """What became of a study: the outcome, its reason in one sentence, the results in the spool."""

    outcome: Outcome
    reason: str
    results: tuple[ResultFile, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SolvedStudy:
    """A study that went the whole way: what was loaded, what was found, and the verified DICOM objects."""

    loaded: LoadedStudy
    result: PipelineResult
    encoded: tuple[EncodedResult, ...]

    @property
    def reference(self) -> Volume:
        """The volume on whose grid the result lies."""
        return self.loaded.volumes[self.result.reference_role]


def answer_study(task: StudyTask, progress: Callable[[str], None] | None = None) -> StudyAnswer:
    """Answer one study, and tell `progress` the name of each step as it begins.

    A refusal is an answer too; only bugs and passing faults raise.
    """
    configure_logging(task.config.log)
    _finish_sheet()
    try:
        with pause_collector():
            return _keep_answer(task, solve_study(task, progress))
    except CaseRefused as refusal:
        return refuse_study(task, refusal.code, str(refusal), Outcome.REFUSED)
    except ResultRejected as rejected:
        return refuse_study(task, "result-verification-failed", str(rejected), Outcome.FAILED)


def prepare_worker(config: Config) -> None:
    """Open the networks, read the atlas and take memory, so that a first study is as fast as others."""
    configure_logging(config.log)
    recipe = build_recipe(config)
    choose_region_map()
    for bundle in (recipe.brain, recipe.lesion):
        open_networks(bundle, recipe.threads, recipe.provider)
    warm_memory()


def solve_study(task: StudyTask, progress: Callable[[str], None] | None = None) -> SolvedStudy:
    """Load, segment, encode and verify; writes nothing but temporary files.

    Raises
    ------
    StudyRefused, PipelineError
        The study cannot be processed; `code` and message say why.
    ResultRejected
        A result failed its verification.
    """
    report = progress or (lambda _step: None)
    report("load images")
    with tempfile.TemporaryDirectory(prefix="dicomnode-") as work_dir:
        loaded = load_study(
            task.StudyInstanceUID, task.instances, task.set_aside, task.config, Path(work_dir)
        )
    recipe = build_recipe(task.config)
    # The network may take fewer series than the study has: results point to, and lie on, those that it took.
    channels_taken = recipe.lesion.choose_channels(loaded.volumes)
    loaded = replace(
        loaded, sources=tuple(source for source in loaded.sources if source.role in channels_taken)
    )
    result = run_pipeline(loaded.volumes, recipe, progress)
    # An image that could not be brought onto the reference was left out on the way; which one is the
    # reference, the manifest says.
    by_role = {source.role: source for source in loaded.sources}
    loaded = replace(loaded, sources=tuple(by_role[role] for role in result.used if role in by_role))
    use_findings = loaded.selection.findings_of_use([source.role for source in loaded.sources])
    loaded = replace(loaded, findings=(*loaded.findings, *use_findings))
    reference = loaded.volumes[result.reference_role]
    if task.earlier is not None:
        result = _compare_with_earlier(task, task.earlier, result, reference, recipe)
    report("build and verify results")
    context = _context(task, loaded.sources)
    second = loaded.volumes.get("t1") if result.reference_role == "flair" else None
    encoded = build_answer(context, reference, result, loaded.findings, second, loaded.headers)
    verify_answer(encoded, context, reference, result, second)
    return SolvedStudy(loaded, result, encoded)


def _compare_with_earlier(
    task: StudyTask, study: EarlierStudy, result: PipelineResult, reference: Volume, recipe: Recipe
) -> PipelineResult:
    """Say what became of the earlier lesions; today's answer stands where that fails.

    A finding then says why.
    """
    try:
        series = referenced_series(study.segmentation)
        spool = task.config.storage.spool
        check_one_person(
            (spool / study_instances.instances[0].path for study_instances in (task, study)),
            "the two studies are",
        )
        with tempfile.TemporaryDirectory(prefix="dicomnode-") as work_dir:
            loaded = load_study(study.StudyInstanceUID, study.instances, (), task.config, Path(work_dir))
        roles = [source.role for source in loaded.sources if source.SeriesInstanceUID == series]
        if not roles:
            raise StudyRefused(
                "the images under the earlier segmentation are not there any more",
                code="earlier-images-missing",
            )
        return follow_up(
            result, reference, read_earlier(study.segmentation, loaded.volumes[roles[0]]), recipe
        )
    except CaseRefused as problem:
        sentence = f"The lesions were not compared with those of the earlier study: {problem}"
        finding = Finding("follow-up-failed", "warning", sentence, problem.code)
        return replace(result, findings=(*result.findings, finding))


def build_recipe(config: Config) -> Recipe:
    """Find the configured bundles and settle the parameters of the pipeline."""
    models = config.pipeline.models or SHIPPED_MODELS
    return Recipe(
        lesion=find_bundle(models, config.pipeline.lesion_model),
        brain=find_bundle(models, config.pipeline.brain_model),
        threshold=config.pipeline.threshold,
        peak=config.pipeline.peak,
        minimum_volume_mm3=config.pipeline.minimum_volume_mm3,
        bias_correction=config.pipeline.bias_correction,
        require_head=config.pipeline.require_head,
        territories=read_territories(config.pipeline.atlas) if config.pipeline.atlas else None,
        threads=config.compute.threads,
        provider=choose_provider(config.compute.provider),
        cache=StepCache(config.pipeline.cache, config.pipeline.cache_limit_mb * 10**6)
        if config.pipeline.cache
        else None,
    )


def refuse_study(task: StudyTask, code: str, sentence: str, outcome: Outcome) -> StudyAnswer:
    """Build and keep the report that says why there is no segmentation."""
    return StudyAnswer(
        outcome, sentence, _keep(task, refusal_of(task, code, sentence, outcome)), {"code": code}
    )


def refusal_of(task: StudyTask, code: str, sentence: str, outcome: Outcome) -> tuple[EncodedResult, ...]:
    """Build the report that says why there is no segmentation; no header can stop it."""
    spool = task.config.storage.spool
    # The newest first: a correction of the patient comes last.
    everything: list[IndexedInstance | SetAside] = [*task.instances, *task.set_aside]
    arrivals = sorted(everything, key=lambda item: item.received_at, reverse=True)
    study = UnansweredStudy(
        StudyInstanceUID=task.StudyInstanceUID,
        revision=task.revision,
        paths=tuple(spool / item.path for item in arrivals),
        code=code,
        sentence=sentence,
        failed=outcome is Outcome.FAILED,
        created_at=arrivals[0].received_at if arrivals else 0.0,
        series_number=task.config.results.series_number_base + 1,
        software_version=__version__,
        language=task.config.report.language,
    )
    return refuse(study, task.config.forms, lambda: _context(task, ()))


def _keep_answer(task: StudyTask, solved: SolvedStudy) -> StudyAnswer:
    result_files = _keep(task, solved.encoded)
    layout = SpoolLayout(task.config.storage.spool)
    montage = layout.result_path(task.StudyInstanceUID, task.revision, "montage.png")
    # Nobody waits for it: the results leave first.
    drawing = (layout, montage, result_files[0].path, solved, task.config.report.language)
    _sheets.submit(_draw_sheet, *drawing)
    outcome = judge(solved.result, solved.loaded.findings)
    used_now = " ".join(
        finding.message for finding in solved.loaded.findings if finding.code == "series-used"
    )
    return StudyAnswer(
        outcome,
        f"{summarize(solved.result, outcome)} {used_now}".strip(),
        result_files,
        {**describe(solved), "montage": montage},
    )


def _draw_sheet(
    layout: SpoolLayout, montage: str, beside: str, solved: SolvedStudy, language: Language
) -> None:
    """Draw the sheet of key slices that the pages show; an answer is whole without one.

    It shows the patient, so none stays where the result file `beside` it was removed meanwhile: an early
    answer was dropped, or the study's time was over.
    """
    result_file = layout.root / beside
    try:
        drawn = montage_png(solved.reference, solved.result, language)
        if result_file.exists():
            write_result(layout, montage, drawn)
        if not result_file.exists():
            (layout.root / montage).unlink(missing_ok=True)
    except Exception as problem:  # noqa: BLE001  the results are safe, and have left perhaps
        log.warning("sheet_not_drawn", error=type(problem).__name__)


def _finish_sheet() -> None:
    """Wait for the sheet of the study before: it may be of another try of the same one."""
    _sheets.submit(int).result()


def _context(task: StudyTask, sources: tuple[SourceSeries, ...]) -> AnswerContext:
    """Say what the results are made from.

    Their date is when the last used instance came, so the same input gives the same bytes.
    """
    spool = task.config.storage.spool
    used_now = {frame.path for source in sources for frame in source.frames}
    received = [instance.received_at for instance in task.instances if spool / instance.path in used_now]
    any_instance: IndexedInstance | SetAside = task.instances[0] if task.instances else task.set_aside[0]
    marks = {spool / instance.path: instance.header.identity_mark for instance in task.instances}
    return AnswerContext(
        StudyInstanceUID=task.StudyInstanceUID,
        revision=task.revision,
        sources=sources,
        settings=task.config.results,
        language=task.config.report.language,
        software_version=__version__,
        created_at=max(received) if received else any_instance.received_at,
        template=sources[0].frames[0].path if sources else spool / any_instance.path,
        forms=task.config.forms,
        earlier_reports=task.earlier_reports,
        identity_mark=next((mark for path, mark in marks.items() if not used_now or path in used_now), ""),
    )


def _keep(task: StudyTask, encoded: tuple[EncodedResult, ...]) -> tuple[ResultFile, ...]:
    """Freeze the objects on disk: these bytes are sent, however often."""
    layout = SpoolLayout(task.config.storage.spool)
    result_files = []
    for item in encoded:
        path = layout.result_path(task.StudyInstanceUID, task.revision, item.filename)
        sha256 = write_result(layout, path, item.data)
        result_files.append(
            ResultFile(item.kind, path, sha256, item.SOPInstanceUID, item.SOPClassUID, item.SeriesInstanceUID)
        )
    return tuple(result_files)


def describe(solved: SolvedStudy) -> dict[str, Any]:
    """Return what `status` and `why` show of an answer; JSON types, no patient data."""
    loaded, result = solved.loaded, solved.result
    return {
        "roles": dict(loaded.selection.roles),
        "used": [source.role for source in loaded.sources],
        "selection": dict(loaded.selection.reasons),
        "choice": loaded.selection.record(),
        "findings": [vars(finding) for finding in (*loaded.findings, *result.findings)],
        "steps": [
            {
                "name": step.name,
                "seconds": round(step.seconds, 3),
                "cached": step.cached,
                "parameters": dict(step.parameters),
            }
            for step in result.steps
        ],
        "lesions": [
            {
                "label": lesion.label,
                "laterality": lesion.laterality,
                "volume_ml": round(volume_ml(lesion), 3),
                "centroid_lps_mm": list(lesion.centroid_lps_mm),
                "centroid_mni_mm": None if lesion.centroid_mni_mm is None else list(lesion.centroid_mni_mm),
                "mean_probability": round(lesion.mean_probability, 3),
                "certainty": round(lesion.certainty, 3),
                "regions": [vars(share) for share in lesion.regions],
                "territories": [vars(share) for share in lesion.territories],
            }
            for lesion in result.lesions
        ],
        "models": [vars(model) for model in result.models],
        "threshold": result.threshold,
        "calibration": describe_algorithm(result.plan).parameters["certainty"],
        "plan": result.plan.digest(),
    }


def volume_ml(lesion: Lesion) -> float:
    """Return a lesion's volume in millilitres."""
    return next(measurement.value for measurement in lesion.measurements if measurement.name == "volume")
