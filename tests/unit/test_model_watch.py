"""Models that come into service while the server runs: which versions are noticed, and what becomes of them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from cellserve.errors import ModelBrokenError
from cellserve_server.models.model_files import CELL_FILE, WEIGHTS_FILE
from cellserve_server.models.model_watch import FolderWatch, ModelLoader
from cellserve_server.models.repository import ModelRepository
from tests.unit.model_samples import names, put


@pytest.fixture
def watch(models_root: Path) -> FolderWatch:
    return FolderWatch(models_root)


def test_a_version_is_reported_once_it_stands_still(watch: FolderWatch, models_root: Path) -> None:
    assert watch.look() == []  # The folder is not there yet.
    put(models_root, "new", 1)
    assert watch.look() == []
    assert watch.look() == [("new", 1)]
    assert watch.look() == []


def test_a_version_that_is_still_being_copied_is_left_alone(watch: FolderWatch, models_root: Path) -> None:
    put(models_root, "whole", 1)
    whole = models_root / "whole" / "1"
    coming = models_root / "new" / "1"
    coming.mkdir(parents=True)
    shutil.copy(whole / CELL_FILE, coming)
    watch.look()
    assert watch.look() == [("whole", 1)]  # The new one lacks its weights.
    data = (whole / WEIGHTS_FILE).read_bytes()
    (coming / WEIGHTS_FILE).write_bytes(data[:10])
    assert watch.look() == []
    (coming / WEIGHTS_FILE).write_bytes(data)
    assert watch.look() == []
    assert watch.look() == [("new", 1)]


def test_what_was_there_at_the_start_is_known(watch: FolderWatch, models_root: Path) -> None:
    put(models_root, "old", 1)
    watch.take_for_granted()
    put(models_root, "old", 2)
    watch.look()
    assert watch.look() == [("old", 2)]


def test_what_has_gone_and_comes_back_is_new(watch: FolderWatch, models_root: Path) -> None:
    put(models_root, "m", 1)
    watch.take_for_granted()
    aside = models_root.parent / "aside"
    (models_root / "m" / "1").rename(aside)
    assert watch.look() == []
    aside.rename(models_root / "m" / "1")
    watch.look()
    assert watch.look() == [("m", 1)]


def test_other_folders_are_passed_over(watch: FolderWatch, models_root: Path) -> None:
    put(models_root, "m", 1)
    for odd in (models_root / "m" / "01", models_root / ".m" / "1", models_root / "m" / ".tmp"):
        shutil.copytree(models_root / "m" / "1", odd)
    watch.look()
    assert watch.look() == [("m", 1)]


def test_new_versions_come_into_service_and_broken_ones_do_not_end_the_old(
    models: ModelRepository, models_root: Path
) -> None:
    async def test() -> None:
        put(models_root, "m", 1)
        loader = ModelLoader(models, models_root)
        await loader.load_all()
        put(models_root, "m", 2)
        put(models_root, "m", 3)
        (models_root / "m" / "3" / WEIGHTS_FILE).write_bytes(b"no weights")
        await loader.poll()
        assert names(models) == ["models/m/versions/1"]
        await loader.poll()
        assert models.resolve("default", "models/m").version == 2
        with pytest.raises(ModelBrokenError, match="safetensors"):
            models.resolve("default", "models/m/versions/3")
        # The broken one is mended in place.
        shutil.copy(models_root / "m" / "2" / WEIGHTS_FILE, models_root / "m" / "3" / WEIGHTS_FILE)
        await loader.poll()
        await loader.poll()
        assert models.resolve("default", "models/m").version == 3

    asyncio.run(test())


def test_an_unloaded_version_stays_out_until_it_is_asked_for(models: ModelRepository, models_root: Path) -> None:
    async def test() -> None:
        put(models_root, "m", 1)
        loader = ModelLoader(models, models_root)
        await loader.load_all()
        models.unload("default", "models/m/versions/1", force=False)
        await loader.poll()
        await loader.poll()
        assert names(models) == []
        await loader.load(models.locate("models/m"))
        assert names(models) == ["models/m/versions/1"]

    asyncio.run(test())


def test_changed_files_under_open_sessions_change_nothing(models: ModelRepository, models_root: Path) -> None:
    async def test() -> None:
        put(models_root, "m", 1, seed=1)
        loader = ModelLoader(models, models_root)
        await loader.load_all()
        model = models.resolve("default", "models/m")
        models.acquire(model)
        shutil.rmtree(models_root / "m" / "1")
        put(models_root, "m", 1, seed=2)
        await loader.poll()
        await loader.poll()
        assert models.resolve("default", "models/m") is model

    asyncio.run(test())
