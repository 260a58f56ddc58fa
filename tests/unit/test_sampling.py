"""The arithmetic of writing text from logits."""

from __future__ import annotations

import numpy as np
import pytest

from cellserve.errors import FieldInvalidError, ShapeMismatchError
from cellserve_client.sampling import Extension, best_extensions, draw, log_softmax

LIKELY = np.log([0.1, 0.6, 0.3])


def test_log_softmax_is_of_probabilities() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    expected = np.exp(logits, dtype=np.float64)
    expected /= expected.sum(axis=1, keepdims=True)
    result = log_softmax(logits)
    assert result.dtype == np.float64
    np.testing.assert_allclose(np.exp(result), expected, rtol=1e-6)


def test_log_softmax_takes_huge_logits_and_probabilities_of_zero() -> None:
    np.testing.assert_allclose(log_softmax([1e30, 1e30]), np.log([0.5, 0.5]))
    np.testing.assert_array_equal(log_softmax([0.0, -np.inf]), [0.0, -np.inf])


@pytest.mark.parametrize("logits", [[0.0, np.nan], [0.0, np.inf], [-np.inf, -np.inf], [[0.0, 1.0], [np.nan, 0.0]]])
def test_log_softmax_refuses_what_is_no_logit(logits: list[float]) -> None:
    with pytest.raises(FieldInvalidError, match="logits: expected numbers"):
        log_softmax(logits)


@pytest.mark.parametrize("logits", [np.zeros(()), np.zeros(0), np.zeros((3, 0))])
def test_log_softmax_refuses_rows_of_nothing(logits: np.ndarray) -> None:
    with pytest.raises(ShapeMismatchError, match="at least one"):
        log_softmax(logits)


def test_temperature_0_takes_the_likeliest_and_leaves_the_generator() -> None:
    generator = np.random.default_rng(5)
    assert draw(LIKELY, 0.0, generator) == 1
    assert draw(np.log([0.4, 0.4, 0.2]), 0.0, generator) == 0
    assert generator.random() == np.random.default_rng(5).random()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_come_as_often_as_their_probability_says(temperature: float) -> None:
    generator = np.random.default_rng(1)
    count = 5_000
    drawn = np.bincount([draw(LIKELY, temperature, generator) for _ in range(count)], minlength=3) / count
    expected = np.exp(LIKELY / temperature)
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=0.03)


def test_the_same_seed_draws_the_same() -> None:
    first, second = np.random.default_rng(9), np.random.default_rng(9)
    assert [draw(LIKELY, 1.0, first) for _ in range(50)] == [draw(LIKELY, 1.0, second) for _ in range(50)]


def test_what_has_probability_0_is_never_drawn() -> None:
    generator = np.random.default_rng(2)
    impossible = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf])
    assert {draw(impossible, 1.0, generator) for _ in range(500)} == {1, 3}


def test_a_tiny_temperature_is_as_0() -> None:
    assert {draw(LIKELY, 5e-324, np.random.default_rng(seed)) for seed in range(20)} == {1}


@pytest.mark.parametrize("temperature", [-0.1, np.nan, np.inf])
def test_a_temperature_that_cannot_be_is_refused(temperature: float) -> None:
    with pytest.raises(FieldInvalidError, match="temperature: expected a finite number from 0"):
        draw(LIKELY, temperature, np.random.default_rng(0))


def test_best_extensions_are_the_likeliest_of_all_parents() -> None:
    ahead = np.log([[0.5, 0.4, 0.1], [0.05, 0.05, 0.9]])
    found = best_extensions(np.log([0.6, 0.4]), ahead, 3)
    assert [(extension.parent, extension.id) for extension in found] == [(1, 2), (0, 0), (0, 1)]
    np.testing.assert_allclose(np.exp([extension.score for extension in found]), [0.36, 0.30, 0.24])


def test_of_equals_the_earlier_parent_and_id_come_first() -> None:
    found = best_extensions([0.0, 0.0], np.zeros((2, 3)), 4)
    assert found == [Extension(0, 0, 0.0), Extension(0, 1, 0.0), Extension(0, 2, 0.0), Extension(1, 0, 0.0)]


def test_there_are_no_more_extensions_than_are_possible() -> None:
    assert best_extensions([0.0], np.array([[-np.inf, -1.0, -2.0]]), 10) == [
        Extension(0, 1, -1.0),
        Extension(0, 2, -2.0),
    ]


@pytest.mark.parametrize(
    ("scores", "shape"), [([0.0], (2, 3)), ([[0.0]], (1, 3)), ([0.0], (3,)), ([0.0, 0.0], (1, 2, 3))]
)
def test_scores_that_do_not_fit_are_refused(scores: list[float], shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatchError, match="as many scores"):
        best_extensions(scores, np.zeros(shape), 1)


def test_no_extensions_at_all_are_refused() -> None:
    with pytest.raises(FieldInvalidError, match="count: expected at least 1"):
        best_extensions([0.0], np.zeros((1, 3)), 0)
