"""What a source remembers over restarts: one value in one file, whole or not there, after a power failure too.

What may live here: when and how the file is read and written; what is remembered is the source's business.
"""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

import msgspec

from eddy_mesh.agent import Outlet
from eddy_mesh.whole_file import write_whole

T = TypeVar("T", bound=msgspec.Struct)


class CheckpointFile(Generic[T]):
    """The file ``checkpoint.json`` of a source.

    Args:
        outlet: of the source; gets the notice ``checkpoint_unreadable`` where the file holds something else.
        kind: type of the value.

    Attributes:
        found: what the last run has left; None where it left nothing that can be read.

    Raises:
        OSError: the file is there and can not be read.
    """

    def __init__(self, outlet: Outlet, kind: type[T]) -> None:
        self._outlet = outlet
        self._path = outlet.state / "checkpoint.json"
        self._writing: asyncio.Future[None] | None = None
        self.found: T | None = None
        try:
            self.found = msgspec.json.decode(self._path.read_bytes(), type=kind)
        except FileNotFoundError:
            pass
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            outlet.notice("checkpoint_unreadable", **{"file.path": str(self._path), "error.message": str(error)})
        self._written = self.found

    async def keep(self, value: T) -> None:
        """Write a value once the events emitted so far have been taken; one that is there already is not.

        Raises:
            OSError: the file can not be written.
        """
        if self._writing is not None:  # one that a stop has interrupted
            await asyncio.wait([self._writing])
        if value == self._written:
            return
        await self._outlet.settled()
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, value)
        await asyncio.shield(self._writing)

    def _write(self, value: T) -> None:
        write_whole(self._path, msgspec.json.format(msgspec.json.encode(value)) + b"\n", synced=True)
        self._written = value
