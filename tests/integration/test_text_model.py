"""The model that writes text, through a real server: its logits, its text, and the beam search with forked sessions."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cellserve.errors import FieldInvalidError
from cellserve_client import Server, Session, connect
from cellserve_client.cli.sample import main as sample
from cellserve_client.writing import Alphabet, beam_search, write
from cellserve_server.cells import Network, build_network
from cellserve_server.models.model_files import read_model
from examples.text.text import HELD_OUT_CHAPTERS, Novel, TextError, load_novel
from tests.servers import server_process
from tests.tools import ROOT

NOVEL = ROOT / "examples" / "text" / "data" / "emma.txt"
REFERENCE = ROOT / "examples" / "text" / "reference.npz"
PROMPT = "Mr. Knightley "
LENGTH = 40
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def novel() -> Novel:
    return load_novel(NOVEL)


@pytest.fixture(scope="module")
def remote() -> Iterator[Server]:
    """A connection to a server process with the models that ship."""
    with server_process(["--models", str(ROOT / "models")]) as process, connect(process.address) as server:
        yield server


@pytest.fixture(scope="module")
def alphabet(remote: Server) -> Alphabet:
    return Alphabet(remote.model_info("text"))


@pytest.fixture(scope="module")
def in_process() -> Network:
    """The same model, without a server."""
    files = read_model(ROOT / "models", "text", 1)
    return build_network(files.description, files.weights)


@pytest.fixture
def session(remote: Server) -> Iterator[Session]:
    with remote.session("text") as session:
        yield session
    assert remote.sessions(model="text") == []


def greedy(network: Network, ids: list[int], length: int) -> list[int]:
    """What the model finds likeliest after these ids, one after the other."""
    leaves = [np.zeros((1, size), np.float32) for size in network.leaf_sizes]
    written: list[int] = []
    for place in range(len(ids) + length - 1):
        id_ = ids[place] if place < len(ids) else written[-1]
        (logits,), leaves = network.step([np.array([id_], np.int32)], leaves)
        if place >= len(ids) - 1:
            written.append(int(logits[0].argmax()))
    return written


def command(remote: Server, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Runs ``cellserve sample``; what it printed on both outputs."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        assert sample([*arguments, "--address", remote.address]) == code, errors.getvalue()
    return out.getvalue(), errors.getvalue()


def test_it_gives_pytorchs_logits_on_text_it_has_not_seen(session: Session, novel: Novel) -> None:
    reference = np.load(REFERENCE)
    assert "".join(novel.vocabulary[id_] for id_ in reference["ids"]) == novel.test[: len(reference["ids"])]
    np.testing.assert_allclose(session.run(reference["ids"]), reference["logits"], rtol=0, atol=TOLERANCE)


def test_its_labels_are_the_novels_characters(alphabet: Alphabet, novel: Novel) -> None:
    assert alphabet.characters == novel.vocabulary
    np.testing.assert_array_equal(alphabet.ids(PROMPT), novel.ids(PROMPT))


def test_it_has_learned_words(session: Session, alphabet: Alphabet, novel: Novel) -> None:
    text = "".join(piece.text for piece in write(session, alphabet, PROMPT, 200, 0.5, np.random.default_rng(0)))
    words = text.split()[1:-1]
    known = set(novel.train.split())
    assert sum(word in known for word in words) > 0.8 * len(words), text


def test_greedy_text_is_that_of_the_model_without_a_server(
    session: Session, alphabet: Alphabet, in_process: Network
) -> None:
    generator = np.random.default_rng(0)
    text = "".join(piece.text for piece in write(session, alphabet, PROMPT, LENGTH, 0.0, generator))
    expected = greedy(in_process, alphabet.ids(PROMPT).tolist(), LENGTH)
    assert text == "".join(alphabet.characters[id_] for id_ in expected)
    assert session.step_count == len(PROMPT) + LENGTH - 1


def test_a_beam_of_one_is_greedy(remote: Server, session: Session, alphabet: Alphabet) -> None:
    (found,) = beam_search(session, alphabet, PROMPT, LENGTH, 1)
    with remote.session("text") as other:
        pieces = list(write(other, alphabet, PROMPT, LENGTH, 0.0, np.random.default_rng(0)))
    assert found.text == "".join(piece.text for piece in pieces)
    assert found.log_probability == pytest.approx(sum(piece.log_probability for piece in pieces), abs=1e-4)


def test_a_beam_finds_text_that_is_likelier_than_greedy(remote: Server, session: Session, alphabet: Alphabet) -> None:
    found = beam_search(session, alphabet, PROMPT, LENGTH, 5)
    scores = [written.log_probability for written in found]
    assert scores == sorted(scores, reverse=True)
    assert len({written.text for written in found}) == len(found) == 5
    with remote.session("text") as other:
        likeliest = write(other, alphabet, PROMPT, LENGTH, 0.0, np.random.default_rng(0))
        assert scores[0] >= sum(piece.log_probability for piece in likeliest)
    # The forks are closed, and the session still stands behind the prompt.
    assert [info.id for info in remote.sessions(model="text")] == [session.id]
    assert session.refresh().step_count == len(PROMPT)


def test_a_beams_scores_are_the_models(remote: Server, session: Session, alphabet: Alphabet) -> None:
    for written in beam_search(session, alphabet, PROMPT, 8, 3):
        ids = alphabet.ids(PROMPT + written.text)
        with remote.session("text") as other:
            logits = np.asarray(other.run(ids[:-1]), np.float64)[len(PROMPT) - 1 :]
        chosen = logits[np.arange(8), ids[len(PROMPT) :]] - np.log(np.exp(logits).sum(axis=1))
        assert written.log_probability == pytest.approx(chosen.sum(), abs=1e-4)


def test_forks_are_closed_when_a_search_fails(
    remote: Server, session: Session, alphabet: Alphabet, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    step = Session.step

    def failing(self: Session, id_: int) -> object:
        steps.append(id_)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return step(self, id_)

    monkeypatch.setattr(Session, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        beam_search(session, alphabet, PROMPT, LENGTH, 3)
    assert [info.id for info in remote.sessions(model="text")] == [session.id]


def test_the_command_streams_text(remote: Server) -> None:
    arguments = ["--prompt", PROMPT, "--length", "30", "--temperature", "0.8", "--seed", "3"]
    text, told = command(remote, *arguments)
    assert text.startswith(PROMPT)
    assert len(text) == len(PROMPT) + 30 + 1
    assert told.startswith("30 characters, ")
    assert told.endswith("seed 3\n")
    document = json.loads(command(remote, *arguments, "--json")[0])
    assert document["prompt"] + document["text"] + "\n" == text
    assert document["model"] == "models/text/versions/1"
    assert (document["temperature"], document["seed"]) == (0.8, 3)
    assert document["bits_per_character"] == pytest.approx(-document["log_probability"] / 30 / np.log(2))
    assert remote.sessions(model="text") == []


def test_the_command_begins_a_line_without_a_prompt(remote: Server) -> None:
    document = json.loads(command(remote, "--length", "5", "--json")[0])
    assert document["prompt"] == ""
    assert len(document["text"]) == 5
    assert document["seed"] >= 0


def test_the_command_searches(remote: Server) -> None:
    arguments = ["--prompt", PROMPT, "--length", "12", "--beam", "3"]
    document = json.loads(command(remote, *arguments, "--json")[0])
    assert document["beam"] == len(document["texts"]) == 3
    text, told = command(remote, *arguments)
    assert told == ""
    for place, found in enumerate(document["texts"], start=1):
        assert f"{place}. log-probability {found['log_probability']:.3f}, " in text
        assert PROMPT + found["text"] + "\n" in text
    assert remote.sessions(model="text") == []


@pytest.mark.parametrize("beam", [[], ["--beam", "2"]])
def test_the_command_names_characters_that_the_model_does_not_have(remote: Server, beam: list[str]) -> None:
    text, told = command(remote, "--prompt", "Emma & Zoë #1 #2", *beam, code=1)
    assert text == ""
    assert told == (
        "cellserve sample: prompt: expected characters that models/text/versions/1 has; got 'Z', 'ë', '#'\n"
    )


def test_the_command_refuses_an_empty_prompt(remote: Server) -> None:
    assert "prompt: expected at least one character; got none" in command(remote, "--prompt", "", code=1)[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--beam", "2", "--temperature", "1"],
        ["--beam", "2", "--seed", "1"],
        ["--beam", "0"],
        ["--length", "0"],
        ["--temperature", "-1"],
        ["--temperature", "inf"],
        ["--temperature", "nan"],
    ],
)
def test_the_command_refuses_options_that_cannot_be(remote: Server, arguments: list[str]) -> None:
    assert "Error:" in command(remote, *arguments, code=2)[1]


def test_another_kind_of_model_is_refused(remote: Server) -> None:
    told = command(remote, "--model", "speaker-id", code=1)[1]
    assert "expected one that takes ids and gives logits labelled with characters; speaker-id takes float32[12]" in told


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda labels: (), "has an output without labels"),
        (lambda labels: ("the", *labels[1:]), "has the label 'the'"),
        (lambda labels: (labels[1], *labels[1:]), "has a label twice"),
        (lambda labels: labels[1:], "has 75 labels for 76 ids"),
    ],
)
def test_labels_that_are_no_alphabet_are_refused(
    remote: Server, change: Callable[[tuple[str, ...]], tuple[str, ...]], problem: str
) -> None:
    info = remote.model_info("text")
    output = replace(info.outputs[0], labels=change(info.labels))
    with pytest.raises(FieldInvalidError, match=problem):
        Alphabet(replace(info, outputs=(output,)))


def test_the_novel_is_cut_before_chapters(novel: Novel, tmp_path: Path) -> None:
    whole = novel.train + novel.validation + novel.test
    assert whole == NOVEL.read_text(encoding="utf-8")
    for part in (novel.validation, novel.test):
        assert part.startswith("CHAPTER ")
        assert part.count("\nCHAPTER ") == HELD_OUT_CHAPTERS - 1
    with pytest.raises(TextError, match="more than 6 chapters; got 1"):
        load_novel(_file(tmp_path, b"CHAPTER I\n\nIt was.\n"))
    with pytest.raises(TextError, match="expected UTF-8"):
        load_novel(_file(tmp_path, b"\xff"))


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "novel.txt"
    path.write_bytes(data)
    return path
