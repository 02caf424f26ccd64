"""The slow steps with a memory: brain extraction, registration and inference, each under a key of all that it depends on.

What is remembered is what a step computed before any threshold of the operator's, so that a replay with another threshold finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.cache import Entry, StepCache, make_key
from pipeline.journal import Journal
from pipeline.preprocess.extract_brain import Brain
from pipeline.preprocess.register import Registration
from pipeline.records import Array, Finding, StepRecord, Volume
from pipeline.segmenters.case import Answer, Asked, Case

# Of a manifest: what is said about a network, and what is done after it.
_WITHOUT_EFFECT = ("folder", "statement", "intended_use", "licence", "trained", "output")
Inferred = tuple[Volume, dict[str, Any]]


def remember_brain(cache: StepCache | None, bundle: Bundle, image: Volume, asked: Asked, compute: Callable[[], Inferred]) -> Inferred:
    """Return the brain extractor's probability in an image, and the parameters that were used."""
    if cache is None:
        return compute()
    key = make_key("brain", image, _describe(bundle), asked.threads, asked.provider)
    entry = cache.find(key)
    if entry is not None:
        return _unpack("probability", entry), {**entry.facts["used"], "cached": True}
    probability, used = compute()
    cache.keep(key, Entry(_pack("probability", probability), {"used": used, "probability_frame": probability.frame_of_reference_uid}))
    return probability, used


def remember_registration(
    cache: StepCache | None,
    images: tuple[Volume, Volume],
    brains: tuple[Brain, Brain],
    same_frame: bool,
    compute: Callable[[], Registration],
) -> tuple[Registration, bool]:
    """Return the rigid motion between two images (reference, moving), and whether it was known; a failure is not remembered."""
    if cache is None:
        return compute(), False
    key = make_key("register", *images, *(brain.soft for brain in brains), [brain.threshold for brain in brains], same_frame)
    entry = cache.find(key)
    if entry is not None:
        return Registration(link=np.asarray(entry.arrays["link"], np.float64), **entry.facts), True
    found = compute()
    facts = {name: value for name, value in asdict(found).items() if name != "link"}
    cache.keep(key, Entry({"link": found.link}, facts))
    return found, False


def remember_answer(
    cache: StepCache | None, bundle: Bundle, case: Case, asked: Asked, journal: Journal, compute: Callable[[], Answer]
) -> Answer:
    """Return a segmenter's answer; its step records and findings are remembered with it.

    The agreement of several passes is counted at one threshold, so under another one such an answer is computed again.
    """
    if cache is None:
        return compute()
    links = {role: link.tolist() for role, link in case.links.items()}
    of_brain = (case.brain.soft, case.brain.threshold)
    key = make_key(
        "answer", list(case.images), *case.images.values(), links, *of_brain, case.reference.affine, list(case.reference.shape),
        _describe(bundle), asked.bias_correction, asked.threads, asked.provider,
    )  # fmt: skip
    entry = cache.find(key)
    if entry is not None and entry.facts["threshold"] in (None, asked.threshold):
        journal.steps += [StepRecord(name, parameters, 0.0, cached=True) for name, parameters in entry.facts["steps"]]
        journal.findings += [Finding(**finding) for finding in entry.facts["findings"]]
        agreement = _unpack("agreement", entry) if "agreement" in entry.arrays else None
        return Answer(_unpack("probability", entry), agreement)
    steps, findings = len(journal.steps), len(journal.findings)
    answer = compute()
    facts = {
        "threshold": None if answer.agreement is None else asked.threshold,
        "steps": [[step.name, dict(step.parameters)] for step in journal.steps[steps:]],
        "findings": [asdict(finding) for finding in journal.findings[findings:]],
        "probability_frame": answer.probability.frame_of_reference_uid,
    }
    arrays = _pack("probability", answer.probability)
    if answer.agreement is not None:
        arrays |= _pack("agreement", answer.agreement)
        facts["agreement_frame"] = answer.agreement.frame_of_reference_uid
    cache.keep(key, Entry(arrays, facts))
    return answer


def _describe(bundle: Bundle) -> dict[str, Any]:
    """Return what of a bundle its probability depends on: hashes, and every key of the manifest that acts before the threshold."""
    said: Mapping[str, Any] = asdict(replace(bundle, members=()))
    # Planes and members are asked at thresholds that are moved onto the bundle's own before their answers become one.
    fused = bundle.family_spec is not None
    acting = {name: value for name, value in said.items() if name not in _WITHOUT_EFFECT or (fused and name == "output")}
    members = [{**_describe(member), "output": asdict(member.output)} for member in bundle.members]
    return {**acting, "members": members, "activation": bundle.output.activation, "sha256": bundle.sha256}


def _pack(name: str, volume: Volume) -> dict[str, Array]:
    return {name: volume.array, f"{name}_affine": volume.affine}


def _unpack(name: str, entry: Entry) -> Volume:
    return Volume(entry.arrays[name], entry.arrays[f"{name}_affine"], entry.facts[f"{name}_frame"])
