"""Text on its way to a terminal: safe, in units, in columns."""

from __future__ import annotations

from io import StringIO

import pytest

from eddy_mesh.cli.output import (
    Cell,
    Column,
    Table,
    chosen,
    duration_text,
    fitted,
    json_line,
    octets_text,
    printable,
    rate_text,
    sparing,
    table_text,
    time_of_day,
)
from eddy_mesh.cli.screen import fitting

DAY_NS = 86_400_000_000_000


@pytest.mark.parametrize("bad", ["\x1b[31m", "\x9b31m", "\r", "\u202e", "\x00", "\n", "\x7f"])
def test_control_characters_do_not_reach_the_terminal(bad: str) -> None:
    """No sequence from outside can command the terminal."""
    shown = printable(f"a{bad}b")
    assert shown.startswith("a\\")
    assert shown.endswith("b")
    assert shown.isascii()


def test_tabs_are_spaces_and_other_text_is_kept() -> None:
    """What people can read stays as it is."""
    assert printable("größe\t→ 世界") == "größe → 世界"


def test_json_lines_hold_no_c1_characters() -> None:
    """A line of JSON on a terminal says the same without characters that command it."""
    assert json_line('{"a":"\x9b31m\x7f"}'.encode()) == b'{"a":"\\u009b31m\\u007f"}'
    assert json_line('{"a":"ü"}'.encode()) == '{"a":"ü"}'.encode()


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (12, "12 ns"),
        (1_500, "1.5 us"),
        (1_250_000_000, "1.25 s"),
        (252_000_000_000, "4m 12s"),
        (3 * DAY_NS + 7_200_000_000_000, "3d 2h"),
        (0, "0 ns"),
    ],
)
def test_durations_are_said_in_the_nearest_unit(duration_ns: int, text: str) -> None:
    """A duration has about three digits and its unit."""
    assert duration_text(duration_ns) == text


@pytest.mark.parametrize(("octets", "text"), [(0, "0 B"), (999, "999 B"), (123456, "123 kB"), (5_000_000_000, "5 GB")])
def test_sizes_are_said_in_decimal_units(octets: int, text: str) -> None:
    """A size has about three digits and its unit."""
    assert octets_text(octets) == text


class Terminal(StringIO):
    """Text that goes to a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_a_last_cell_goes_on_in_further_lines_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that may wrap is shown whole, under its column; in a pipe every row is one line."""
    monkeypatch.setenv("COLUMNS", "40")
    for out, lines in ((Terminal(), 4), (StringIO(), 2)):
        table = Table([Column("a"), Column("b")], out, colour=False)
        table.add([Cell("x"), Cell("word " * 20, wraps=True)])
        shown = out.getvalue().splitlines()
        assert len(shown) == lines
        assert sum(line.count("word") for line in shown) == 20
        assert all(line.startswith("   word") for line in shown[2:])


@pytest.mark.parametrize(("rate", "text"), [(0, "0"), (0.25, "0.2"), (9.94, "9.9"), (12345.6, "12,346")])
def test_rates_show_whether_anything_moves(rate: float, text: str) -> None:
    """Small rates keep a digit, large ones are whole, nothing is 0."""
    assert rate_text(rate) == text


def test_times_have_the_day_only_where_it_is_another() -> None:
    """A time of today is the clock to the ms, one of another day has the date."""
    now_ns = 1_795_295_801_878_150_278
    assert len(time_of_day(now_ns, now_ns)) == len("21:16:41.878")
    assert len(time_of_day(now_ns - 3 * DAY_NS, now_ns)) == len("2026-11-18 21:16:41.878")
    assert time_of_day(10**30, now_ns).startswith("@")


def test_a_line_that_is_too_long_takes_from_the_last_column_first() -> None:
    """The last column gives until it has its least width, then the widest do, down to a least width too."""
    assert fitted([10, 20, 200], 80) == [10, 20, 46]
    assert sum(fitted([60, 60, 200], 100)) + 4 == 100
    assert fitted([60, 60, 200], 0) == [60, 60, 200]
    assert fitted([60, 60], 1) == [8, 8]


def test_columns_keep_their_least_and_fold_where_the_last_has_too_little() -> None:
    """A least width is kept where the line then is too long; one that folds does so only where it must."""
    columns = [Column("id", least=36), Column("time", folds=12), Column("what")]
    assert fitted([36, 23, 60], 100, columns) == [36, 23, 37]
    assert fitted([36, 23, 60], 80, columns) == [36, 12, 28]
    assert fitted([36, 23, 60], 30, columns) == [36, 12, 8]
    assert fitted([36, 12, 60], 0, columns) == [36, 12, 60]


def test_spare_columns_are_left_out_of_short_lines() -> None:
    """The last spare column goes first, the others stay as long as they fit; a line without end shows all."""
    columns = [Column("a"), Column("b", spare=True), Column("c"), Column("d", spare=True)]
    assert chosen(columns, [10, 10, 10, 10], 46) == [0, 1, 2, 3]
    assert chosen(columns, [10, 10, 10, 10], 45) == [0, 1, 2]
    assert chosen(columns, [10, 10, 10, 10], 5) == [0, 2]
    assert chosen(columns, [10, 10, 10, 10], 0) == [0, 1, 2, 3]


def test_columns_that_say_nothing_are_the_first_to_go() -> None:
    """A column of zeros and dashes is spare; one with a single number is not."""
    columns = [Column("a"), Column("b"), Column("c"), Column("d", spare=True)]
    rows = [[Cell("0"), Cell("0"), Cell("-"), Cell("x")], [Cell("0"), Cell("1"), Cell(""), Cell("y")]]
    assert [column.spare for column in sparing(columns, rows)] == [True, False, True, True]


def test_names_lose_their_middle_on_a_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose names begin alike can be told apart by their ends; other texts lose their end."""
    monkeypatch.setenv("COLUMNS", "34")
    out = Terminal()
    table = Table([Column("edge", middle=True), Column("what")], out, colour=False, hold=2)
    for name in ("raw@5 lines.raw > once", "raw@5 lines.raw > tw世界"):
        table.add([Cell(name), Cell("a sentence that is long")])
    table.flush()
    assert out.getvalue().splitlines()[1:] == [
        "raw@5 li… > once  a sentence that…",
        "raw@5 li… tw世界  a sentence that…",
    ]


def test_columns_keep_their_place_and_numbers_end_together() -> None:
    """Texts start and numbers end at the same place in each row, whatever came first."""
    columns = [Column("name"), Column("count", right=True), Column("what")]
    rows = [[Cell("a"), Cell("1"), Cell("x")], [Cell("longer"), Cell("1,000"), Cell("y\x1b")]]
    assert table_text(columns, rows, colour=False).splitlines() == [
        "name    count  what",
        "a           1  x",
        "longer  1,000  y\\x1b",
    ]


def test_a_table_that_is_shown_again_fits_its_screen() -> None:
    """Spare columns go and long texts give, so that what stands last is seen; what no screen holds is counted."""
    columns = [Column("name"), Column("spare", spare=True), Column("count", right=True)]
    rows = [[Cell("n" * 40), Cell("s"), Cell("1,000")], [Cell("m"), Cell("s"), Cell("2")]]
    shown = table_text(columns, rows, colour=False, width=30).splitlines()
    assert shown == [
        "name                     count",
        "nnnnnnnnnnnnnnnnnnnnnn…  1,000",
        "m                            2",
    ]
    assert fitting(shown, 4) == (shown[:2], 1)
    assert fitting(shown, 5) == (shown, 0)


def test_a_table_of_nothing_is_nothing() -> None:
    """Without rows there is no heading either."""
    assert table_text([Column("name")], [], colour=True) == ""


def test_colours_are_written_only_where_wanted() -> None:
    """The same row with and without colours has the same text."""
    plain, coloured = StringIO(), StringIO()
    for out, colour in ((plain, False), (coloured, True)):
        Table([Column("level")], out, colour=colour).add([Cell("error", "bad")])
    assert plain.getvalue() == "level\nerror\n"
    assert "\x1b[31merror\x1b[0m" in coloured.getvalue()
