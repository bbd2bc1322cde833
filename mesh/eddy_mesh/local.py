"""Where the backplane is: an `eddy-agent up` of this user, a URL, or a ``nats`` context.

What may live here: the note that a running `up` leaves for tools, and the look-up. The note holds a token, so it can
be read by its owner only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from eddy_mesh.bus import ConnectOptions
from eddy_mesh.errors import UsageError
from eddy_mesh.subjects import DEFAULT_BACKPLANE
from eddy_mesh.whole_file import write_whole


class Whereabouts(msgspec.Struct, frozen=True):
    """How to reach a backplane.

    Attributes:
        servers: NATS URLs.
        options: credentials.
        backplane: name of the mesh.
        pid: process number of the `up`, 0 where there is none.
        state: its state directory.
        started: what tells that process from a later one of the same number, see `process_start`; "" where not known.
    """

    servers: tuple[str, ...]
    options: ConnectOptions = ConnectOptions()
    backplane: str = DEFAULT_BACKPLANE
    pid: int = 0
    state: str = ""
    started: str = ""


class _Context(msgspec.Struct):
    """The members of a ``nats`` command line context that matter here."""

    url: str = ""
    token: str = ""
    user: str = ""
    password: str = ""
    creds: str = ""
    nkey: str = ""
    cert: str = ""
    key: str = ""
    ca: str = ""


def state_directory() -> Path:
    """Return the user's state directory for EDDY: ``$EDDY_STATE``, else as the platform has it."""
    named = os.environ.get("EDDY_STATE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "eddy"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "eddy"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "eddy"


def note_directory() -> Path:
    """Return where running `up` processes of this user leave their notes."""
    return state_directory() / "running"


def leave_note(place: Whereabouts) -> Path:
    """Write the note of a running `up`, readable by its owner only, and return its path."""
    directory = note_directory()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / f"{place.pid}.json"
    note = msgspec.structs.replace(place, started=process_start(place.pid))
    write_whole(path, msgspec.json.encode(note), synced=False, mode=0o600)
    return path


def running() -> list[Whereabouts]:
    """Return the `up` processes of this user that are alive, newest first; notes of dead ones are removed.

    A note whose process number was given to another process since is that of a dead one.
    """
    alive: list[tuple[float, Whereabouts]] = []
    for path in note_directory().glob("*.json"):
        try:
            place = msgspec.json.decode(path.read_bytes(), type=Whereabouts)
            written = path.stat().st_mtime
        except (OSError, msgspec.MsgspecError):
            continue
        start = process_start(place.pid)
        if start and (start == place.started or not place.started):
            alive.append((written, place))
        else:
            path.unlink(missing_ok=True)
    return [place for _, place in sorted(alive, key=lambda held: -held[0])]


def find(server: str = "", context: str = "") -> Whereabouts:
    """Return how to reach a backplane: ``server``, ``$EDDY_SERVER``, a running `up`, or a ``nats`` context.

    Args:
        server: NATS URL, or "".
        context: name of a ``nats`` context, or "" for the selected one where nothing else is found.

    Raises:
        UsageError: nothing was found.
    """
    if context and not server:
        return _context(context)
    url = server or os.environ.get("EDDY_SERVER", "")
    if url:
        return Whereabouts((url,))
    up = running()
    if up:
        return up[0]
    selected = _nats_directory() / "context.txt"
    if selected.is_file():
        return _context(selected.read_text().strip())
    raise UsageError("no backplane found: start one with eddy-agent up, or give --server nats://HOST:4222")


def _nats_directory() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "nats"


def _context(name: str) -> Whereabouts:
    path = _nats_directory() / "context" / f"{name}.json"
    try:
        held = msgspec.json.decode(path.read_bytes(), type=_Context)
    except FileNotFoundError:
        known = ", ".join(sorted(found.stem for found in path.parent.glob("*.json"))) or "none"
        raise UsageError(f"there is no nats context {name!r}: there are {known}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"nats context {path} can not be read: {error}") from None
    options = ConnectOptions(
        token=held.token,
        user=held.user,
        password=held.password,
        creds_file=held.creds,
        nkey_seed_file=held.nkey,
        tls_ca_file=held.ca,
        tls_certificate_file=held.cert,
        tls_key_file=held.key,
    )
    return Whereabouts(tuple(held.url.split(",")) if held.url else ("nats://127.0.0.1:4222",), options)


def process_start(pid: int) -> str:
    """Return what no other process has: when this one started; "" when it is not alive.

    On Linux the boot and the clock tick within it, which no change of the clock moves.

    Source: proc_pid_stat(5), fields 3 (state) and 22 (starttime).
    """
    if pid <= 0:
        return ""
    if not Path("/proc/self/stat").exists():
        return _process_start_elsewhere(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat[stat.rindex(b")") + 1 :].split()  # the name before may hold anything, blanks and brackets too
    return "" if fields[0] in {b"Z", b"X"} else f"{boot}/{int(fields[19])}"


def _process_start_elsewhere(pid: int) -> str:
    import psutil  # noqa: PLC0415  # slow to import, and every command looks for an `up`

    try:
        process = psutil.Process(pid)  # never os.kill(pid, 0), which ends a process on Windows
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
    except psutil.Error:
        return "alive"  # it belongs to somebody else and may not be looked at
