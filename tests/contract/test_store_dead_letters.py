"""store.DeadLetters, sentence by sentence, on every database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from contract.store_suite import Clock, a_letter, unique
from nx_signal.model import DeadLetter
from nx_signal.store import Database, DeadLetters


@pytest.fixture
def letters(database: Database) -> DeadLetters:
    return database.dead_letters


@pytest.fixture
def topic() -> str:
    return unique("topic")


async def listed(letters: DeadLetters, topic: str) -> list[DeadLetter]:
    return [letter for letter in await letters.page(1000, None) if letter.position.topic == topic]


async def test_a_letter_is_read_back_as_it_was(letters: DeadLetters, topic: str, clock: Clock) -> None:
    letter = a_letter(1, topic, value=bytes(range(256)), headers={"a": b"", "b": b"\xff\0"})
    await letters.add([letter])
    (stored,) = await listed(letters, topic)
    assert stored == replace(letter, id=stored.id, created_at=clock())
    assert stored.id > 0
    assert await letters.get(stored.id) == stored


async def test_a_letter_without_key_or_headers_or_value_is_kept(letters: DeadLetters, topic: str) -> None:
    await letters.add([a_letter(1, topic, key=None, headers={}, value=b"")])
    (stored,) = await listed(letters, topic)
    assert (stored.key, stored.headers, stored.value) == (None, {}, b"")


async def test_the_first_error_of_a_position_stays(letters: DeadLetters, topic: str, clock: Clock) -> None:
    await letters.add([a_letter(1, topic, error="first"), a_letter(1, topic, error="in the same call")])
    before = await listed(letters, topic)
    clock.tick()
    await letters.add([a_letter(1, topic, error="second"), a_letter(2, topic)])
    after = await listed(letters, topic)
    assert [letter.position.offset for letter in after] == [2, 1]
    assert after[1:] == before
    assert before[0].error == "first"
    await letters.add([])


async def test_another_value_at_the_same_position_is_kept_also_from_one_call(
    letters: DeadLetters, topic: str
) -> None:
    for _ in range(2):
        await letters.add([a_letter(1, topic, value=b"a"), a_letter(1, topic, value=b"b")])
        found = [each for each in await letters.page(1_000, None) if each.position.topic.startswith(topic)]
        assert sorted(each.value for each in found) == [b"a", b"b"]
        assert sorted(each.position.topic == topic for each in found) == [False, True]


async def test_letters_of_other_partitions_and_topics_are_others(letters: DeadLetters, topic: str) -> None:
    position = a_letter(1, topic).position
    elsewhere = unique("elsewhere")
    await letters.add(
        [
            a_letter(1, topic),
            a_letter(1, topic, position=replace(position, partition=4)),
            a_letter(1, topic, position=replace(position, topic=elsewhere)),
        ]
    )
    assert len(await listed(letters, topic)) == 2
    assert len(await listed(letters, elsewhere)) == 1


async def test_letters_are_paged_from_the_newest(letters: DeadLetters, topic: str, clock: Clock) -> None:
    await letters.add([a_letter(0, topic), a_letter(1, topic)])
    clock.tick(-5000)
    await letters.add([a_letter(2, topic)])
    seen, before_id = [], None
    for _ in range(3):
        (letter,) = await letters.page(1, before_id)
        seen.append(letter.position.offset)
        before_id = letter.id
    assert seen == [2, 1, 0]
    assert len(await letters.page(1, 10**40)) == 1
    assert list(await letters.page(1, 0)) == list(await letters.page(1, -(10**40))) == []


async def test_a_letter_that_failed_again_says_why_and_is_otherwise_the_same(
    letters: DeadLetters, topic: str, clock: Clock
) -> None:
    await letters.add([a_letter(1, topic), a_letter(2, topic)])
    second, first = await listed(letters, topic)
    clock.tick()
    assert await letters.set_error(first.id, "another reason") is True
    assert await listed(letters, topic) == [second, replace(first, error="another reason")]
    assert await letters.set_error(first.id, "a\0b\ud800") is True
    assert await letters.remove(first.id) is True
    assert await letters.set_error(first.id, "gone") is False
    assert await letters.set_error(10**40, "never was") is False


async def test_a_removed_letter_is_gone_and_may_come_again(letters: DeadLetters, topic: str) -> None:
    await letters.add([a_letter(1, topic), a_letter(2, topic)])
    second, first = await listed(letters, topic)
    assert await letters.remove(first.id) is True
    assert await letters.remove(first.id) is False
    assert await letters.get(first.id) is None
    assert await listed(letters, topic) == [second]
    await letters.add([a_letter(1, topic)])
    again = (await listed(letters, topic))[0]
    assert again.position == first.position
    assert again.id > second.id


@pytest.mark.parametrize("id", [0, -1, 2**63, 10**40])
async def test_an_id_that_is_no_letters_gives_none(letters: DeadLetters, topic: str, id: int) -> None:
    await letters.add([a_letter(1, topic)])
    assert await letters.get(id) is None
    assert await letters.remove(id) is False


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "\udcff raw", "x" * 300_000, ""])
async def test_whatever_could_not_be_handled_can_be_set_aside(
    letters: DeadLetters, topic: str, text: str
) -> None:
    """What a dead letter holds is hostile by nature, and there is nowhere else to put it."""
    letter = a_letter(1, topic, key=text, error=text, headers={text: b"x"}, value=b"\0\xff")
    await letters.add([letter, a_letter(2, topic)])
    after, stored = await listed(letters, topic)
    assert (stored.key, stored.value, stored.headers) == (text, b"\0\xff", {text: b"x"})
    assert await letters.get(stored.id) == stored
    assert after.position.offset == 2


async def test_a_letters_own_time_is_kept(letters: DeadLetters, topic: str, clock: Clock) -> None:
    failed_at = clock() - timedelta(hours=1)
    await letters.add([a_letter(1, topic, created_at=failed_at)])
    assert (await listed(letters, topic))[0].created_at == failed_at


_years = count(1)


async def added(
    letters: DeadLetters, topic: str, many: int, clock: Clock, **changes: Any
) -> list[DeadLetter]:
    """One letter each day, later than those of the other tests; newest first."""
    clock.tick(next(_years) * 366 * 86_400_000)
    for offset in range(many):
        await letters.add([a_letter(offset, topic, **changes)])
        clock.tick(86_400_000)
    return await listed(letters, topic)


async def removed(letters: DeadLetters, upto: int | None, limit: int = 100) -> int:
    return 0 if upto is None else await letters.remove_up_to(upto, limit)


async def test_letters_beyond_a_number_go_the_oldest_first_and_by_portions(
    letters: DeadLetters, topic: str, clock: Clock
) -> None:
    before = await added(letters, topic, 7, clock)
    upto = await letters.excess(None, 4, 10**9)
    assert upto == before[4].id
    while await removed(letters, upto, 2):
        pass
    assert await listed(letters, topic) == before[:4] == list(await letters.page(100, None))
    assert await letters.excess(None, 4, 10**9) is None


async def test_letters_beyond_a_total_size_go_the_oldest_first(
    letters: DeadLetters, topic: str, clock: Clock
) -> None:
    before = await added(letters, topic, 5, clock, value=b"x" * 1000, key="k" * 1000)
    assert await letters.excess(None, 10**6, 7_000) == before[3].id
    await removed(letters, before[3].id)
    assert await listed(letters, topic) == before[:3]
    assert await letters.excess(None, 10**6, 7_000) is None


async def test_letters_beyond_an_age_go(letters: DeadLetters, topic: str, clock: Clock) -> None:
    before = await added(letters, topic, 5, clock)
    upto = await letters.excess(clock() - timedelta(days=2), 10**6, 10**9)
    await removed(letters, upto, 10_000)
    assert await listed(letters, topic) == before[:2]
    assert await letters.excess(clock() - timedelta(days=2), 10**6, 10**9) is None


async def test_each_member_of_a_batch_is_a_letter_of_its_own(letters: DeadLetters, topic: str) -> None:
    whole = a_letter(1, topic)
    members = [
        replace(whole, position=replace(whole.position, member=n), value=b"%d" % n) for n in (0, 1, 10)
    ]
    await letters.add([whole, *members])
    await letters.add(members)
    assert [letter.position.member for letter in await listed(letters, topic)] == [10, 1, 0, None]


async def test_another_member_at_the_same_place_is_kept_as_well(letters: DeadLetters, topic: str) -> None:
    member = replace(a_letter(1, topic), position=replace(a_letter(1, topic).position, member=2))
    await letters.add([member])
    await letters.add([replace(member, value=b"another")])
    found = [letter for letter in await letters.page(1000, None) if letter.position.topic.startswith(topic)]
    assert [(letter.position.topic == topic, letter.position.member) for letter in found] == [
        (False, 2), (True, 2),
    ]  # fmt: skip
