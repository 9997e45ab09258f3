"""The node cache fetches a registered version once and refuses a damaged one with both hashes."""

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.checkpoint.manifest import MANIFEST, WEIGHTS, sha256_of
from app.checkpoint.node_cache import cached, local_directory
from app.core.errors import CheckpointError
from app.core.settings import PROJECT_DIR

SHIPPED = PROJECT_DIR / "app" / "weights" / "1"


class Source:
    """Where versions are fetched from; counts how often."""

    def __init__(self, damage: str = "") -> None:
        self.fetched = 0
        self.damage = damage

    def __call__(self, version: str, directory: Path) -> None:
        self.fetched += 1
        shutil.copytree(SHIPPED, directory, dirs_exist_ok=True)
        time.sleep(0.05)
        manifest = json.loads((directory / MANIFEST).read_text())
        (directory / MANIFEST).write_text(json.dumps(manifest | {"version": version}))
        if self.damage == "cut":
            weights = directory / WEIGHTS
            weights.write_bytes(weights.read_bytes()[:-1000])
        if self.damage == "killed":
            raise KeyboardInterrupt


def test_version_is_fetched_once_however_many_ask(tmp_path: Path):
    source = Source()
    barrier = threading.Barrier(6)

    def ask(_: int) -> Path:
        barrier.wait()
        return cached("7", tmp_path, source)

    with ThreadPoolExecutor(6) as replicas:
        found = set(replicas.map(ask, range(6)))
    assert found == {tmp_path / "7"}
    assert source.fetched == 1
    assert cached("7", tmp_path, source) == tmp_path / "7"
    assert source.fetched == 1
    assert sha256_of(tmp_path / "7" / WEIGHTS) == sha256_of(SHIPPED / WEIGHTS)


def test_file_that_was_cut_on_the_way_is_refused_with_both_hashes_and_leaves_nothing(
    tmp_path: Path,
):
    stated = sha256_of(SHIPPED / WEIGHTS)
    with pytest.raises(CheckpointError, match=f"with SHA-256 {stated}, found [0-9a-f]{{64}}"):
        cached("7", tmp_path, Source("cut"))
    assert not (tmp_path / "7").exists()
    assert list(tmp_path.glob(".7.*.part")) == []
    assert cached("7", tmp_path, Source()).is_dir()


def test_file_that_was_changed_in_the_cache_is_refused_with_both_hashes(tmp_path: Path):
    weights = cached("7", tmp_path, Source()) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=f"found {sha256_of(weights)}"):
        cached("7", tmp_path, Source())


def test_interrupted_fetch_is_begun_again(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        cached("7", tmp_path, Source("killed"))
    (tmp_path / ".7.left.part").mkdir()
    assert cached("7", tmp_path, Source()).is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".7.lock", "7"]


def test_directory_of_another_version_is_refused(tmp_path: Path):
    shutil.copytree(SHIPPED, tmp_path / "7")
    with pytest.raises(CheckpointError, match=r"expected version 7 .* found version 1"):
        cached("7", tmp_path, Source())


def test_checkpoint_of_the_file_is_found_on_this_node(tmp_path: Path):
    assert local_directory("registry:7", tmp_path) == tmp_path / "models" / "7"
    assert local_directory("app/weights/1", tmp_path) == SHIPPED
