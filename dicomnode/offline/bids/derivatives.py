"""An answer as BIDS derivatives.

Masks, probabilities, labels and tables with sidecars that say what made them.

Names are those of the specification's "Imaging data types, derivatives": `label-L` is its label for lesions.
Pictures, DICOM results and tables over all cases have no place in it and are listed in `.bidsignore`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dicomnode import __version__
from dicomnode.offline.bids.names import BIDS_VERSION, SUFFIX_OF, CaseLabel
from dicomnode.records import Role
from dicomnode.results.companions.preview import montage_png
from dicomnode.results.provenance import describe_algorithm
from dicomnode.results.words.lesion_table import COLUMN_WORDS, lesion_row
from dicomnode.results.words.sentences import WARNING
from dicomnode.volumes.nifti import write_nifti
from pipeline.records import Lesion, ModelIdentity, PipelineResult, Volume

IGNORED = ("figures", "dicom", "cases.tsv", "lesions.csv")
_MASK = "label-L_mask"
_LESIONS = "desc-lesions_dseg"


@dataclass(frozen=True)
class Origin:
    """Where a case came from.

    Attributes
    ----------
    uris
        Role to the BIDS URI of its image; roles without one are written into the dataset itself.
    facts
        What else the sidecar says, such as the study's UID; no patient data.
    key
        Tells this input and these settings from others: an answer with the same key need not be made again.
    """

    uris: Mapping[Role, str]
    facts: Mapping[str, Any]
    key: str


def mask_sidecar(output: Path, label: CaseLabel) -> Path:
    """Return the file by which a case counts as finished."""
    return output / label.folder / "anat" / f"{label.stem}_{_MASK}.json"


def is_finished(output: Path, label: CaseLabel, key: str) -> bool:
    """Return whether the case was answered from the same input with the same settings."""
    try:
        return bool(
            json.loads(mask_sidecar(output, label).read_text(encoding="utf-8")).get("InputAndSettings") == key
        )
    except (OSError, ValueError, AttributeError):
        return False


def describe_dataset(models: Sequence[ModelIdentity], links: Mapping[str, str]) -> dict[str, Any]:
    """Return `dataset_description.json` of the derivatives; `links` names the raw dataset."""
    made_by = [
        {"Name": "dicomnode", "Version": __version__, "Description": "Stroke-lesion outlines. " + WARNING}
    ]
    made_by += [
        {"Name": model.name, "Version": model.version, "Description": f"Network, sha256 {model.sha256}"}
        for model in models
    ]
    return {
        "Name": "Stroke-lesion outlines by dicomnode",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": made_by,
        **({"DatasetLinks": dict(links)} if links else {}),
    }


def write_dataset_files(
    folder: Path, description: Mapping[str, Any], readme: str, ignored: Sequence[str] = ()
) -> None:
    """Write what stands at the root of a dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "dataset_description.json", description)
    (folder / "README").write_text(readme, encoding="utf-8")
    if ignored:
        (folder / ".bidsignore").write_text("".join(f"{line}\n" for line in ignored), encoding="utf-8")


def write_answer(
    folder: Path, label: CaseLabel, volumes: Mapping[Role, Volume], result: PipelineResult, origin: Origin
) -> None:
    """Write one case into its own `folder`, which becomes `sub-...` of the dataset.

    The sidecar of the mask comes last.
    """
    anat, figures = folder / "anat", folder / "figures"
    for subfolder in (anat, figures):
        subfolder.mkdir(parents=True, exist_ok=True)
    uris = {
        role: origin.uris.get(role) or _keep_input(anat, label, role, volume)
        for role, volume in volumes.items()
    }
    about = {"Sources": list(uris.values()), "SpatialReference": uris[result.reference_role]}
    images: dict[str, tuple[Volume, dict[str, Any]]] = {
        "label-L_probseg": (
            result.probability,
            {"Description": "Lesion probability of each voxel, before the threshold."},
        ),
        "desc-brain_mask": (result.brain_mask, {"Type": "Brain"}),
        _LESIONS: (
            result.labels,
            {"Manual": False, "Description": "One label a lesion, largest first.", **COLUMN_WORDS},
        ),
        _MASK: (
            result.labels.with_array((result.labels.array > 0).astype("uint8")),
            {"Type": "Lesion", **_made_by(result, origin)},
        ),
    }
    if result.agreement is not None:
        images["desc-agreement_probseg"] = (
            result.agreement,
            {"Description": "Share of the network's passes that call the voxel lesion."},
        )
    (anat / f"{label.stem}_{_LESIONS}.tsv").write_text(
        table_text(lesion_rows(result.lesions)), encoding="utf-8"
    )
    (figures / f"{label.stem}_montage.png").write_bytes(montage_png(volumes[result.reference_role], result))
    for name, (volume, facts) in sorted(images.items(), key=lambda item: item[0] == _MASK):
        write_nifti(anat / f"{label.stem}_{name}.nii.gz", volume.array, volume.affine)
        write_json(anat / f"{label.stem}_{name}.json", {**about, **facts})


def lesion_rows(lesions: Sequence[Lesion]) -> list[dict[str, str]]:
    """Return one row a lesion.

    `index` and `name` are what BIDS wants of a lookup table, the rest is the node's own table.
    """
    rows = []
    for lesion in lesions:
        measured = {column: text for column, text in lesion_row(lesion).items() if column != "label"}
        rows.append({"index": str(lesion.label), "name": f"lesion-{lesion.label}", **measured})
    return rows


def table_text(rows: Sequence[Mapping[str, str]], columns: Sequence[str] = ("index", "name")) -> str:
    """Return a BIDS table: tab-separated, "n/a" for what is absent.

    `columns` are those of a table without rows.
    """
    names = list(dict.fromkeys(name for row in rows for name in row)) or list(columns)
    buffer = io.StringIO()
    table = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    table.writerow(names)
    table.writerows([row.get(name) or "n/a" for name in names] for row in rows)
    return buffer.getvalue()


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table; none when it is absent."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as handle:
        return [dict(row) for row in csv.DictReader(handle, delimiter="\t")]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a sidecar."""
    path.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


def _keep_input(anat: Path, label: CaseLabel, role: Role, volume: Volume) -> str:
    """Write an image that lies in no BIDS dataset beside its mask, as it was read.

    The mask needs something to lie on.
    """
    name = f"{label.stem}_desc-input_{SUFFIX_OF[role]}"
    write_nifti(anat / f"{name}.nii.gz", volume.array, volume.affine)
    facts = {
        "SkullStripped": False,
        "Description": "The image as the pipeline read it: rescaled values on the source's own grid.",
    }
    write_json(anat / f"{name}.json", facts)
    return f"bids::{(label.folder / 'anat' / name).as_posix()}.nii.gz"


def _made_by(result: PipelineResult, origin: Origin) -> dict[str, Any]:
    return {
        "Warning": WARNING,
        "Threshold": result.threshold,
        "Algorithm": asdict(describe_algorithm(result.plan)),
        "Plan": result.plan.digest(),
        "Models": [asdict(model) for model in result.models],
        "SoftwareVersion": __version__,
        "Measurements": {
            measurement.name: {
                "Value": measurement.value,
                "Units": measurement.unit,
                "Method": measurement.method,
            }
            for measurement in result.measurements
        },
        "Findings": [asdict(finding) for finding in result.findings],
        "Steps": [
            {
                "Name": step.name,
                "Seconds": round(step.seconds, 3),
                "Cached": step.cached,
                "Parameters": dict(step.parameters),
            }
            for step in result.steps
        ],
        **origin.facts,
        "InputAndSettings": origin.key,
    }
