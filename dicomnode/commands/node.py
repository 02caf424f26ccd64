"""What the commands of a node do and print: demo, send, pull, doctor.

Each returns whether all was well; rooms are imported where they are used, so `--help` is quick.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from dicomnode.commands.terminal import COLOURS, console, print_rows, spinner
from dicomnode.errors import ConfigError, NodeError
from dicomnode.offline.folders import files_below
from dicomnode.settings.config import Config, DestinationSettings, TlsSettings
from pipeline.counts import counted

if TYPE_CHECKING:
    from dicomnode.commands.demo import DemoResult


def demo(folder: Path, timeout_s: float) -> bool:
    """Run the demo and print what came back.

    False when the SEG does not cover half of the largest planted lesion.
    """
    from dicomnode.commands.demo import PAGE_OF_STUDY, run_demo

    result = run_demo(folder, timeout_s, lambda line: console.print(line, highlight=False))
    _print_demo(result)
    command = f"dicomnode web --config {folder / 'dicomnode.toml'}"
    console.print(
        f"To look at it in a browser, run `{command}` and open {PAGE_OF_STUDY}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return max(result.planted, key=lambda lesion: lesion.planted_ml).overlap_percent >= 50


def send(inputs: Sequence[Path], to: str, calling: str, timeout_s: float, tls: TlsSettings | None) -> bool:
    """Send DICOM files to AE@host:port, with TLS when `tls` says who we are; False when one was not taken."""
    from dicomnode.network.sender import send_files

    files = sorted(
        {
            file
            for path in inputs
            for file in (files_below(path) if path.is_dir() else [path])
            if file.is_file() and _is_dicom(file)
        }
    )
    if not files:
        raise NodeError("no DICOM file was found in what was given")
    with spinner(quiet=False) as progress:
        progress(f"sending {counted(len(files), 'file')} to {to}")
        peer = parse_peer(to)
        if tls is not None:
            peer = peer.model_copy(update={"tls": True})
            peer.introduce(tls)
        outcomes = send_files(files, peer, calling_ae=calling, timeout_s=timeout_s)
    failed = [
        (path, outcome) for path, outcome in zip(files, outcomes, strict=True) if outcome.verdict != "ok"
    ]
    for path, outcome in failed[:20]:
        console.print(f"{path}: {outcome.reason}", style="red", highlight=False)
    console.print(
        f"{len(files) - len(failed)} of {counted(len(files), 'file was', 'files were')} acknowledged."
    )
    return not failed


def pull(config: Config, study: str, source: str, as_json: bool) -> bool:
    """Fetch the MR series of a study; False when not every image came."""
    from dicomnode.fetch import pull as fetch
    from dicomnode.fetch import store_into
    from dicomnode.processes.app import open_ledger
    from dicomnode.settings.references import find_source

    peer = find_source(config, source)
    with closing(open_ledger(config)) as ledger, spinner(as_json) as progress:
        progress(f"asking {peer.ae_title}")
        pulled = fetch(config, store_into(config, ledger, time.time), peer, study)
    came, retrieved = pulled.retrieved.completed, pulled.retrieved
    complete = retrieved.outcome.verdict == "ok" and (pulled.expected is None or came >= pulled.expected)
    if as_json:
        counts = {
            "series": len(pulled.series),
            "images": came,
            "expected": pulled.expected,
            "failed": retrieved.failed,
        }
        typer.echo(
            json.dumps(
                {
                    "StudyInstanceUID": study,
                    **counts,
                    "service": retrieved.service,
                    "reason": retrieved.outcome.reason,
                }
            )
        )
        return complete
    images = counted(came, "image")
    if pulled.expected is not None:
        images = f"{came} of {counted(pulled.expected, 'image')}"
    console.print(
        f"{images} of {len(pulled.series)} MR series came by {retrieved.service}.",
        highlight=False,
    )
    if not complete:
        console.print(retrieved.outcome.reason, style="red", highlight=False)
    console.print("`dicomnode why` tells what becomes of the study.", highlight=False)
    return complete


def parse_peer(text: str) -> DestinationSettings:
    """Read `AE@host:port`."""
    from dicomnode.settings.references import parse_address

    address = parse_address(text)
    if address is None:
        raise ConfigError([f"--to: {text!r} is not of the form AE@host:port"])
    return address


def doctor(config: Config, as_json: bool) -> bool:
    """Print every check; False when there is a problem."""
    from dicomnode.commands.doctor import examine

    checks = list(examine(config))
    rows = [[check.name, check.level, check.seen, check.advice] for check in checks]
    print_rows(("check", "level", "seen", "what to do"), rows, as_json, colours=COLOURS)
    return all(check.level != "problem" for check in checks)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"


def _print_demo(result: DemoResult) -> None:
    console.rule("what the report says")
    for sentence in result.sentences:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.rule("planted against found")
    table = Table("planted lesion", "volume, ml", "covered by the SEG, %")
    for lesion in result.planted:
        table.add_row(str(lesion.label), f"{lesion.planted_ml:.1f}", f"{lesion.overlap_percent:.0f}")
    console.print(table)
    volumes_text = ", ".join(f"{size:.1f}" for size in result.found_ml) or "none"
    console.print(
        f"found: {counted(len(result.found_ml), 'lesion')} of {volumes_text} ml; "
        f"Dice over all lesions {result.dice:.2f}"
    )
    console.print(f"from the last image sent to the answer in the PACS: {result.seconds:.1f} s")
    for name, path in (
        ("SEG", result.seg),
        ("report to read (SR)", result.summary or result.sr),
        ("measurements (SR)", result.sr),
        ("measurements as text", result.report),
        ("montage", result.montage),
    ):
        console.print(f"{name}: {path or 'none'}", highlight=False, soft_wrap=True)
    console.print("The report says what the networks were trained on. For research use; not for diagnosis.")
