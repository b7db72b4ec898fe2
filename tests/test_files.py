"""Files: exclusive, whole or not there, nothing left behind, and every fault in plain words."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppocr_prune_plugin.errors import PruneError, exiting_on_error, one_line, quoted
from ppocr_prune_plugin.files import TEMPORARY, read_file, replacing, write_atomically
from ppocr_prune_plugin.holding import hold, is_held
from ppocr_prune_plugin.run_lock import own


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_has_the_usual_rights(tmp_path: Path) -> None:
    """As a file that ``open`` makes: other processes of a run may have to read it."""
    write_atomically(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    ours, plain = ((tmp_path / name).stat().st_mode for name in ("ours", "plain"))
    assert stat.S_IMODE(ours) == stat.S_IMODE(plain)


def test_names_of_new_files_cannot_be_foreseen(tmp_path: Path) -> None:
    """Who could, would plant a link there, and have us write to where it points."""
    names = set()
    for _ in range(3):
        with replacing(tmp_path / ("x" * 250)) as file:
            names.add(file.name)
            assert Path(file.name).parent == tmp_path
    assert len(names) == 3


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("plan.prune.json", f".planted{TEMPORARY}"):
        (tmp_path / name).symlink_to(victim)
    write_atomically(tmp_path / "plan.prune.json", "new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "plan.prune.json").read_text() == "new"
    assert not (tmp_path / "plan.prune.json").is_symlink()
    with pytest.raises(PruneError, match="lock: cannot be written.*a link"):
        (tmp_path / "lock").symlink_to(victim)
        own(tmp_path / "lock", "it", "")
    assert victim.read_text() == "precious"


_WRITER = """
import sys, time
from pathlib import Path
from ppocr_prune_plugin.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half"); file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has half written ``tmp_path/file``."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, tmp_path / "file"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.wait()


def test_what_a_killed_process_was_writing_is_removed_by_the_next_that_writes(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    (left,) = listed(tmp_path)
    assert left.endswith(TEMPORARY)
    write_atomically(tmp_path / "other", "")
    assert listed(tmp_path) == sorted([left, "other"])  # still at it
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    write_atomically(tmp_path / "other", "")
    assert listed(tmp_path) == ["other"]


def test_a_name_or_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, said in (
        (tmp_path / "file" / "x", "A folder is needed where a file is"),
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "a\0b", "no path has a NUL or half a character in it"),
        (tmp_path / "\ud800", "no path has a NUL or half a character in it"),
        (tmp_path / ("x" * 300), "name too long"),
        (Path("/proc/ppocr-prune/x"), "cannot be written"),
    ):
        with pytest.raises(PruneError, match=said) as error:
            write_atomically(path, "x")
        assert str(error.value).startswith(one_line(f"{path}: cannot be written: "))
    assert listed(tmp_path) == ["file", "folder"]


def test_what_cannot_be_read_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory|no regular file"),
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (tmp_path / "a\0b", "NUL"),
    ):
        with pytest.raises(PruneError, match=f"the plan cannot be read: .*({said})"):
            read_file(path, "the plan")
    (tmp_path / "large").write_bytes(bytes(20))
    with pytest.raises(PruneError, match="it has 20 bytes, more than"):
        read_file(tmp_path / "large", "the plan", 19)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_go_on_holding(tmp_path: Path) -> None:
    """Workers of a data loader outlive a training that is killed."""
    path = tmp_path / "lock"
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        held = hold(path)
        child = os.fork()
        if child == 0:
            os.close(write)
            signal.pause()
        os.write(write, str(child).encode())
        os._exit(0 if held is not None else 1)
    child = int(os.read(read, 20))
    try:
        assert os.waitpid(parent, 0)[1] == 0
        assert is_held(path) is False
    finally:
        os.kill(child, signal.SIGKILL)


_OWNER = """
import sys, time
from pathlib import Path
from ppocr_prune_plugin.run_lock import own
own(Path(sys.argv[1]), "output/prune", "Wait for its end.")
own(Path(sys.argv[1]), "output/prune", "Wait for its end.")
print("working", flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_who_comes_second_is_told_who_is_there(tmp_path: Path) -> None:
    path = tmp_path / "prune" / "lock"
    command = [sys.executable, "-c", _OWNER, path]
    process = subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    with pytest.raises(PruneError) as error:
        own(path, "output/prune", "Wait for its end.")
    assert f"another run is at work there: process {process.pid} on " in str(error.value)
    assert f"-c {path} 60. Wait for its end." in str(error.value)
    process.kill()
    process.wait()
    # A killed run is in nobody's way, and one that ends takes its lock along.
    assert path.exists()
    assert subprocess.run([*command, "0"]).returncode == 0
    assert not path.exists()


def test_a_message_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    forged = "key\nppocr-prune: error: all is well\r\x1b[2K\u2028\u202e\udc80\0"
    with pytest.raises(SystemExit), exiting_on_error():
        raise PruneError(f"{forged}: is not a key")
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1 and shown.count("\n") == 1
    assert r"key\nppocr-prune: error: all is well\r\x1b[2K\u2028\u202e\udc80\x00: is not" in shown
    assert str(PruneError("图 ünï “quoted” […]")) == "图 ünï “quoted” […]"
    long = str(PruneError("begin" + "x" * 10**6 + "end"))
    assert len(long) < 5000 and long.startswith("begin") and long.endswith("end")
    assert str(PruneError(PruneError(forged))) == str(PruneError(forged))


def test_values_are_quoted_in_a_few_words() -> None:
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    circular: list[object] = []
    circular.append(circular)
    for value in (deep, circular, "x" * 10**6, list(range(10**5)), 10**400, 10**10_000, {1: deep}):
        assert len(quoted(value)) < 400
    assert quoted(10**400) == "a whole number of 401 digits"
    assert quoted([0.5, "a"]) == "[0.5, 'a']" and quoted(None) == "None"
