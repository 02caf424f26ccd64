"""What is logged: allowed keys only, no patient data by any way, libraries kept quiet."""

from __future__ import annotations

import ast
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicomnode.errors import RetryLater
from dicomnode.log import ALLOWED_KEYS, PATIENT_WORDS, OncePerPlace, configure_logging
from dicomnode.settings.config import LogSettings
from dicomnode.states import JobState

SECRET = "Doe^John"
METHODS = ("debug", "info", "warning", "error", "critical", "exception")


@pytest.fixture(autouse=True)
def put_logging_back() -> Iterator[None]:
    root = logging.getLogger()
    names = (
        "pydicom",
        "pynetdicom",
        "highdicom",
        "dicom2nifti",
        "distributed",
        "apscheduler",
        "alembic",
        "sqlalchemy",
    )
    before = [
        (one, one.level, list(one.handlers), one.propagate) for one in (root, *map(logging.getLogger, names))
    ]
    show = warnings.showwarning
    yield
    warnings.showwarning = show
    structlog.reset_defaults()
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


@pytest.fixture
def written() -> Callable[[], list[dict[str, Any]]]:
    """Log as JSON into memory; give what was written as mappings."""
    stream = io.StringIO()
    configure_logging(LogSettings(format="json", level="info"), stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_allowed_keys_are_written_with_level_and_time(written: Callable[[], list[dict[str, Any]]]) -> None:
    structlog.get_logger().info(
        "stored",
        sop_instance_uid=UID("1.2.3"),
        count=3,
        seconds=np.float64(0.5),
        state=JobState.DONE,
        path=Path("a/b"),
    )
    (line,) = written()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "stored",
        "level": "info",
        "sop_instance_uid": "1.2.3",
        "count": 3,
        "seconds": 0.5,
        "state": "done",
        "path": "a/b",
    }


@pytest.mark.parametrize(
    "key", ["PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "patient_name", "unheard_of"]
)
def test_other_keys_are_dropped_and_named(written: Callable[[], list[dict[str, Any]]], key: str) -> None:
    structlog.get_logger().warning("x", **{key: SECRET, "count": 1})
    (line,) = written()
    assert line["dropped_keys"] == [key]
    assert line["count"] == 1
    assert SECRET not in json.dumps(line)


def test_patient_data_inside_an_allowed_value_is_not_written(
    written: Callable[[], list[dict[str, Any]]],
) -> None:
    dataset = Dataset()
    dataset.PatientName = SECRET
    structlog.get_logger().info(
        "x", reason=dataset.PatientName, results=[dataset, 1], status={"PatientID": SECRET, "code": "a"}
    )
    (line,) = written()
    assert (line["reason"], line["results"], line["status"]) == (
        "<PersonName>",
        ["<Dataset>", 1],
        {"code": "a"},
    )


def test_context_is_filtered_too(written: Callable[[], list[dict[str, Any]]]) -> None:
    with structlog.contextvars.bound_contextvars(PatientName=SECRET, association=7):
        structlog.get_logger().info("x")
    (line,) = written()
    assert line["association"] == 7
    assert "PatientName" not in line


def test_messages_of_foreign_exceptions_are_withheld_ours_are_kept(
    written: Callable[[], list[dict[str, Any]]],
) -> None:
    try:
        try:
            int(SECRET)
        except ValueError as error:
            raise RetryLater("the worker died") from error
    except RetryLater:
        structlog.get_logger().exception("crashed")
    (line,) = written()
    told = line["exception"].splitlines()
    assert told[0] == "RetryLater: the worker died"
    assert "ValueError: (text withheld)" in told
    assert any(frame.startswith("  test_log.py:") for frame in told)
    assert SECRET not in json.dumps(line)


def test_an_error_of_the_operating_system_says_what_but_not_where(
    written: Callable[[], list[dict[str, Any]]],
) -> None:
    structlog.get_logger().error(
        "crashed", exc_info=FileNotFoundError(2, "No such file or directory", f"/data/{SECRET}")
    )
    (line,) = written()
    assert line["exception"] == "FileNotFoundError: No such file or directory"


def test_dicom_libraries_are_heard_from_warning_on_and_without_their_words(
    written: Callable[[], list[dict[str, Any]]],
) -> None:
    for name in ("pydicom", "pynetdicom.assoc", "something.else"):
        logging.getLogger(name).info("%s", SECRET)
        logging.getLogger(name).warning("%s", SECRET)
    lines = written()
    assert [(line["event"], line["logger"], line["level"]) for line in lines] == [
        ("library_message", name, "warning") for name in ("pydicom", "pynetdicom.assoc", "something.else")
    ]
    assert all(line["where"].startswith("test_log.py:") for line in lines)
    assert SECRET not in json.dumps(lines)


def test_what_a_library_calls_an_error_and_we_tell_by_name_is_told_once(
    written: Callable[[], list[dict[str, Any]]],
) -> None:
    library = logging.getLogger("pynetdicom.acse")
    library.error("No accepted presentation contexts")
    library.error("Something else")

    assert [(line["event"], line["logger"]) for line in written()] == [("library_message", "pynetdicom.acse")]


def test_a_trusted_library_keeps_its_words_but_not_the_exception(
    written: Callable[[], list[dict[str, Any]]],
) -> None:
    try:
        int(SECRET)
    except ValueError:
        logging.getLogger("apscheduler").exception("a timer failed")
    (line,) = written()
    assert line["event"] == "a timer failed"
    assert line["exception"].startswith("ValueError: (text withheld)")


def test_a_python_warning_says_its_kind_and_place_only(written: Callable[[], list[dict[str, Any]]]) -> None:
    show = warnings.showwarning
    with warnings.catch_warnings():
        # pytest's own recording stands in front of the hook inside a test.
        warnings.simplefilter("always")
        warnings.showwarning = show
        warnings.warn(SECRET, UserWarning, stacklevel=1)
    (line,) = written()
    assert (line["event"], line["kind"]) == ("python_warning", "UserWarning")
    assert SECRET not in json.dumps(line)


def test_reading_a_bad_header_with_pydicom_leaks_nothing(
    written: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "D\xf6e^J\xf6hn"
    path = tmp_path / "x.dcm"
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 999"))
    show = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        assert str(pydicom.dcmread(path, force=True).PatientName)
    assert [line["event"] for line in written()]
    assert "hn" not in json.dumps(written())


def test_below_the_level_nothing_is_written(written: Callable[[], list[dict[str, Any]]]) -> None:
    structlog.get_logger().debug("x", count=1)
    assert written() == []


def test_the_console_form_is_one_line_for_people() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(format="console"), stream)
    structlog.get_logger().info("stored", count=3, PatientName=SECRET)
    text = stream.getvalue()
    assert "stored" in text
    assert "count=3" in text
    assert SECRET not in text
    assert text.count("\n") == 1


def test_setting_up_twice_writes_once() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    configure_logging(LogSettings(), stream)
    logging.getLogger("pydicom").warning("x")
    assert stream.getvalue().count("\n") == 1


def test_no_allowed_key_names_patient_data() -> None:
    assert [
        key for key in ALLOWED_KEYS if any(word in key.lower().replace("_", "") for word in PATIENT_WORDS)
    ] == []


def log_calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and any(
            isinstance(function, ast.Attribute)
            and function.attr in METHODS
            and ast.unparse(function.value) == "log"
            # Also `(log.info if fine else log.warning)(...)`.
            for function in (
                [node.func.body, node.func.orelse] if isinstance(node.func, ast.IfExp) else [node.func]
            )
        ):
            yield node


def faults(source: str) -> list[str]:
    """One line for each log call whose event is not a plain constant or whose key would be dropped."""
    found = []
    for call in log_calls(ast.parse(source)):
        events = call.args[0] if call.args else None
        choices = [events.body, events.orelse] if isinstance(events, ast.IfExp) else [events]
        if len(call.args) != 1 or not all(isinstance(event, ast.Constant) for event in choices):
            found.append(f"line {call.lineno}: the event must be one constant")
        keys = [keyword.arg for keyword in call.keywords if keyword.arg != "exc_info"]
        found += [f"line {call.lineno}: what ** adds cannot be seen here" for key in keys if key is None]
        found += [
            f"line {call.lineno}: {key} is not in ALLOWED_KEYS"
            for key in keys
            if key is not None and key not in ALLOWED_KEYS
        ]
    return found


def test_the_gate_below_can_fail() -> None:
    assert faults('log.info("x", PatientName=1)') == ["line 1: PatientName is not in ALLOWED_KEYS"]
    assert faults('(log.info if a else log.warning)("x" if a else "y", PatientName=1)') == [
        "line 1: PatientName is not in ALLOWED_KEYS"
    ]
    assert faults('log.info("x", **values)') == ["line 1: what ** adds cannot be seen here"]
    assert faults('log.info(f"x {name}")') == ["line 1: the event must be one constant"]


def test_every_log_call_of_the_node_writes_allowed_keys_and_constant_events(repo_root: Path) -> None:
    modules = [*(repo_root / "dicomnode").rglob("*.py"), *(repo_root / "pipeline").rglob("*.py")]
    found = {str(path.relative_to(repo_root)): faults(path.read_text(encoding="utf-8")) for path in modules}
    assert {path: lines for path, lines in found.items() if lines} == {}
    assert sum(len(list(log_calls(ast.parse(path.read_text(encoding="utf-8"))))) for path in modules) > 5


def test_what_a_library_repeats_is_written_once_with_its_count() -> None:
    now = 0.0
    places = OncePerPlace(lambda: now)
    assert [places.left_out("pydicom", "values.py", "7") for _ in range(150)] == [0, *[None] * 149]
    assert places.left_out("pydicom", "values.py", "8") == 0
    now = 601.0
    assert places.left_out("pydicom", "values.py", "7") == 149


def test_one_sentence_of_a_library_stands_there_once(written: Callable[[], list[dict[str, Any]]]) -> None:
    show = warnings.showwarning
    for number in range(150):
        logging.getLogger("pydicom").warning("value %d", number)
        show("value", UserWarning, "values.py", 7)
    assert [line["event"] for line in written()] == ["library_message", "python_warning"]


@pytest.mark.parametrize("message", ["Network timeout reached", "No accepted presentation contexts"])
def test_an_idle_association_is_no_error(written: Callable[[], list[dict[str, Any]]], message: str) -> None:
    logging.getLogger("pynetdicom.association").error(message)
    assert written() == []
