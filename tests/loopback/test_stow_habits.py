"""DICOMweb services as they are in the field: each words its success in its own way, and each object travels once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from dicomnode.delivery.confirm import confirm_due
from dicomnode.delivery.deliver import deliver_due
from dicomnode.network.stow import stow_files
from dicomnode.network.web import media_type_of
from dicomnode.records import Conclusion
from dicomnode.settings.config import Config, DestinationSettings, parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import Outcome
from tests.factories.instances import write_instances
from tests.factories.ledger import STUDY, LedgerStory, new_ledger
from tests.factories.outbox import freeze_results
from tests.factories.stow_server import DICOM_JSON, Answer, Habit, StowServer, fails_it, names_it

HTML = "<!DOCTYPE html><html><head><title>Sign in</title></head><body><form></form></body></html>"


class Delivering:
    """A node with one answered study, a SEG and an SR, whose clock is set by hand."""

    def __init__(self, folder: Path, server: StowServer, **destination: object) -> None:
        self.clock, self.server, self._destination = 100.0, server, destination
        self.ledger = new_ledger(folder)
        self.layout = SpoolLayout(folder / "spool")
        job = LedgerStory(self.ledger).running()
        results = freeze_results(self.layout, STUDY, 1)
        conclusion = Conclusion(Outcome.LESIONS, "2 lesions", results, {"pacs": ("seg", "sr")}, {})
        self.ledger.jobs.finish(job.id, "work:1", conclusion, 40)

    @property
    def config(self) -> Config:
        return parse_config(
            {
                "destinations": [{"name": "pacs", "url": self.server.url, **self._destination}],
                "delivery": {"timeout_s": 5},
            }
        )

    def run(self, hours: float = 1.0) -> None:
        """Do what the timers do, once a minute."""
        end = self.clock + 3600 * hours
        while self.clock < end:
            deliver_due(self.ledger, self.layout, self.config, lambda: self.clock)
            confirm_due(self.ledger, self.config, lambda: self.clock, generate_uid)
            self.clock += 60

    def states(self) -> list[tuple[str, str]]:
        return [
            (delivery.state, delivery.last_status)
            for delivery in self.ledger.history.of_study(STUDY).deliveries
        ]


HABITS: dict[str, Habit] = {
    "plain": lambda uid, _: Answer(200, json.dumps(names_it(uid))),
    "charset": lambda uid, _: Answer(200, json.dumps(names_it(uid)), "application/dicom+json; charset=utf-8"),
    "capitals": lambda uid, _: Answer(200, json.dumps(names_it(uid)), "Application/DICOM+JSON;Charset=UTF-8"),
    "plain JSON": lambda uid, _: Answer(200, json.dumps(names_it(uid)), "application/json"),
    "array": lambda uid, _: Answer(200, json.dumps([names_it(uid)])),
    "array of two": lambda uid, _: Answer(200, json.dumps([{}, names_it(uid)])),
    "no content type": lambda uid, _: Answer(200, json.dumps(names_it(uid)), None),
    "byte-order mark": lambda uid, _: Answer(200, "\ufeff" + json.dumps(names_it(uid))),
    "accepted": lambda uid, _: Answer(202, json.dumps(names_it(uid, warning=0xB007))),
    "empty body": lambda uid, _: Answer(200, ""),
    "empty body without a type": lambda uid, _: Answer(200, "", None),
    "no content": lambda uid, _: Answer(204, "", None),
    "empty object": lambda uid, _: Answer(200, "{}"),
    "empty array": lambda uid, _: Answer(200, "[]"),
    "XML": lambda uid, _: Answer(200, "<NativeDicomModel/>", "application/dicom+xml"),
    "text": lambda uid, _: Answer(201, "created", "text/plain"),
    "there already, 45070": lambda uid, _: Answer(409, json.dumps(fails_it(uid, 45070))),
    "there already, as text": lambda uid, _: Answer(409, json.dumps(fails_it(uid, "45070"))),
    "there already, 0x0111": lambda uid, _: Answer(
        409, json.dumps([fails_it(uid, 0x0111)]), "application/dicom+json; charset=utf-8"
    ),
    "conflict without a reason": lambda uid, _: Answer(409, "", None),
}


@pytest.mark.parametrize("name", HABITS)
def test_one_request_and_confirmed(tmp_path: Path, name: str) -> None:
    with StowServer(HABITS[name]) as server:
        node = Delivering(tmp_path, server)

        node.run()

        assert len(server.posts) == len(set(server.posts)) == 2
        assert [state for state, _ in node.states()] == ["confirmed", "confirmed"]
    node.ledger.close()


def test_without_queries_an_empty_success_is_believed_and_says_so(tmp_path: Path) -> None:
    with StowServer(HABITS["no content"], qido_status=501) as server:
        node = Delivering(tmp_path, server)
        node.run(2)
        assert len(server.posts) == 2
        assert {state for state, _ in node.states()} == {"sent"}
        assert all("does not offer QIDO-RS" in status for _, status in node.states())
    node.ledger.close()


def test_an_empty_success_that_stored_nothing_is_sent_again_and_then_shown(tmp_path: Path) -> None:
    with StowServer(HABITS["empty body"], stores=False) as server:
        node = Delivering(tmp_path, server, objects=["sr"])
        node.run(6)
        assert len(server.posts) == 8
        assert {state for state, _ in node.states()} == {"given_up"}
    node.ledger.close()


def test_an_index_that_is_minutes_late_is_no_loss(tmp_path: Path) -> None:
    with StowServer(HABITS["plain"], listed_after=6) as server:
        node = Delivering(tmp_path, server)
        node.run()
        assert len(server.posts) == 2
        assert [state for state, _ in node.states()] == ["confirmed", "confirmed"]
    node.ledger.close()


def test_an_archive_that_files_it_elsewhere_is_believed_with_a_remark(tmp_path: Path) -> None:
    def coerces(uid: str, _: int) -> Answer:
        return Answer(200, json.dumps(names_it(uid, warning=0xB000)))

    with StowServer(coerces, stores=False) as server:
        node = Delivering(tmp_path, server)
        node.run()
        assert len(server.posts) == 2
        assert {status for _, status in node.states()} == {
            "STOW-RS: stored: stored, with coercion: the archive changed some of its elements"
        }
    node.ledger.close()


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_named_and_nothing_goes_there(tmp_path: Path, status: int) -> None:
    with StowServer(HABITS["plain"]) as elsewhere:
        address = f"{elsewhere.url}/studies"
        with StowServer(lambda uid, _: Answer(status, "", None, {"Location": address})) as server:
            node = Delivering(tmp_path, server)
            node.run(0.1)
            assert elsewhere.paths == []
            assert all(
                f"HTTP {status}: the server redirects to http://127.0.0.1:{elsewhere.http.server_port}"
                in text
                for _, text in node.states()
            )
        node.ledger.close()


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", None, DICOM_JSON])
def test_a_log_in_page_is_no_success(tmp_path: Path, content_type: str | None) -> None:
    with StowServer(lambda uid, _: Answer(200, HTML, content_type), stores=False) as server:
        node = Delivering(tmp_path, server)
        node.run(0.1)
        assert {state for state, _ in node.states()} == {"due"}
        assert all("web page, perhaps a log-in" in text for _, text in node.states())
    node.ledger.close()


@pytest.mark.parametrize("status", [401, 403])
def test_a_password_that_is_put_right_is_used_at_the_next_try(tmp_path: Path, status: int) -> None:
    def lets_in_later(uid: str, _: int) -> Answer:
        return Answer(200, json.dumps(names_it(uid))) if is_right else Answer(status, "", None)

    is_right = False
    (tmp_path / "secret").write_text("node:wrong")
    with StowServer(lets_in_later) as server:
        node = Delivering(tmp_path, server, secret_file=str(tmp_path / "secret"))
        node.run(0.1)
        assert {state for state, _ in node.states()} == {"due"}
        assert all(f"HTTP {status}" in text and "secret_file" in text for _, text in node.states())
        is_right = True
        node.run(2)
        assert [state for state, _ in node.states()] == ["confirmed", "confirmed"]
    node.ledger.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    status=st.integers(200, 599).filter(lambda code: code not in (204, 304)),
    body=st.one_of(
        st.text(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["00081198", "00081199", "0008119A", "00081155", "00081197", "Value", "vr"]
                    ),
                    inner,
                    max_size=3,
                )
            ),
            max_leaves=12,
        ).map(json.dumps),
    ),
    content_type=st.sampled_from([DICOM_JSON, "text/html", "", "application/json", ";;;", None]),
)
def test_nothing_that_a_server_answers_raises(
    tmp_path: Path, status: int, body: str, content_type: str | None
) -> None:
    [file] = write_instances(tmp_path, 1)
    with StowServer(lambda *_: Answer(status, body, content_type), stores=False) as server:
        [outcome] = stow_files(
            [file], DestinationSettings(name="web", url=server.url, confirm="none"), timeout_s=5
        )
    assert outcome.reason
    # What names nothing and is listed nowhere is never taken for stored.
    assert outcome.verdict in ("transient", "permanent") or "already" in outcome.reason


@given(
    case=st.lists(st.booleans(), min_size=22, max_size=22),
    parameters=st.sampled_from(["", ";charset=utf-8", ' ; charset="utf-8"', "; a=b; c=d", ";"]),
)
def test_media_types_are_compared_without_case_and_parameters(case: list[bool], parameters: str) -> None:
    header = "".join(
        letter.upper() if upper else letter for letter, upper in zip(DICOM_JSON, case, strict=True)
    )
    assert media_type_of(header + parameters) == DICOM_JSON
