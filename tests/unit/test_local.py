"""The notes of running `up` processes: which are alive, and which only have the number of one that is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from eddy_mesh import local
from eddy_mesh.local import Whereabouts, leave_note, note_directory, process_start, running

ELSEWHERE = pytest.mark.parametrize("start_of", [process_start, local._process_start_elsewhere], ids=["here", "psutil"])


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDDY_STATE", str(tmp_path))


def note(pid: int, **changes: str) -> Path:
    """Leave a note of a process, and change it afterwards."""
    path = leave_note(Whereabouts(("nats://127.0.0.1:4222",), pid=pid, state="here"))
    place = msgspec.json.decode(path.read_bytes(), type=Whereabouts)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(place, **changes)))
    return path


def test_a_note_of_a_living_process_is_found() -> None:
    """The note that a process leaves of itself says that it runs."""
    path = note(os.getpid())
    assert [place.pid for place in running()] == [os.getpid()]
    assert path.exists()


def test_a_number_that_another_process_has_now_is_not_running() -> None:
    """A crash leaves a note, the number is given to another process: nothing runs, and the note goes."""
    path = note(os.getpid(), started="an earlier boot/123")
    assert running() == []
    assert not path.exists()


def test_a_note_of_an_older_version_is_believed() -> None:
    """A note without a start time counts while there is a process of its number."""
    note(os.getpid(), started="")
    assert [place.pid for place in running()] == [os.getpid()]


@ELSEWHERE
def test_a_process_has_the_same_start_until_it_ends(start_of: Callable[[int], str]) -> None:
    """Each process has its own, always the same; one that has ended has none, also before its parent has looked."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        first = start_of(other.pid)
        assert first
        assert first == start_of(other.pid)
        assert first != start_of(os.getpid())
        other.communicate(b"\n")
    assert start_of(other.pid) == ""


@ELSEWHERE
@pytest.mark.skipif(sys.platform == "win32", reason="no zombies there")
def test_a_zombie_is_not_alive(start_of: Callable[[int], str]) -> None:
    """A process that has ended, and whose parent has not looked, does not run."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert start_of(ended.pid) == ""


@pytest.mark.parametrize("pid", [0, -1])
def test_no_number_is_no_process(pid: int) -> None:
    """0 and negative numbers, which mean groups of processes elsewhere, are none."""
    assert process_start(pid) == ""


def test_a_damaged_note_is_passed_over() -> None:
    """Half a note says nothing, and keeps nobody from being found."""
    note(os.getpid())
    (note_directory() / "1.json").write_bytes(b'{"pid')
    assert len(running()) == 1


def test_looking_never_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signal is sent, not even 0: on Windows that ends the process."""

    def refuse(*_: int) -> None:
        raise AssertionError("a signal was sent")

    monkeypatch.setattr(os, "kill", refuse)
    note(os.getpid())
    assert running()
