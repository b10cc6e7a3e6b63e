"""The journal accepts what a client was promised and nothing else."""

from __future__ import annotations

import pytest

from tests.crash.journal import SECTOR_BYTES, ZEROES, Journal, Lost, sector_content


@pytest.fixture
def journal() -> Journal:
    journal = Journal(8)
    journal.acknowledge(1, 0, 4)
    return journal


def test_acknowledged_content_is_accepted(journal: Journal) -> None:
    journal.check(0, journal.payload(1, 0, 4) + ZEROES * 4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lost", ZEROES),
        ("another write's", sector_content(2, 0)),
        ("another sector's", sector_content(1, 1)),
        ("torn inside", sector_content(1, 0)[:256] + bytes(256)),
    ],
)
def test_other_content_is_refused(journal: Journal, name: str, content: bytes) -> None:
    with pytest.raises(Lost, match="sector 0"):
        journal.check(0, content)


def test_write_that_was_never_sent_is_refused_in_empty_sectors(journal: Journal) -> None:
    with pytest.raises(Lost, match="sector 5"):
        journal.check(5, sector_content(9, 5))


def test_unknown_outcome_is_old_or_new_sector_by_sector(journal: Journal) -> None:
    journal.lose_answer(2, 0, 2)
    journal.check(0, sector_content(2, 0) + sector_content(1, 1))


def test_unknown_outcome_is_decided_by_the_first_read(journal: Journal) -> None:
    journal.lose_answer(2, 0, 1)
    journal.check(0, sector_content(1, 0))
    with pytest.raises(Lost):
        journal.check(0, sector_content(2, 0))


def test_lost_answer_of_a_trim_allows_zeroes_only_where_it_was(journal: Journal) -> None:
    journal.lose_answer(0, 0, 1)
    journal.check(0, ZEROES)
    with pytest.raises(Lost, match="sector 1"):
        journal.check(1, ZEROES)


def test_copy_is_independent(journal: Journal) -> None:
    snapshot = journal.copy()
    journal.acknowledge(3, 0, 1)
    snapshot.check(0, sector_content(1, 0))
    journal.check(0, sector_content(3, 0))
    assert len(ZEROES) == SECTOR_BYTES
