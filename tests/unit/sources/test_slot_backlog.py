"""What is said of the log that a slot keeps."""

import pytest

from sources.slot_backlog import SlotBacklog

GB = 2**30


@pytest.mark.parametrize(
    ("backlog", "said", "used"),
    [
        (SlotBacklog(5 * GB, None, None, "reserved"), "", None),
        (SlotBacklog(GB // 2, GB // 2, GB, "extended"), "", 0.5),
        (SlotBacklog(GB, GB // 8, GB, "extended"), "keeps 1,024 MB of its log for slot s and gives", 0.875),
        (SlotBacklog(2 * GB, -GB, GB, "unreserved"), "after 0 MB more", 1.0),
        (SlotBacklog(None, None, GB, "lost"), "has given slot s up", 1.0),
    ],
)
def test_a_slot_that_is_about_to_be_given_up_is_named(backlog: SlotBacklog, said: str, used: float | None) -> None:
    assert said in backlog.trouble("s")
    assert bool(backlog.trouble("s")) == bool(said)
    assert backlog.used == used
