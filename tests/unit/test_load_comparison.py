"""Load tests side by side: as data, and by the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cellserve_client.cli.load_compare import MAX_FILES, main
from cellserve_client.load.comparison import SCHEMA, Comparison, Row, compare
from cellserve_client.load.document import LoadDocument, Target
from tests.load_documents import closed_document, open_document


def row(comparison: Comparison, name: str) -> Row:
    (found,) = (row for row in comparison.rows if row.name == name)
    return found


def saved(folder: Path, name: str, document: LoadDocument) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document.to_json()), encoding="utf-8")
    return str(path)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs the command, which has to fail without a word on standard output; gives what it says."""
    assert main(arguments) != 0
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_values_and_ratios_are_those_of_the_documents() -> None:
    before, after = closed_document(0), closed_document(1, median_ms=2.0)
    comparison = compare({"before": before, "after": after})
    rate = row(comparison, "steps a second")
    assert rate.values == (before.totals.steps_per_second, after.totals.steps_per_second)
    p99 = row(comparison, "latency p99")
    assert p99.values == (before.latency_ms.p99, after.latency_ms.p99)
    assert before.latency_ms.p99 is not None
    assert after.latency_ms.p99 is not None
    assert p99.ratios == (1.0, after.latency_ms.p99 / before.latency_ms.p99)
    assert row(comparison, "failed requests").ratios == (None, None)
    assert "mean rows per tick" not in [item.name for item in comparison.rows]


def test_what_some_tests_lack_has_no_ratio() -> None:
    comparison = compare({"closed": closed_document(), "open": open_document()})
    due = row(comparison, "requests due a second")
    assert (due.values, due.ratios) == ((None, 8_000.0), (None, None))
    assert row(comparison, "mean rows per tick").values[0] is None


def test_errors_are_counted_by_reason() -> None:
    few = replace(closed_document(), errors={"UNAVAILABLE": 5, "DRAINING": 1})
    comparison = compare({"many": open_document(), "few": few})
    assert comparison.errors == {"DRAINING": (0, 1), "QUEUE_FULL": (38, 0), "UNAVAILABLE": (2, 5)}


def test_other_work_is_warned_of() -> None:
    document = closed_document()
    other = replace(document, settings={**document.settings, "sessions": 65})
    comparison = compare({"a": document, "b": other})
    assert comparison.differing == {"sessions": (64, 65)}
    assert comparison.warnings == ("The tests did not ask for the same work: they differ in sessions.",)


@pytest.mark.parametrize(("name", "value"), [("seed", 9), ("seconds", 5.0), ("processes", 4)])
def test_what_does_not_change_the_work_is_shown_and_not_warned_of(name: str, value: float) -> None:
    document = closed_document()
    comparison = compare({"a": document, "b": replace(document, settings={**document.settings, name: value})})
    assert list(comparison.differing) == [name]
    assert comparison.warnings == ()


@pytest.mark.parametrize(
    ("model", "warned"), [("models/text/versions/1", True), ("models/speaker-id/versions/2", False)]
)
def test_two_versions_of_a_model_can_be_compared_but_not_two_models(model: str, warned: bool) -> None:
    document = closed_document()
    comparison = compare({"a": document, "b": replace(document, server=Target("elsewhere:50051", model))})
    assert list(comparison.differing) == ["model", "address"]
    assert bool(comparison.warnings) is warned


def test_a_client_that_was_the_limit_and_a_test_that_failed_are_warned_of() -> None:
    warnings = compare({"a": open_document(), "b": open_document(1)}).warnings
    assert [warning.split(":")[0] for warning in warnings] == ["a", "a failed", "b", "b failed"]


def test_the_command_prints_settings_rates_and_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = closed_document(), closed_document(1, 25, 2.0)
    assert main([saved(tmp_path, "before", before), saved(tmp_path, "after", after)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["setting", "before", "after"] in lines
    assert ["seconds", "30", "25"] in lines
    assert ["before", "after", "ratio"] in lines
    assert before.latency_ms.p50 is not None
    assert after.latency_ms.p50 is not None
    ratio = after.latency_ms.p50 / before.latency_ms.p50
    assert [
        "latency",
        "p50",
        "(ms)",
        f"{before.latency_ms.p50:.2f}",
        f"{after.latency_ms.p50:.2f}",
        f"{ratio:.2f}x",
    ] in lines


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [saved(tmp_path, "closed", closed_document()), saved(tmp_path, "open", open_document())]
    assert main([*files, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == SCHEMA
    assert [run["name"] for run in document["runs"]] == ["closed", "open"]
    assert document["differing_settings"]["mode"] == ["closed", "open"]
    (rate,) = (row for row in document["rows"] if row["name"] == "requests a second")
    assert rate["ratios"] == [1.0, rate["values"][1] / rate["values"][0]]
    assert document["errors"] == {"QUEUE_FULL": [0, 38], "UNAVAILABLE": [0, 2]}
    assert document["warnings"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    files = [saved(tmp_path, "load", closed_document()), saved(tmp_path / "old", "load", closed_document(1))]
    assert main([*files, "--json"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]] == files


def test_files_that_are_no_load_tests_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = saved(tmp_path, "good", closed_document(seconds=1))
    texts = {
        "text": b"no JSON",
        "bytes": b"\xff\xfe",
        "other": b'{"schema": "k6/1"}',
        "list": b"[1]",
        "deep": b"[" * 9999,
        "digits": b'{"seconds": ' + b"9" * 5000 + b"}",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.write_bytes(text)
        assert f"{path}: " in refusal(capsys, good, str(path))
    broken = closed_document(seconds=1).to_json()
    del broken["totals"]["steps"]
    (tmp_path / "broken").write_text(json.dumps(broken), encoding="utf-8")
    assert "totals: expected the field 'steps'" in refusal(capsys, good, str(tmp_path / "broken"))
    assert "cannot be read" in refusal(capsys, good, str(tmp_path / "missing"))
    assert "cannot be read" in refusal(capsys, good, str(tmp_path))


def test_the_command_wants_from_two_files_to_its_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path, "one", closed_document(seconds=1))
    assert f"from 2 to {MAX_FILES} files; got 1" in refusal(capsys, file)
    assert f"got {MAX_FILES + 1}" in refusal(capsys, *[file] * (MAX_FILES + 1))
    assert "each file once" in refusal(capsys, file, file)


def test_a_page_that_cannot_be_written_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [saved(tmp_path, name, closed_document(seconds=1)) for name in ("a", "b")]
    assert str(tmp_path / "nowhere" / "page.html") in refusal(
        capsys, *files, "--html", str(tmp_path / "nowhere" / "page.html")
    )
