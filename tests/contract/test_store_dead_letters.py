"""ports.DeadLetters, sentence by sentence, on every store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from store_suite import Clock, a_letter, unique

from nx_signal.model import DeadLetter
from nx_signal.ports import Database, DeadLetters


@pytest.fixture
def letters(database: Database) -> DeadLetters:
    return database.dead_letters


@pytest.fixture
def topic() -> str:
    return unique("topic")


async def listed(letters: DeadLetters, topic: str) -> list[DeadLetter]:
    return [letter for letter in await letters.page(1000, None) if letter.position.topic == topic]


async def test_a_letter_is_read_back_as_it_was(letters: DeadLetters, topic: str, clock: Clock):
    letter = a_letter(1, topic, value=bytes(range(256)), headers={"a": b"", "b": b"\xff\0"})
    await letters.add([letter])
    (stored,) = await listed(letters, topic)
    assert stored == replace(letter, id=stored.id, created_at=clock())
    assert stored.id > 0
    assert await letters.get(stored.id) == stored


async def test_a_letter_without_key_or_headers_or_value_is_kept(letters: DeadLetters, topic: str):
    await letters.add([a_letter(1, topic, key=None, headers={}, value=b"")])
    (stored,) = await listed(letters, topic)
    assert (stored.key, stored.headers, stored.value) == (None, {}, b"")


async def test_the_first_error_of_a_position_stays(letters: DeadLetters, topic: str, clock: Clock):
    await letters.add([a_letter(1, topic, error="first"), a_letter(1, topic, error="in the same call")])
    before = await listed(letters, topic)
    clock.tick()
    await letters.add([a_letter(1, topic, error="second"), a_letter(2, topic)])
    after = await listed(letters, topic)
    assert [letter.position.offset for letter in after] == [2, 1]
    assert after[1:] == before
    assert before[0].error == "first"
    await letters.add([])


async def test_letters_of_other_partitions_and_topics_are_others(letters: DeadLetters, topic: str):
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


async def test_letters_are_paged_from_the_newest(letters: DeadLetters, topic: str, clock: Clock):
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
):
    await letters.add([a_letter(1, topic), a_letter(2, topic)])
    second, first = await listed(letters, topic)
    clock.tick()
    assert await letters.set_error(first.id, "another reason") is True
    assert await listed(letters, topic) == [second, replace(first, error="another reason")]
    assert await letters.set_error(first.id, "a\0b\ud800") is True
    assert await letters.remove(first.id) is True
    assert await letters.set_error(first.id, "gone") is False
    assert await letters.set_error(10**40, "never was") is False


async def test_a_removed_letter_is_gone_and_may_come_again(letters: DeadLetters, topic: str):
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
async def test_an_id_that_is_no_letters_gives_none(letters: DeadLetters, topic: str, id: int):
    await letters.add([a_letter(1, topic)])
    assert await letters.get(id) is None
    assert await letters.remove(id) is False


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "\udcff raw", "x" * 300_000, ""])
async def test_whatever_could_not_be_handled_can_be_set_aside(letters: DeadLetters, topic: str, text: str):
    """What a dead letter holds is hostile by nature, and there is nowhere else to put it."""
    letter = a_letter(1, topic, key=text, error=text, headers={text: b"x"}, value=b"\0\xff")
    await letters.add([letter, a_letter(2, topic)])
    after, stored = await listed(letters, topic)
    assert (stored.value, list(stored.headers.values())) == (b"\0\xff", [b"x"])
    assert await letters.get(stored.id) == stored
    assert after.position.offset == 2


async def test_a_letters_own_time_is_kept(letters: DeadLetters, topic: str, clock: Clock):
    failed_at = clock() - timedelta(hours=1)
    await letters.add([a_letter(1, topic, created_at=failed_at)])
    assert (await listed(letters, topic))[0].created_at == failed_at
