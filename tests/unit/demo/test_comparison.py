"""The comparison fails exactly when something is missing, doubled or from nowhere, and names it."""

from collections import Counter

import pytest

from demo.comparison import Check, Contents, Entry, compare, minutes_expected, table

MINUTE = 60_000_000
A, B = "content-a", "content-b"


def entry(offset, minute, *, partition=0, content=A, kafka_minute=None, event_id=None, target=None):
    kafka_ms = (minute if kafka_minute is None else kafka_minute) * 60_000
    return Entry(partition, offset, kafka_ms, event_id or f"{partition}-{offset}", content, minute * MINUTE, target)


def test_equal_bags_agree():
    check = compare("ids", Counter("abc"), Counter("cba"))
    assert check.agrees
    assert (check.expected, check.found, check.differences) == (3, 3, "")


@pytest.mark.parametrize(
    ("found", "differences"),
    [
        (Counter("ab"), "1 missing: c"),
        (Counter("abcc"), "1 doubled: c (2 of 1)"),
        (Counter("abcd"), "1 unexpected: d"),
        (Counter("aab"), "1 missing: c; 1 doubled: a (2 of 1)"),
        (Counter(), "3 missing: a, b, c"),
    ],
)
def test_every_difference_is_named(found, differences):
    check = compare("ids", Counter("abc"), found)
    assert not check.agrees
    assert check.differences == differences


def test_a_missing_and_a_doubled_event_do_not_cancel_out():
    assert not compare("ids", Counter("ab"), Counter("bb")).agrees


def test_counts_that_are_too_small_are_missing():
    check = compare("minutes", {(A, 7): 3}, {(A, 7): 2})
    assert check.differences == f"1 missing: {A} 7 (2 of 3)"


def test_only_the_first_of_many_differences_are_listed():
    check = compare("ids", Counter(range(10)), Counter())
    assert check.differences.startswith("10 missing: 0, 1, 2, 3, 4 and 5 more")


def test_what_could_not_be_read_does_not_agree():
    assert not Check("ids", 0, 0, unknown="could not be read: it is away").agrees
    assert table([Check("ids", 0, 0, unknown="away")]).row_count == 1


def test_what_parse_refused_is_expected_nowhere():
    contents = Contents([entry(0, 1), entry(1, 1)], {"parse": frozenset({(0, 1)})})
    assert contents.ids("bigquery") == Counter(["0-0"])
    assert contents.ids("partner") == Counter(["0-0"])


def test_what_one_destination_refused_is_expected_at_the_others():
    contents = Contents([entry(0, 1), entry(1, 1)], {"partner": frozenset({(0, 1)})})
    assert contents.ids("partner") == Counter(["0-0"])
    assert contents.ids("bigquery") == Counter(["0-0", "0-1"])


def test_a_replayed_event_is_expected_at_its_own_destination_only():
    contents = Contents([entry(0, 1, event_id="x"), entry(5, 1, event_id="x", target="partner")])
    assert contents.ids("partner") == Counter({"x": 2})
    assert contents.ids("bigquery") == Counter({"x": 1})
    assert minutes_expected(contents, lateness_s=600, since_minute=0) == {(A, 1): 1}


def test_minutes_are_counted_by_content_over_all_partitions():
    contents = Contents([entry(0, 5), entry(1, 5, content=B), entry(0, 5, partition=1), entry(2, 5, content=None)])
    assert minutes_expected(contents, lateness_s=600, since_minute=0) == {(A, 5): 2, (B, 5): 1}


def test_an_event_is_late_from_the_first_microsecond_after_the_lateness():
    """The watermark before it must be below the end of its minute plus the lateness."""
    border_ms = (1 + 1) * 60_000 + 600_000
    for watermark_ms, counted in ((border_ms - 1, 1), (border_ms, 0)):
        first = Entry(0, 0, watermark_ms, "first", B, watermark_ms * 1000)
        contents = Contents([first, entry(1, 1, kafka_minute=12)])
        assert minutes_expected(contents, lateness_s=600, since_minute=0).get((A, 1), 0) == counted


def test_an_event_from_the_future_does_not_drag_the_watermark():
    ahead = Entry(0, 0, 60_000, "ahead", B, 30 * MINUTE)
    contents = Contents([ahead, entry(1, 1)])
    assert minutes_expected(contents, lateness_s=600, since_minute=0)[A, 1] == 1


def test_the_watermark_belongs_to_one_partition():
    contents = Contents([entry(0, 100), entry(0, 1, partition=1)])
    assert minutes_expected(contents, lateness_s=600, since_minute=0) == {(A, 100): 1, (A, 1): 1}


def test_old_minutes_are_left_out():
    assert minutes_expected(Contents([entry(0, 5), entry(1, 9)]), lateness_s=600, since_minute=6) == {(A, 9): 1}
