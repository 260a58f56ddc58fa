"""The models that clients define: names, tenants, expiry and quotas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cellserve.cells import BasicLSTMCell, BasicRNNCell, MultiRNNCell
from cellserve.errors import (
    FieldInvalidError,
    ModelNotFoundError,
    QuotaExceededError,
)
from cellserve.specs import describe
from cellserve_server.cells import draw_weights
from cellserve_server.config import ServerConfig
from cellserve_server.models.defined_models import DEFINE_RETRY_S
from cellserve_server.models.repository import LoadedModel, ModelRepository
from cellserve_server.models.weights import model_bytes, weight_bytes
from tests.clocks import ManualClock
from tests.unit.model_samples import DAY, FLOAT32, LIMITS, RNN, define, names


def test_a_defined_model_is_named_by_its_content(models: ModelRepository) -> None:
    drawn = define(models, "default", RNN, None, 7, None)
    assert drawn.resource_name == f"models/defined-{drawn.digest[:32]}/versions/1"
    assert define(models, "default", RNN, draw_weights(RNN, 7), None, None) is drawn
    assert define(models, "default", RNN, None, 7, None) is drawn
    assert define(models, "default", RNN, None, 8, None).name != drawn.name
    assert define(models, "default", describe(BasicRNNCell(4, "relu"), 3, FLOAT32), None, 7, None).name != drawn.name
    assert models.resolve("default", f"models/{drawn.name}") is drawn
    assert len(names(models)) == 3


def test_a_defined_model_says_so(models: ModelRepository, clock: ManualClock) -> None:
    message = define(models, "default", RNN, None, 0, 60.0).to_proto(LIMITS)
    assert message.defined
    assert message.expire_time.ToSeconds() == clock() + 60


def test_a_defined_model_is_its_tenants_alone(models: ModelRepository) -> None:
    model = define(models, "default", RNN, None, 0, None)
    assert names(models, "another") == []
    unseen: list[Callable[[], object]] = [
        lambda: models.resolve("another", f"models/{model.name}"),
        lambda: models.unload("another", model.resource_name, force=True),
    ]
    for call in unseen:
        with pytest.raises(ModelNotFoundError, match="it was never defined here, or was not used for its ttl"):
            call()
    theirs = define(models, "another", RNN, None, 0, None)
    assert theirs is not model
    assert theirs.resource_name == model.resource_name


def test_a_defined_model_expires_when_it_is_unused(models: ModelRepository, clock: ManualClock) -> None:
    dropped: list[LoadedModel] = []
    models.on_drop = dropped.append
    assert models.sweep() is None
    model = define(models, "default", RNN, None, 0, 60.0)
    assert models.sweep() == clock() + 60
    clock.advance(59)
    models.resolve("default", model.resource_name)
    clock.advance(59)
    assert models.sweep() == clock() + 1
    clock.advance(1)
    assert models.sweep() is None
    assert dropped == [model]
    with pytest.raises(ModelNotFoundError, match="define it again"):
        models.resolve("default", model.resource_name)


def test_looking_at_a_defined_model_does_not_keep_it(models: ModelRepository, clock: ManualClock) -> None:
    model = define(models, "default", RNN, None, 0, 60.0)
    clock.advance(30)
    assert models.get("default", model.resource_name) is model
    models.list("default")
    clock.advance(30)
    with pytest.raises(ModelNotFoundError):
        models.get("default", model.resource_name)
    assert names(models) == []


def test_sessions_keep_a_defined_model(models: ModelRepository, clock: ManualClock) -> None:
    model = define(models, "default", RNN, None, 0, 60.0)
    models.acquire(model)
    clock.advance(DAY)
    assert models.sweep() == clock() + 60
    clock.advance(DAY)
    models.release(model)
    assert models.sweep() == clock() + 60
    clock.advance(60)
    assert models.sweep() is None


def test_defining_again_renews_and_never_shortens(models: ModelRepository, clock: ManualClock) -> None:
    model = define(models, "default", RNN, None, 0, 100.0)
    assert define(models, "default", RNN, None, 0, 10.0) is model
    assert model.expire_time == clock() + 100
    clock.advance(50)
    define(models, "default", RNN, None, 0, 10.0)
    assert model.expire_time == clock() + 100


def test_a_defined_model_can_be_unloaded(models: ModelRepository) -> None:
    model = define(models, "default", RNN, None, 0, None)
    models.acquire(model)
    models.unload("default", model.resource_name, force=False)
    with pytest.raises(ModelNotFoundError, match="it is unloading"):
        models.resolve("default", model.resource_name)
    assert define(models, "default", RNN, None, 0, None) is model
    models.unload("default", model.resource_name, force=False)
    models.release(model)
    assert names(models) == []


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, 8 * DAY, float("nan"), float("inf")])
def test_a_ttl_out_of_range_is_refused(models: ModelRepository, ttl_s: float) -> None:
    with pytest.raises(FieldInvalidError, match="ttl: expected more than 0 and at most 604800"):
        define(models, "default", RNN, None, 0, ttl_s)
    assert names(models) == []


def test_the_quota_of_models(models_root: Path, clock: ManualClock) -> None:
    models = ModelRepository(models_root, replace(ServerConfig(), max_defined_models=2), clock)
    first = define(models, "default", RNN, None, 0, 100.0)
    clock.advance(10)
    define(models, "default", RNN, None, 1, 200.0)
    with pytest.raises(QuotaExceededError, match=r"at most 2 defined models \(max_defined_models\)") as caught:
        define(models, "default", RNN, None, 2, None)
    assert caught.value.metadata == {"quota": "max_defined_models", "limit": "2"}
    assert caught.value.retry_after_s == 90
    assert define(models, "default", RNN, None, 0, None) is first
    define(models, "another", RNN, None, 2, None)
    clock.advance(2 * 3600)
    define(models, "default", RNN, None, 2, None)


def test_the_quota_of_bytes(models_root: Path, clock: ManualClock) -> None:
    size = model_bytes(RNN)
    models = ModelRepository(models_root, replace(ServerConfig(), max_defined_model_bytes=2 * size + 1), clock)
    models.acquire(define(models, "default", RNN, None, 0, 100.0))
    models.acquire(define(models, "default", RNN, None, 1, 100.0))
    with pytest.raises(QuotaExceededError, match=f"there are {2 * size} and this one has {size}") as caught:
        define(models, "default", RNN, None, 2, None)
    assert caught.value.metadata == {"quota": "max_defined_model_bytes", "limit": str(2 * size + 1)}
    assert caught.value.retry_after_s == ServerConfig().defined_model_ttl_s


def test_the_quota_of_bytes_of_all_tenants_and_a_tenants_part_of_it(models_root: Path, clock: ManualClock) -> None:
    size = model_bytes(RNN)
    config = replace(ServerConfig(), max_defined_bytes=3 * size, tokens_file="tokens", tenant_share=0.7)
    models = ModelRepository(models_root, config, clock)
    for seed in (0, 1):
        define(models, "a", RNN, None, seed, 100.0)
    with pytest.raises(QuotaExceededError, match=r"of this tenant \(max_defined_bytes\)") as caught:
        define(models, "a", RNN, None, 2, None)
    assert caught.value.metadata == {"quota": "max_defined_bytes", "limit": str(int(3 * size * 0.7))}
    define(models, "b", RNN, None, 0, 50.0)
    with pytest.raises(
        QuotaExceededError, match=rf"of all tenants \(max_defined_bytes\); there are {3 * size}"
    ) as caught:
        define(models, "c", RNN, None, 0, None)
    assert caught.value.metadata == {"quota": "max_defined_bytes", "limit": str(3 * size)}
    assert caught.value.retry_after_s == 50
    clock.advance(50)
    define(models, "c", RNN, None, 0, None)


def test_models_on_their_way_are_counted_over_all_tenants(models_root: Path, clock: ManualClock) -> None:
    size = model_bytes(RNN)
    models = ModelRepository(models_root, replace(ServerConfig(), max_defined_bytes=2 * size), clock)
    with models.defining("a", RNN), models.defining("b", RNN):
        with pytest.raises(QuotaExceededError, match="at once of all tenants") as caught, models.defining("c", RNN):
            pass
        assert caught.value.retry_after_s == DEFINE_RETRY_S
    define(models, "c", RNN, None, 0, None)


def test_a_description_counts_as_weights_do(models_root: Path, clock: ManualClock) -> None:
    (output,) = RNN.outputs
    labelled = replace(RNN, outputs=(replace(output, labels=("x" * 100,) * 4),))
    models = ModelRepository(
        models_root, replace(ServerConfig(), max_defined_model_bytes=weight_bytes(RNN) + 399), clock
    )
    define(models, "default", RNN, None, 0, None)
    with pytest.raises(QuotaExceededError, match="max_defined_model_bytes"):
        define(models, "another", labelled, None, 0, None)


def test_a_model_beyond_every_quota_is_refused_before_it_is_drawn(models: ModelRepository) -> None:
    huge = describe(BasicLSTMCell(1 << 20), 1 << 20, FLOAT32)
    with pytest.raises(QuotaExceededError, match=r"header\.spec: expected at most 536870912 bytes") as caught:
        define(models, "default", huge, None, 0, None)
    assert caught.value.retry_after_s is None


def test_a_state_of_too_many_parts_is_refused(models: ModelRepository) -> None:
    cell: Any = BasicRNNCell(1)
    for _ in range(3):
        cell = MultiRNNCell([cell] * 17)
    with pytest.raises(FieldInvalidError, match="a state of at most 4096 arrays; got 4913"):
        define(models, "default", describe(cell, 1, FLOAT32), None, 0, None)
