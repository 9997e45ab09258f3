"""`serve_config.yaml` on disk: written whole, by one command at a time, over the text it read."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from app.core.errors import ReleaseConflict, SettingsError
from app.release.config.edits import with_weights
from app.release.config.file import ConfigFile
from tests.system import PROJECT_DIR


def test_file_is_replaced_and_keeps_its_mode(path: Path):
    path.chmod(0o640)
    file = ConfigFile(path)
    before = file.read()
    with file.locked("test"):
        after = file.replace(before, with_weights(before.text, {"1": 90, "2": 10}))
    assert path.read_text() == after.text != before.text
    assert [release.weight for release in after.config.traffic.releases] == [90, 10]
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(item.name for item in path.parent.iterdir()) == [
        ".serve_config.yaml.lock",
        "serve_config.yaml",
    ]


def test_file_that_changed_since_it_was_read_is_not_replaced(path: Path):
    file = ConfigFile(path)
    before = file.read()
    path.write_text(before.text + "# a person was here\n")
    with file.locked("test"), pytest.raises(ReleaseConflict, match="found it changed since"):
        file.replace(before, with_weights(before.text, {"1": 90, "2": 10}))
    assert path.read_text().endswith("# a person was here\n")


def test_invalid_text_is_not_written(path: Path):
    file = ConfigFile(path)
    before = file.read()
    with file.locked("test"), pytest.raises(SettingsError, match="num_replica'"):
        file.replace(before, before.text.replace("num_replicas", "num_replica"))
    assert path.read_text() == before.text


def test_link_stays_a_link(path: Path, tmp_path: Path):
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    file = ConfigFile(link)
    before = file.read()
    with file.locked("test"):
        file.replace(before, with_weights(before.text, {"2": 100}))
    assert link.is_symlink()
    assert path.read_text() != before.text


def test_one_of_two_concurrent_commands_is_refused(path: Path):
    barrier = Barrier(2)

    def change(second: int) -> str:
        file = ConfigFile(path)
        before = file.read()
        text = with_weights(before.text, {"1": 100 - second, "2": second})
        barrier.wait()
        try:
            with file.locked(f"command {second}"):
                file.replace(before, text)
        except ReleaseConflict as error:
            return str(error)
        return "won"

    with ThreadPoolExecutor(2) as both:
        for _ in range(20):
            message = sorted(both.map(change, (10, 20)))
            assert message[1] == "won"
            assert "another command at work" in message[0] or "found it changed since" in message[0]
            shutil.copy(PROJECT_DIR / "serve_config.yaml", path)


def test_command_killed_at_any_step_leaves_the_old_or_the_new_text_and_the_next_one_works(
    path: Path,
):
    script = Path(__file__).with_name("killed_writer.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        cwd=PROJECT_DIR,
        env={"PYTHONPATH": str(PROJECT_DIR), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    steps, old, new = map(int, done.stdout.split())
    assert steps > 40
    assert old > 20
    assert new > 10
    # the last one completed: killed ones left no files
    assert sorted(item.name for item in path.parent.iterdir()) == [
        ".serve_config.yaml.lock",
        "serve_config.yaml",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("applications: [", "expected YAML"),
        ("applications: []\n", "at least 1 item"),
        ("- 1\n", "can't be used: expected an object, found \\[1\\]"),
        ("", "can't be used: expected an object, found null"),
    ],
)
def test_invalid_configuration_is_refused(path: Path, text: str, message: str):
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        ConfigFile(path).read()


def test_repeated_key_is_refused_with_its_line(path: Path):
    path.write_text(path.read_text().replace("  port: 8000\n", "  port: 8000\n  port: 9000\n"))
    with pytest.raises(SettingsError, match="line 8 has the key 'port' a second time"):
        ConfigFile(path).read()


def test_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"none\.yaml"):
        ConfigFile(tmp_path / "none.yaml").read()
