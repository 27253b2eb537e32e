"""`nx-signal publish`: activities from a file or a pipe to a server, or to Kafka."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

import msgspec
import trio

from nx_signal.cli.files import name_of, read_input
from nx_signal.cli.token import mint
from nx_signal.client.rest import Rest, RestRefused, RestUnavailable, open_rest
from nx_signal.config import Settings
from nx_signal.errors import SettingsError, SignalError, SourceUnavailable, StoreRejected

MAX_BATCH_MESSAGES = 1_000
MAX_BATCH_BYTES = 1_000_000
"""A little below what the server takes in one body (1 MiB): brackets and commas come on top."""
TRIES = 5
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
TOKEN_TTL_S = 3600
UNAUTHORIZED = 401


class PublishFailed(SignalError):
    """Not everything went out; says what did."""


class _Heading(msgspec.Struct, rename="camel"):
    """What is looked at; the message itself goes out as it came in."""

    event_id: msgspec.Raw = msgspec.Raw(b"null")
    organizer_id: msgspec.Raw = msgspec.Raw(b"null")


class Message(msgspec.Struct, frozen=True):
    """`key`: what orders messages among each other in Kafka, the organizer where it is known."""

    key: str
    body: bytes


def run(settings: Settings, file: str, url: str | None, token: str | None) -> None:
    """Say how many were accepted. Some of a failed run may have been: its messages keep their eventId,
    so it can be repeated; those without one get theirs before the first try."""
    messages = read_messages(read_input(file), name_of(file))
    if settings.kafka_bootstrap_servers is not None and url is None:
        accepted = trio.run(_produce, settings, messages)
    else:
        token = token or mint(
            settings,
            "nx-signal-publish",
            ttl_s=TOKEN_TTL_S,
            permissions=["Activity.publish"],
            instead="pass one of that issuer with --token",
        )
        accepted = trio.run(_post, url or f"http://127.0.0.1:{settings.port}", token, messages)
    print(f"accepted {accepted}")


def read_messages(raw: bytes, name: str) -> list[Message]:
    """One JSON object, a list of them, or one a line. Raises SettingsError that names the place."""
    raw = raw.removeprefix(b"\xef\xbb\xbf").strip()
    if not raw:
        raise SettingsError(f"{name} is empty; it takes a message, a list, or one a line.")
    try:
        if raw.startswith(b"["):
            items = msgspec.json.decode(raw, type=list[msgspec.Raw])
            return [_message(bytes(item), f"{name}, [{i}]") for i, item in enumerate(items)]
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        lines = raw.splitlines()
        if raw.startswith(b"[") or not _is_json(lines[0]):
            raise SettingsError(f"{name} is no JSON: {error}.") from None
        return [_message(line, f"{name}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    return [_message(raw, name)]


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def _message(body: bytes, where: str) -> Message:
    try:
        heading = msgspec.json.decode(body, type=_Heading)
        event_id, organizer = msgspec.json.decode(heading.event_id), msgspec.json.decode(heading.organizer_id)
    except msgspec.ValidationError:
        raise SettingsError(f"{where}: a message is a JSON object.") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise SettingsError(f"{where} is no JSON: {error}.") from None
    if len(body) > MAX_BATCH_BYTES:
        raise SettingsError(f"{where}: the message is larger than {MAX_BATCH_BYTES} bytes.")
    if event_id is None:
        event_id = str(uuid.uuid4())
        body = _with_event_id(body, event_id)
    return Message(str(organizer if isinstance(organizer, str) else event_id), body)


def _with_event_id(body: bytes, event_id: str) -> bytes:
    """Put first, and a null one taken away: a repeated key would win over ours."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields.pop("eventId", None)
    return msgspec.json.encode({"eventId": event_id, **fields})


def batches(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """In order, each within both limits of a request."""
    batch: list[Message] = []
    size = 0
    for message in messages:
        if batch and (len(batch) == MAX_BATCH_MESSAGES or size + len(message.body) + 1 > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += len(message.body) + 1
    if batch:
        yield batch


async def _post(url: str, token: str, messages: Sequence[Message]) -> int:
    accepted = 0
    async with open_rest(url, token) as rest:
        for batch in batches(messages):
            try:
                accepted += len(await _post_batch(rest, [msgspec.Raw(message.body) for message in batch]))
            except (RestRefused, RestUnavailable) as error:
                raise PublishFailed(f"{error}{_hint(error)}{_so_far(accepted, len(messages))}") from None
    return accepted


async def _post_batch(rest: Rest, batch: list[msgspec.Raw]) -> Sequence[str]:
    pause_s = FIRST_PAUSE_S
    for _ in range(TRIES - 1):
        try:
            return await rest.publish(batch)
        except RestUnavailable as error:
            await trio.sleep(min(error.retry_after_s or pause_s, LONGEST_PAUSE_S))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    return await rest.publish(batch)


async def _produce(settings: Settings, messages: Sequence[Message]) -> int:
    from nx_signal.adapters.kafka_producer import open_producer
    from nx_signal.service import kafka_security  # all the adapters: only now

    servers = settings.kafka_bootstrap_servers or ""
    accepted = 0
    async with open_producer(servers, settings.kafka_topic, kafka_security(settings)) as produce:
        for batch in batches(messages):
            try:
                await produce([(message.key, message.body) for message in batch])
            except (SourceUnavailable, StoreRejected) as error:
                raise PublishFailed(str(error) + _so_far(accepted, len(messages))) from None
            accepted += len(batch)
    return accepted


def _hint(error: SignalError) -> str:
    if isinstance(error, RestRefused) and error.status == UNAUTHORIZED:
        return " Pass that server's --data-dir, or a --token that it takes."
    return ""


def _so_far(accepted: int, all: int) -> str:
    return f" {accepted} of {all} messages were accepted before that." if accepted else ""
