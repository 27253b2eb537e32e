"""Where the reading of a partition starts: plain logic over what the broker and the store have of it."""

from __future__ import annotations

from collections.abc import Mapping

from nx_signal.ports import Gap, SourcePosition


def start_of(
    where: tuple[str, int],
    *,
    committed: int | None,
    kept: SourcePosition | None,
    topic_id: str | None,
    beginning: int,
    end: int,
    fallback: str,
) -> tuple[int, Gap | None]:
    """(the offset of the next record to read, what was left out or is read again for it)

    `where`: (topic, partition). `committed`: the group's offset at the broker, or the one that it refused.
    `kept`: what the store has of this partition; None for one that was added since the group began.
    `topic_id`: the topic's now, None where the broker has none. `fallback`: `latest` or `earliest`, for a
    group that never read."""
    if kept is None and committed is None:
        return beginning, None
    if kept is not None and kept.topic_id and topic_id and kept.topic_id != topic_id:
        return beginning, _gap(where, "topic_made_anew", beginning)
    known = committed
    if known is None and kept is not None:
        known = kept.next_offset
    if known is None:
        return (end if fallback == "latest" else beginning), None
    if known < beginning:
        return beginning, _gap(where, "retention", beginning, beginning - known)
    if known > end:
        # Records were lost from the end, and others may have their offsets since. What was there before this
        # group began is not new to anyone.
        first = kept.first_offset if kept is not None and kept.topic_id else None
        start = beginning if first is None or not beginning <= first <= end else first
        return start, _gap(where, "end_moved_back", start)
    return known, None


def unreadable(where: tuple[str, int], first: int, end: int, error: Exception, *, too_large: bool) -> Gap:
    """The batch from `first` up to `end` is passed over."""
    topic, partition = where
    many = "1 record" if end - first == 1 else f"{end - first} records"
    again = "in smaller batches" if too_large else "and check the broker's disk"
    return Gap(
        "kafka",
        "unreadable",
        end - first,
        f"Kafka's topic {topic}, partition {partition}: {many} from offset {first} on cannot be read "
        f"({error}), and reading went on at {end}. Have them sent again{'' if too_large else ','} {again}.",
    )


def standing(topic: str, refused: Mapping[int, str]) -> Gap:
    """`refused`: by partition, the name of the broker's error."""
    partitions = ", ".join(f"{partition} ({refused[partition]})" for partition in sorted(refused))
    return Gap(
        "kafka",
        "standing",
        0,
        f"Kafka's topic {topic}: the broker refuses to be read from partition {partitions}. Check the "
        "broker's log and disk; reading goes on where it stopped.",
    )


def _gap(where: tuple[str, int], reason: str, goes_on_at: int, lost: int = 0) -> Gap:
    topic, partition = where
    place = f"Kafka's topic {topic}, partition {partition}"
    match reason:
        case "retention":
            many = "1 record was" if lost == 1 else f"{lost} records were"
            text = (
                f"{place}: {many} removed by its retention unread; reading went on at offset {goes_on_at}, "
                "the first that is kept. Raise retention.ms, or find out why they were not read in time."
            )
        case "topic_made_anew":
            text = (
                f"{place}: the topic was deleted and made anew; it is read from its beginning, {goes_on_at}."
            )
        case _:
            text = (
                f"{place}: it ends before the offset that was read last, as after a restored cluster or an "
                f"unclean election; it is read again from {goes_on_at}, and nothing is notified twice."
            )
    return Gap("kafka", reason, lost, text)
