"""Turns measured rows into the card's sections, so that no figure is typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.counts import counted

Row = dict[str, Any]


def markdown_table(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """Return the rows as a Markdown table; numbers with four digits, absent values empty."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [f"{row[c]:.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def brain_sections(rows: Sequence[Row], kept: Sequence[Row], kept_real: Sequence[Row] = ()) -> dict[str, str]:
    """Return the extractor's sections from the rows of `measure_real` and `cavities`."""
    heads = [r for r in rows if r["what"] == "brain"]
    scored = [r for r in heads if "dice" in r]
    dice = [r["dice"] for r in scored]
    sections = {}
    if scored:
        head = (
            "Reference masks of the Ljubljana MS longitudinal data (Lesjak et al., CC-BY), "
            "compared on their own grid. The reference of patient03 cuts off frontal cortex and the vertex "
            "(looked at), which shows as low precision here. The label's margin of 1 mm was "
            "chosen before these figures were seen and was not fitted to them.\n\n"
            f"{counted(len(scored), 'image')}, mean Dice {np.mean(dice):.3f}, worst {min(dice):.3f}; "
            "without patient03 mean "
            f"{np.mean([r['dice'] for r in scored if 'patient03' not in r['case']]):.3f}.\n\n"
        )
        columns = ("case", "input", "dice", "sensitivity", "precision", "volume_ml", "reference_ml")
        sections["Results on real heads with a reference mask"] = head + markdown_table(scored, columns)
    unscored = [r for r in heads if "dice" not in r]
    if unscored:
        sections["Real heads without a reference, judged by eye"] = markdown_table(
            unscored, ("case", "input", "volume_ml")
        )
    sentences = []
    if kept:
        sentences.append(
            f"- {counted(len(kept), 'fresh synthetic head')} with a lesion over 1 mL at the cortex, cavities "
            f"among them: {_kept_text(kept)}"
        )
    if kept_real:
        sentences.append(
            f"- {counted(len(kept_real), 'image')} of real heads with an unseen outline painted in "
            f"as a cavity that reaches the cortex: {_kept_text(kept_real)} "
            "The lesion lies inside the mask that the extractor gave before it was painted."
        )
    if sentences:
        sections["Cortical lesions kept inside the mask"] = "\n".join(sentences)
    return sections


def _kept_text(rows: Sequence[Row]) -> str:
    shares = np.array([r["kept"] for r in rows])
    return (
        f"mean share of the lesion inside the mask {shares.mean():.3f}, worst {shares.min():.3f}, "
        f"{100 * float((shares >= 0.95).mean()):.0f} % keep at least 95 %."
    )


def lesion_sections(rows: Sequence[Row], implanted: Sequence[Row]) -> dict[str, str]:
    """Return the lesion network's sections from the rows of `measure_real` and `implant`."""
    sections = {}
    free = [r for r in rows if r["what"] == "lesion" and r["stroke_free"]]
    if free:
        summary = []
        for name in dict.fromkeys(r["input"] for r in free):
            volumes = [r["found_ml"] for r in free if r["input"] == name]
            summary.append(
                f"- {name}: {counted(len(volumes), 'image')}, median {np.median(volumes):.1f} mL, worst "
                f"{max(volumes):.1f} mL"
            )
        sections["False volume on real heads without a stroke"] = (
            "Whole heads through the shipped path (`run_pipeline`: own brain extraction, own registration, "
            "thresholds as in the manifest). The MS patients have hyperintense plaques of their own, which "
            "count as false here.\n\n"
            + "\n".join(summary)
            + "\n\n"
            + markdown_table(free, ("case", "input", "found_ml"))
        )
    with_other_lesions = [r for r in rows if r["what"] == "lesion" and not r["stroke_free"]]
    if with_other_lesions:
        sections["Real heads with disease but no truth"] = markdown_table(
            with_other_lesions, ("case", "input", "found_ml")
        )
    if implanted:
        sections["Held-out real outlines implanted into real heads"] = implant_text(implanted)
    return sections


def implant_text(rows: Sequence[Row]) -> str:
    """Return the summary and table of semi-real cases."""
    lines = [
        (
            "Outlines that were never trained on, placed by affine registration of the template and "
            "painted with the lesion intensities of the synthesis, added on the images' own grids: real "
            "anatomy, real scanner, artificial lesion; then the shipped path, whole head in."
        ),
        "",
    ]
    scored_rows = [r for r in rows if "dice" in r]
    for name in dict.fromkeys(r["input"] for r in scored_rows):
        input_rows = [r for r in scored_rows if r["input"] == name]
        bins = []
        for low, high in ((0, 5), (5, 20), (20, 80), (80, 1000)):
            dice = [r["dice"] for r in input_rows if low < r["truth_ml"] <= high]
            if dice:
                bins.append(f"{low} to {high} mL: {np.mean(dice):.2f} ({len(dice)})")
        kept = np.mean([r["kept"] for r in input_rows])
        lines.append(
            f"- {name}: mean Dice {np.mean([r['dice'] for r in input_rows]):.2f} over {len(input_rows)}; "
            + "; ".join(bins)
            + f"; inside the brain mask {kept:.3f}"
        )
    return "\n".join(lines)
