"""Sources that follow: real files, rotation, processes that are killed, and a program that stands for journalctl."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import msgspec
import pytest

from eddy_agents.normalizers import file, journald
from eddy_mesh.memory_outlet import MemoryOutlet, running

pytestmark = pytest.mark.e2e


@pytest.fixture
async def outlet(tmp_path: Path) -> MemoryOutlet:
    state = tmp_path / "state"
    state.mkdir()
    return MemoryOutlet(state)


# --- file ------------------------------------------------------------------------------------------------------


def file_source(folder: Path, **settings: object) -> file.Source:
    quick = {"include": [f"{folder}/*.log"], "start": "beginning", "poll_s": 0.01, "discover_s": 0.02}
    return file.Source(msgspec.convert(quick | settings, file.Config))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as opened:
        opened.write(data)


async def test_file_is_followed_through_rotation(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """Lines come in order, with path and offset; a renamed file is read to its end before its successor."""
    log = tmp_path / "a.log"
    append(log, b"one\n\ntwo\nthr")
    async with running(file_source(tmp_path), outlet):
        await outlet.until(lambda: len(outlet.rows) == 2)
        append(log, b"ee\n")
        await outlet.until(lambda: len(outlet.rows) == 3)
        append(log, b"four\n")
        log.rename(tmp_path / "a.log.1")
        append(log, b"five\n")
        append(tmp_path / "a.log.1", b"still the old one\n")
        await outlet.until(lambda: len(outlet.rows) == 6)
        append(log, b"six\n")
        await outlet.until(lambda: len(outlet.rows) == 7)
    old = [b"one", b"two", b"three", b"four", b"still the old one"]
    assert [payload for payload in outlet.payloads if payload in old] == old
    assert outlet.payloads.index(b"four") < outlet.payloads.index(b"five") < outlet.payloads.index(b"six")
    assert [(row["log.file.path"], row["log.offset"]) for row in outlet.rows[:3]] == [
        (str(log), 0),
        (str(log), 5),
        (str(log), 9),
    ]


async def test_file_cut_in_place_begins_again(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """After copytruncate the new content is read from its beginning, also behind the hole of a stubborn writer."""
    log = tmp_path / "a.log"
    append(log, b"one\ntwo\n" * 10)
    async with running(file_source(tmp_path), outlet):
        await outlet.until(lambda: len(outlet.rows) == 20)
        log.write_bytes(b"new\n")
        await outlet.until(lambda: len(outlet.rows) == 21)
        with log.open("r+b") as stubborn:
            stubborn.truncate(0)
            stubborn.seek(1000)
            stubborn.write(b"behind a hole\n")
        await outlet.until(lambda: len(outlet.rows) == 22)
    assert outlet.payloads[20:] == [b"new", b"behind a hole"]
    assert outlet.rows[21]["log.offset"] == 1000
    assert [told["log.file.path"] for told in outlet.told("file_truncated")] == [str(log)] * 2
    assert outlet.told("file_truncated")[0]["log.offset"] == len(b"one\ntwo\n" * 10)


async def test_file_goes_on_where_the_last_run_ended(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """A new run reads what was added since, also to a file that was renamed and to one that is new."""
    log = tmp_path / "a.log"
    append(log, b"before\n")
    async with running(file_source(tmp_path, start="end"), outlet):
        await outlet.until(lambda: outlet.settlements)
        append(log, b"one\nhalf")
        await outlet.until(lambda: outlet.rows)
    append(log, b" a line\n")
    log.rename(tmp_path / "a.log.1")
    append(log, b"new\n")
    async with running(file_source(tmp_path, start="end"), outlet):
        await outlet.until(lambda: len(outlet.rows) == 3)
    assert outlet.payloads == [b"one", b"half a line", b"new"]
    assert {row["log.file.path"] for row in outlet.rows} == {str(log)}


async def test_reading_goes_on_while_a_checkpoint_waits(
    outlet: MemoryOutlet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken durably takes its time; the next lines do not wait for it."""
    is_asked = asyncio.Event()

    async def never() -> None:
        is_asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(outlet, "settled", never)
    append(tmp_path / "a.log", b"one\n")
    async with running(file_source(tmp_path), outlet):
        await is_asked.wait()
        append(tmp_path / "a.log", b"two\n")
        await outlet.until(lambda: len(outlet.rows) == 2)


async def test_checkpoint_waits_for_what_it_covers(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """A run whose events nobody took leaves no trace: the next one gives them again."""
    append(tmp_path / "a.log", b"one\n")
    outlet.gate.clear()
    async with running(file_source(tmp_path), outlet):
        await outlet.offered.wait()
    assert outlet.rows == []
    outlet.gate.set()
    async with running(file_source(tmp_path), outlet):
        await outlet.until(lambda: outlet.rows)
    assert outlet.payloads == [b"one"]


async def test_file_rest_is_flushed_and_odd_files_are_named(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """A last line without end is given after a while; a binary file and a damaged checkpoint are said once."""
    (outlet.state / "checkpoint.json").write_bytes(b"{")
    append(tmp_path / "binary.log", b"\x7fELF\0\0\0\1")
    append(tmp_path / "a.log", b"no end")
    append(tmp_path / "long.log", b"x" * 100 + b"\nshort\n")
    async with running(file_source(tmp_path, flush_after_s=0.02, max_line_bytes=10), outlet):
        await outlet.until(lambda: len(outlet.rows) == 3)
    assert sorted(map(bytes, outlet.payloads)) == [b"no end", b"short", b"x" * 10]  # type: ignore[arg-type]
    assert len(outlet.told("checkpoint_unreadable")) == 1
    assert outlet.told("file_not_text") == [{"log.file.path": str(tmp_path / "binary.log")}]
    assert outlet.told("line_too_long") == [{"log.file.path": str(tmp_path / "long.log"), "max_line_bytes": 10}]


FOLLOW = """
import asyncio, os, sys, time
from pathlib import Path
from eddy_agents.normalizers import file

class Outlet:
    name = "child"
    state = Path(sys.argv[2])
    now_ns = staticmethod(time.time_ns)
    async def emit(self, draft):
        lines = draft.columns["event.original"]
        data = b"".join(lines.bytes_at(row) + b"\\n" for row in range(draft.count))
        while data:
            data = data[os.write(1, data):]
    async def settled(self): pass
    def lost(self, reason, count): raise SystemExit(reason)
    def notice(self, event, **fields): pass

file.CHECKPOINT_S = 0.01
include = (sys.argv[1] + "/a.log*",)
settings = file.Config(include=include, start=file.Start.BEGINNING, poll_s=0.005, discover_s=0.01, read_bytes=4096)
asyncio.run(file.Source(settings).run(Outlet()))
"""


async def _follow(logs: Path, state: Path, repo: Path) -> asyncio.subprocess.Process:
    env = os.environ | {"PYTHONPATH": f"{repo / 'mesh'}{os.pathsep}{repo / 'agents'}"}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", FOLLOW, str(logs), str(state), env=env, stdout=asyncio.subprocess.PIPE
    )


async def test_no_line_is_lost_by_kill(tmp_path: Path, repo: Path) -> None:
    """A follower that is killed at random while files are written and rotated gives every line at least once."""
    chance = random.Random(7)
    logs, state = tmp_path / "logs", tmp_path / "state"
    logs.mkdir()
    state.mkdir()
    log = logs / "a.log"
    written = 0
    seen: set[bytes] = set()
    for _ in range(5):
        child = await _follow(logs, state, repo)
        assert child.stdout is not None
        for _ in range(chance.randrange(5, 60)):
            count = chance.randrange(1, 300)
            append(log, b"".join(b"line %d\n" % number for number in range(written, written + count)))
            written += count
            if chance.random() < 0.1:
                log.rename(logs / f"a.log.{written}")
            seen.add(await child.stdout.readline())
        child.kill()
        rest = await child.stdout.read()
        seen.update(rest[: rest.rfind(b"\n") + 1].splitlines(keepends=True))
        await child.wait()
    child = await _follow(logs, state, repo)
    assert child.stdout is not None
    append(log, b"the end\n")
    missing = {b"the end\n", *(b"line %d\n" % number for number in range(written))} - seen
    while missing:  # a lost line shows as a time-out
        missing.discard(await child.stdout.readline())
    child.kill()
    await child.communicate()
    assert not missing


# --- journald --------------------------------------------------------------------------------------------------

JOURNALCTL = """#!{python}
import json, sys, time
with open({log!r}, "a") as log:
    print(*sys.argv[1:], file=log)
if "--after-cursor=refused" in sys.argv:
    sys.exit("Failed to seek to cursor")
for number in (1, 2):
    entry = {{"__CURSOR": f"c{{number}}", "__REALTIME_TIMESTAMP": f"{{number}}000000", "MESSAGE": f"m{{number}}"}}
    print(json.dumps(entry), flush=True)
time.sleep(60)
"""


def journal(tmp_path: Path) -> tuple[journald.Config, Path]:
    command, log = tmp_path / "journalctl", tmp_path / "arguments"
    command.write_text(JOURNALCTL.format(python=sys.executable, log=str(log)))
    command.chmod(0o755)
    return journald.Config(command=str(command), retry_s=0.01), log


async def test_journal_goes_on_at_its_cursor(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """Entries come as journalctl writes them; the next run goes on after the last, and no process is left."""
    config, log = journal(tmp_path)
    async with running(journald.Source(config), outlet):
        await outlet.until(lambda: len(outlet.rows) == 2)
    async with running(journald.Source(config), outlet):
        await outlet.until(lambda: len(outlet.rows) == 4)
    first, second = log.read_text().splitlines()
    assert "--lines=0" in first
    assert "--after-cursor=c2" in second
    assert msgspec.json.decode(outlet.rows[0]["event.original"])["MESSAGE"] == "m1"  # type: ignore[arg-type]


async def test_journal_goes_on_by_time_when_its_cursor_is_refused(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """A cursor that the journal does not know any more is replaced by the time of the last entry."""
    config, log = journal(tmp_path)
    (outlet.state / "checkpoint.json").write_text('{"__CURSOR":"refused","__REALTIME_TIMESTAMP":"5000001"}')
    async with running(journald.Source(config), outlet):
        await outlet.until(lambda: len(outlet.rows) == 2)
    assert "--since=@5" in log.read_text().splitlines()[1]
    assert outlet.told("journal_unavailable") == [{"error.message": "Failed to seek to cursor", "retry_s": 0.01}]


async def test_host_without_journal_is_no_failure(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """Without journalctl the source says so once and tries again, until there is one."""
    config = journald.Config(command=str(tmp_path / "journalctl"), retry_s=0.001, max_retry_s=0.001)
    async with running(journald.Source(config), outlet):
        await outlet.until(lambda: outlet.notices)
        journal(tmp_path)
        await outlet.until(lambda: len(outlet.rows) == 2)
    assert "is not installed" in str(outlet.told("journal_unavailable")[0]["error.message"])
