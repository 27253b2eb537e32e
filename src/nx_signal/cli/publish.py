"""`nx-signal publish`: activities from a file or a pipe to a server, or to Kafka."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import trio

from nx_signal.activities.event_type import one_line
from nx_signal.activities.message import event_type_of, unknown_type
from nx_signal.activities.repair import repaired, slices
from nx_signal.cli.exposure import warn_if_exposed
from nx_signal.cli.files import name_of, read_input
from nx_signal.cli.token import mint
from nx_signal.client.rest import Accepted, Rest, RestRefused, RestUnavailable, open_rest
from nx_signal.config import Settings
from nx_signal.errors import SettingsError, SignalError, SourceUnavailable, StoreRejected
from nx_signal.model.json import decode_json
from nx_signal.model.terminal import visible

MAX_BATCH_MESSAGES = 1_000
MAX_BATCH_BYTES = 1_000_000
"""Below the server's limit of one body (1 MiB), which brackets and commas count towards."""
TRIES = 5
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 30.0
TOKEN_TTL_S = 3600
UNAUTHORIZED = 401


class PublishFailed(SignalError):
    """Not all messages were accepted; the text gives the number that was."""


_NULL = msgspec.Raw(b"null")


class _Heading(msgspec.Struct, rename="camel"):
    """The fields that are read, of a message or of a CloudEvent; what is sent is unchanged."""

    event_id: msgspec.Raw = _NULL
    organizer_id: msgspec.Raw = _NULL
    event_type: msgspec.Raw = _NULL
    specversion: msgspec.Raw = _NULL
    id: msgspec.Raw = _NULL
    organizerid: msgspec.Raw = _NULL

    @property
    def identity(self) -> tuple[msgspec.Raw, msgspec.Raw]:
        """The event's id and the organizer's."""
        if self.specversion != _NULL and self.event_type == _NULL:
            return self.id, self.organizerid
        return self.event_id, self.organizer_id


class Message(msgspec.Struct, frozen=True):
    """`key`: Kafka's message key: the organizer's id where there is one."""

    key: str
    body: bytes
    event_id: str = ""


def run(settings: Settings, file: str, url: str | None, token: str | None, strict: bool) -> None:
    """Print how many were accepted, and their event ids; on stderr, the event types that are not known. With
    `strict` these are refused. Part of a failed run may have been accepted. Repeating it is safe for messages
    with an eventId; the others get one before the first try."""
    messages = read_messages(read_input(file), name_of(file))
    types = dict(settings.cloudevent_types)
    if settings.kafka_bootstrap_servers is not None and url is None:
        unknown = _unknown_here(messages, types)
        if unknown and strict:
            raise PublishFailed(f"Nothing was sent. {' '.join(unknown)}")
        accepted: Sequence[Accepted] = trio.run(_produce, settings, messages)
    else:
        token = token or mint(
            settings,
            "nx-signal-publish",
            ttl_s=TOKEN_TTL_S,
            permissions=["Activity.publish"],
            instead="pass one of that issuer with --token",
        )
        server = url or f"http://127.0.0.1:{settings.port}"
        warn_if_exposed("publish", server)
        accepted = trio.run(_post, server, token, messages, strict)
        refused = [m.body for m, one in zip(messages, accepted, strict=True) if one.unknown_type]
        named = dict.fromkeys(event_type_of(body, types) for body in refused)
        unknown = [f"The event type {type} is not known to the server." for type in named]
    print(f"accepted {len(accepted)}", *(visible(one.event_id) for one in accepted), sep="\n")
    for why in unknown:
        print(
            f"nx-signal publish: {one_line(why)} Its activities make no notification.",
            file=sys.stderr,
        )


def _unknown_here(messages: Sequence[Message], mapped: Mapping[str, str]) -> list[str]:
    """A sentence for each event type that is not among the installed ones."""
    from nx_signal.activities.loader import discover

    known = discover().names
    types = dict.fromkeys(event_type_of(message.body, mapped) for message in messages)
    return [unknown_type(type, known) for type in types if type is not None and type not in known]


def read_messages(raw: bytes, name: str) -> list[Message]:
    """One JSON object, a list of them, or one per line. Raises SettingsError with the position."""
    raw = raw.removeprefix(b"\xef\xbb\xbf").strip()
    if not raw:
        raise SettingsError(f"{name} is empty; it takes a message, a list, or one per line.")
    try:
        if raw.startswith(b"["):
            return [_message(item, f"{name}, [{i}]") for i, item in enumerate(slices(raw))]
        decode_json(repaired(raw)[0])
    except msgspec.DecodeError as error:
        lines = raw.splitlines()
        if raw.startswith(b"[") or not _is_json(lines[0]):
            raise SettingsError(f"{name} is not JSON: {error}.") from None
        return [_message(line, f"{name}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    return [_message(raw, name)]


def _is_json(line: bytes) -> bool:
    try:
        decode_json(repaired(line)[0])
    except msgspec.DecodeError:
        return False
    return True


def _message(body: bytes, where: str) -> Message:
    readable = repaired(body)[0]
    try:
        heading = decode_json(readable, _Heading)
        event_id, organizer = map(decode_json, heading.identity)
    except msgspec.ValidationError:
        raise SettingsError(f"{where}: a message is a JSON object.") from None
    except msgspec.DecodeError as error:
        raise SettingsError(f"{where} is not JSON: {error}.") from None
    if len(body) > MAX_BATCH_BYTES:
        raise SettingsError(f"{where}: the message is larger than {MAX_BATCH_BYTES} bytes.")
    if event_id is None:
        event_id = str(uuid.uuid4())
        body = _with_event_id(readable, event_id)
    return Message(str(organizer if isinstance(organizer, str) else event_id), body, str(event_id))


def _with_event_id(body: bytes, event_id: str) -> bytes:
    """The message with this eventId first. A null one is removed: the last of two equal keys would win."""
    fields = decode_json(body, dict[str, msgspec.Raw])
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


async def _post(url: str, token: str, messages: Sequence[Message], strict: bool) -> Sequence[Accepted]:
    accepted: list[Accepted] = []
    async with open_rest(url, token) as rest:
        for batch in batches(messages):
            try:
                accepted += await _post_batch(rest, [msgspec.Raw(message.body) for message in batch], strict)
            except (RestRefused, RestUnavailable) as error:
                so_far = _so_far(len(accepted), len(messages))
                raise PublishFailed(f"{error}{_hint(error)}{so_far}") from None
    return accepted


async def _post_batch(rest: Rest, batch: list[msgspec.Raw], strict: bool) -> Sequence[Accepted]:
    pause_s = FIRST_PAUSE_S
    for _ in range(TRIES - 1):
        try:
            return await rest.publish_all(batch, strict=strict)
        except RestUnavailable as error:
            await trio.sleep(min(error.retry_after_s or pause_s, MAX_PAUSE_S))
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
    return await rest.publish_all(batch, strict=strict)


async def _produce(settings: Settings, messages: Sequence[Message]) -> Sequence[Accepted]:
    from nx_signal.adapters.kafka.producer import open_producer
    from nx_signal.backends import kafka_security  # imports all adapters

    servers = settings.kafka_bootstrap_servers or ""
    accepted = 0
    async with open_producer(servers, settings.kafka_topic, kafka_security(settings)) as produce:
        for batch in batches(messages):
            try:
                await produce([(message.key, message.body) for message in batch])
            except (SourceUnavailable, StoreRejected) as error:
                raise PublishFailed(str(error) + _so_far(accepted, len(messages))) from None
            accepted += len(batch)
    return [Accepted(message.event_id) for message in messages]


def _hint(error: SignalError) -> str:
    if isinstance(error, RestRefused) and error.status == UNAUTHORIZED:
        return " Pass that server's --data-dir, or a --token that it takes."
    return ""


def _so_far(accepted: int, all: int) -> str:
    return f" {accepted} of {all} messages were accepted before that." if accepted else ""
