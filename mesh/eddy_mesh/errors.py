"""Every error that the project raises on purpose: one small tree, each with what is needed to act on it.

What may live here: exception classes with attributes. No logic, no imports from the project.
Third-party exceptions are mapped to these in the adapter that meets them.
"""

from __future__ import annotations


class EddyError(Exception):
    """Root of the tree. ``str(error)`` is lower case, shows the value, and says what to do next."""


class ConfigError(EddyError):
    """A configuration that can not be used.

    Attributes:
        mistakes: one line for each mistake found (file, key, what is wrong, nearest right name); never empty.
    """

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class UsageError(EddyError):
    """The caller asked for something that does not exist or can not be done; the text says what can."""


class StatementError(UsageError):
    """A select/project statement that can not be compiled.

    Attributes:
        statement: the text as given.
        position: 0-based character offset of the mistake in ``statement``.
        suggestion: the nearest right word, or "".
    """

    def __init__(self, message: str, statement: str, position: int, suggestion: str = "") -> None:
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        pointer = " " * position + "^"
        super().__init__(f"{message}{hint}\n  {statement}\n  {pointer}")
        self.statement = statement
        self.position = position
        self.suggestion = suggestion


class WireError(EddyError):
    """Bytes from outside that are not what they should be. The only error a decoder may raise.

    Attributes:
        source: which decoder refused them (``netflow.v9``, ``codec``, ...).
        offset: byte offset at which the reader gave up, or -1 where that says nothing.
    """

    def __init__(self, source: str, message: str, offset: int = -1) -> None:
        where = f" at byte {offset}" if offset >= 0 else ""
        super().__init__(f"{source}: {message}{where}")
        self.source = source
        self.offset = offset


class SecurityError(EddyError):
    """A key, permission or policy that forbids what was asked."""


class BusError(EddyError):
    """The message bus did not do what was asked.

    Attributes:
        retryable: whether the same call may succeed later (server away, time-out) or never (refused).
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class StoreError(EddyError):
    """A disk or a database that did not take or give what was asked.

    Attributes:
        retryable: whether the same call may succeed later (disk full, locked) or never (damaged file).
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable
