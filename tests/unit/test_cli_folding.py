"""Sentences of the commands on a terminal of 80 characters, and whole in a pipe."""

from __future__ import annotations

import asyncio
import sys
import tomllib
from io import StringIO

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from eddy_mesh.cli import group, stored
from eddy_mesh.cli.agent import main
from eddy_mesh.cli.changing import _show_plan
from eddy_mesh.cli.describing import Described, description, inventory
from eddy_mesh.cli.doctor import line
from eddy_mesh.cli.findings import Finding, Verdict
from eddy_mesh.cli.folding import fold, fold_prose, joined, line_width
from eddy_mesh.cli.managing import Steps, show_lines
from eddy_mesh.cli.output import tell
from eddy_mesh.cli.settings import Settings
from eddy_mesh.errors import StatementError
from eddy_mesh.selection import compile_statement

NOW_NS = 1_795_295_801_000_000_000
SENTENCE = "one of several words that people read " * 6


class Terminal(StringIO):
    """Text that goes to a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let standard output and standard error be a terminal of 80 characters; no fixture: pytest sets them anew."""
    out = Terminal()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    return out


def fits(text: str, hanging: str = "  ") -> bool:
    """Return whether text has several lines that fit, the further ones set in, none of which ends in a space."""
    lines = text.rstrip("\n").split("\n")
    return (
        len(lines) > 1
        and all(cell_len(each) <= 80 and each == each.rstrip() for each in lines)
        and all(each.startswith(hanging) for each in lines[1:])
    )


def test_lines_break_between_words_and_keep_their_indent() -> None:
    """What fits stays; further lines are set in below the indent; spaces inside and wide characters count."""
    assert fold("  a  b ccc", 7) == "  a  b\n    ccc"
    assert fold("short\n\nlines", 6) == "short\n\nlines"
    assert fold("世界 世界", 6) == "世界\n  世界"
    assert fold(SENTENCE, 0) == SENTENCE


def test_a_word_that_fits_no_line_stays_where_it_is() -> None:
    """An id or path can be copied whole, and no label stands alone before it."""
    assert fold("in 0123456789 out", 8) == "in 0123456789\n  out"


def test_a_pointer_stays_below_what_it_points_at() -> None:
    """The statement of an error is not broken, its message is."""
    error = str(StatementError(SENTENCE.strip(), "SELECT " + "x, " * 40, 100))
    folded = fold(error, 80)
    assert folded.split("\n")[-2:] == error.split("\n")[-2:]
    assert fits("\n".join(folded.split("\n")[:-2]))


def test_prose_that_was_broken_for_its_length_flows_again() -> None:
    """Paragraphs have no short lines in between; lists and lines that ended on purpose stay."""
    first, second = "word " * 23 + "last", "goes on."
    assert joined([first, second, "", "* one", "* two"]) == [f"{first} {second}", "", "* one", "* two"]
    assert joined([first, "* a list"]) == [first, "* a list"]
    assert fold_prose(first, 0) == first
    assert fold_prose("* " + first, 80).split("\n")[1].startswith("  word")
    assert fold_prose(first, 80).split("\n")[1].startswith("word")


def test_a_pipe_has_lines_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLUMNS says nothing of what is no terminal; a terminal without a size has 80."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert line_width(Terminal()) == 80
    monkeypatch.setenv("COLUMNS", "40")
    assert (line_width(StringIO()), line_width(Terminal())) == (0, 40)


def test_remarks_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remark, such as the footer of `subscriptions`, fits a terminal, and is one line in a pipe."""
    terminal = terminal_of(monkeypatch)
    tell(SENTENCE.strip())
    assert fits(terminal.getvalue())
    pipe = StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    tell(SENTENCE)
    assert pipe.getvalue() == f"eddy: {SENTENCE}\n"


def test_hosts_that_are_not_there_are_told_in_lines_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `plan` says of a host folds."""
    terminal = terminal_of(monkeypatch)
    _show_plan(Settings(), {"missing": ["edge-of-a-far-away-site"]})
    assert terminal.getvalue().startswith("eddy: edge-of-a-far-away-site is not there")
    assert fits(terminal.getvalue())


def test_the_hint_of_a_query_that_found_nothing_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SINCE would find is told in lines that fit."""

    async def late(*_: object) -> tuple[int, int, bool]:
        return 1_234, NOW_NS - 1, False

    monkeypatch.setattr(stored, "_late", late)
    terminal = terminal_of(monkeypatch)
    asyncio.run(stored.tell_nothing(None, compile_statement("SELECT * SINCE 1h", now_ns=NOW_NS)))  # type: ignore[arg-type]
    assert terminal.getvalue().startswith("eddy: nothing found since ")
    assert fits(terminal.getvalue())


def test_errors_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of what there is, and what click says of wrong usage, fit; in a pipe they are one line."""
    whole = CliRunner().invoke(main, ["describe", "nosuch"])
    assert whole.stderr.count("\n") == 1
    terminal = terminal_of(monkeypatch)
    for arguments in (["describe", "nosuch"], ["doctor", "--no-such-option-" + "x" * 40]):
        terminal.truncate(0)
        terminal.seek(0)
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == group.WRONG_USAGE
        assert fits(terminal.getvalue())


def test_a_finding_folds_below_its_text() -> None:
    """The verdict stands alone in front; its colour does not count."""
    finding = Finding("journal", Verdict.WARNING, SENTENCE, "do something")
    plain = line(finding, colour=False, width=80)
    assert fits(plain, " " * 9)
    coloured = line(finding, colour=True, width=80)
    assert coloured.count("\n") == plain.count("\n")
    assert coloured.endswith(plain.removeprefix("warning"))
    assert "\n" not in line(finding, colour=False)


def test_lines_of_a_plan_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part has the colour of its line; in a step, the reason folds."""
    terminal = terminal_of(monkeypatch)
    show_lines(["+ connect edge " + SENTENCE.strip()], colour=False)
    Steps(Settings()).show({"step": "refused", "error": SENTENCE.strip()})
    shown = terminal.getvalue().split("refused")
    assert fits(shown[0])
    assert fits("refused" + shown[1])


@pytest.mark.parametrize("one", inventory(), ids=lambda one: f"{one.kind}-{one.name}".replace(" ", "_"))
def test_descriptions_fold_and_their_configuration_can_still_be_used(one: Described) -> None:
    """Sentences and comments fit 80 characters; settings and payloads are as in a pipe; the TOML says the same."""
    whole, folded = (description(one, colour=False, width=width) for width in (0, 80))
    assert [word for word in whole.split() if word != "#"] == [word for word in folded.split() if word != "#"]
    tables = [text[text.index("\n[agents.") + 1 :].split("\n\nExample:")[0] for text in (whole, folded)]
    assert tomllib.loads(tables[0]) == tomllib.loads(tables[1])
    for each in folded.split("\n\nExample:")[0].split("\n"):
        assert cell_len(each) <= 80 or " = " in each, each
