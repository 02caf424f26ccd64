"""A whole node in this process: a real listener, spool, ledger, flow and archive; only the worker process is left out."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import pydicom
import pytest
from pydicom.dataset import Dataset

from dicomnode import answer, flow
from dicomnode.compute import Compute
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.shown import plain
from dicomnode.network.association import Receiver
from dicomnode.network.sender import send_files
from dicomnode.settings.config import Config, DestinationSettings, parse_config
from dicomnode.simulator.archive import Archive
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories.ledger import new_ledger

Argument = TypeVar("Argument")
Answer = TypeVar("Answer")

AE_TITLE = "NODE"
# Between what is sent and what is done with it, so that every study has been quiet for long enough.
_LATER_S = 600.0


class InlineCompute:
    """Runs a function here and now, on a copy as a worker process would get it."""

    closed = False
    worker_count = most_workers = 1

    @contextmanager
    def slot(self) -> Iterator[bool]:
        yield True

    def run(
        self,
        function: Callable[[Argument, Callable[[str], None]], Answer],
        argument: Argument,
        *,
        name: str,
        limit_s: float,
        tick: Callable[[], None],
        progress: Callable[[str], None],
    ) -> Answer:
        assert name
        assert limit_s > 0
        tick()
        answer_here = function(pickle.loads(pickle.dumps(argument)), progress)
        answered: Answer = pickle.loads(pickle.dumps(answer_here))
        tick()
        return answered


@dataclass
class WholeNode:
    """What a test may look at and turn."""

    config: Config
    ledger: Ledger
    archive: Archive
    place: flow.Workplace
    port: int

    def push(self, files: Sequence[Path]) -> list[int | None]:
        """Send files over one association; return the status of each."""
        peer = DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=self.port)
        return [outcome.status for outcome in send_files(files, peer, calling_ae="SCANNER", timeout_s=30)]

    def work(self) -> None:
        """Do what the timers trigger until nothing is left to do."""
        flow.learn_destinations(self.place)
        while flow.index_instances(self.place):
            pass
        flow.assess_studies(self.place)
        while flow.fetch_missing(self.place):
            while flow.index_instances(self.place):
                pass
            flow.assess_studies(self.place)
        while flow.answer_next(self.place):
            pass
        while flow.deliver_results(self.place) or flow.confirm_results(self.place):
            pass

    def history(self, study: str) -> dict[str, Any]:
        """Return what the ledger knows of a study."""
        return plain(self.ledger.history.of_study(study))

    def arrived(self, study: str) -> dict[str, list[Dataset]]:
        """Return what the archive has of a study: modality -> instances."""
        found: dict[str, list[Dataset]] = {}
        for path in self.archive.files:
            instance = pydicom.dcmread(path)
            if instance.StudyInstanceUID == study:
                found.setdefault(instance.Modality, []).append(instance)
        return found


@contextmanager
def whole_node(
    folder: Path,
    others: Sequence[Archive] = (),
    objects: Sequence[str] = ("auto",),
    **settings: dict[str, Any],
) -> Iterator[WholeNode]:
    """Start a node and its archive below `folder`.

    Running `others` are destinations too, by their AE titles; all get the same kinds of `objects`. `settings` are tables.
    """
    with Archive(folder / "pacs") as archive, pytest.MonkeyPatch.context() as patch:
        # It would take over the logging of the whole test process.
        patch.setattr(answer, "configure_logging", lambda _settings: None)
        destinations = [
            {
                "name": name,
                "ae_title": destination.ae_title,
                "host": "127.0.0.1",
                "port": destination.port,
                "objects": list(objects),
            }
            for name, destination in (("pacs", archive), *((other.ae_title, other) for other in others))
        ]
        (folder / "node").mkdir()
        config = parse_config(
            {
                "network": {"port": 0, "ae_title": AE_TITLE},
                "storage": {"root": str(folder / "node"), "minimum_free_mb": 1},
                "destinations": destinations,
                "delivery": {"confirm_first_s": 0},
                # Neither changes what these tests look at; the answer takes a tenth of the time.
                "pipeline": {"bias_correction": False, "lesion_model": "stroke-lesion-2mm"},
                **settings,
            }
        )
        layout = SpoolLayout(config.storage.spool)
        ledger = new_ledger(config.storage.root)
        receiver = Receiver(config, SpoolWriter(layout, 0), ledger.instances.add, time.time)
        _, port = receiver.start()
        place = flow.Workplace(
            config,
            ledger,
            layout,
            cast("Compute", InlineCompute()),
            "work@here",
            lambda: time.time() + _LATER_S,
        )
        try:
            yield WholeNode(config, ledger, archive, place, port)
        finally:
            receiver.stop(2.0)
            ledger.close()
