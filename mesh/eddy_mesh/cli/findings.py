"""What a look at this host has found: one line each, and what to do.

What may live here: `Finding`, and the findings about the installation itself.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from importlib import metadata

import msgspec

DISTRIBUTION = "eddy-mesh"
OLDEST_PYTHON = (3, 11)
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)>=(?P<least>[\d.]+)(?:; sys_platform (?P<is>[!=]=) '(?P<platform>\w+)')?")


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        subject: what was looked at.
        verdict: a problem keeps agents from working, a warning makes them see or hold less.
        text: what was found.
        advice: what to do, "" where nothing is to be done.
    """

    subject: str
    verdict: Verdict
    text: str
    advice: str = ""


def installation_findings() -> Iterator[Finding]:
    """Yield what there is to say about Python and the libraries."""
    version = f"Python {platform.python_version()} on {platform.platform()}"
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        yield Finding("python", Verdict.PROBLEM, version, f"install Python {oldest} or newer")
    else:
        yield Finding("python", Verdict.OK, version)
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        advice = f"pip install {DISTRIBUTION}, or pip install -e . in a checkout"
        yield Finding("libraries", Verdict.WARNING, f"{DISTRIBUTION} is not installed as a package", advice)
        return
    wrong = [text for requirement in requirements if (text := requirement_mistake(requirement))]
    if wrong:
        yield Finding("libraries", Verdict.PROBLEM, "; ".join(wrong), f"pip install --upgrade {DISTRIBUTION}")
    else:
        yield Finding("libraries", Verdict.OK, f"{len(requirements)} libraries are there and new enough")


def requirement_mistake(requirement: str) -> str:
    """Return how a requirement is not met, or "".

    Args:
        requirement: as the metadata of a package has it: ``msgspec>=0.19; sys_platform == 'linux'``; one of another
            form, or for another platform, is met.
    """
    found = _REQUIREMENT.fullmatch(requirement.replace('"', "'"))
    if found is None or (found["platform"] and (sys.platform == found["platform"]) != (found["is"] == "==")):
        return ""
    try:
        version = metadata.version(found["name"])
    except metadata.PackageNotFoundError:
        return f"{found['name']} is missing"
    if _numbers(version) < _numbers(found["least"]):
        return f"{found['name']} {version} is older than {found['least']}"
    return ""


def _numbers(version: str) -> list[int]:
    """Return the release numbers of a version, without zeros at the end."""
    numbers = [int(number) for number in re.findall(r"\d+", re.split(r"[a-z+]", version, maxsplit=1)[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers
