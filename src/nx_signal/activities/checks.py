"""What an event type must be, so that no activity of it fails for a mistake in the type."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources.abc import Traversable
from typing import Any

import msgspec

from nx_signal.activities.content import Rendered, Renderer
from nx_signal.activities.event_type import COUNT, EventType, Message, MessageArguments, Money, one_line
from nx_signal.activities.registry import Registry
from nx_signal.errors import MessageRejected, SettingsError
from nx_signal.model import LOCALES, Activity

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,99}")
_PLACEHOLDER = re.compile(r"[a-z_]+")
_CURRENCY = re.compile(r"[A-Z]{3}")


def check(event_type: object) -> Sequence[Rendered]:
    """Check a class of event type: its attributes, its catalogs, and each of its examples rendered in each
    language, with and without the optional fields of a message.

    Returns what the examples render to. Raises SettingsError with the first mistake and what corrects it."""
    if not (isinstance(event_type, type) and issubclass(event_type, EventType)):
        raise SettingsError("it is not a subclass of EventType; name the class itself.")
    _check_attributes(event_type)
    instance = _construct(event_type)
    _check_folder(instance)
    renderer = Renderer(Registry([instance]), "UTC")
    return tuple(_render_examples(instance, renderer))


def _check_attributes(cls: type[EventType[Any]]) -> None:
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise SettingsError(f"it does not implement {missing}; add that method.")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingsError(
            f"its `name` is {_described(name)}; set it to the eventType of its messages, at most 100 capital "
            "letters, digits and underscores that begin with a letter, such as STOCK_LOW."
        )
    schema = getattr(cls, "schema", None)
    if not (isinstance(schema, type) and issubclass(schema, msgspec.Struct)):
        raise SettingsError(
            f"{name}: its `schema` is {_described(schema)}; set it to a subclass of msgspec.Struct that "
            "describes the `data` of its messages."
        )
    _check_messages(name, getattr(cls, "messages", None))
    if not isinstance(cls.pushed_to_members, bool):
        raise SettingsError(f"{name}: its `pushed_to_members` is not a bool; set it to True or False.")
    examples = getattr(cls, "examples", None)
    if (
        not isinstance(examples, (list, tuple))
        or not examples
        or not all(isinstance(example, (Mapping, Activity)) for example in examples)
    ):
        raise SettingsError(
            f"{name}: its `examples` are {_described(examples)}; set them to a tuple of sample `data`, at "
            "least one for each message."
        )


def _check_messages(name: str, messages: object) -> None:
    if not isinstance(messages, (list, tuple)) or not messages:
        raise SettingsError(
            f"{name}: its `messages` are {_described(messages)}; set them to a tuple of all the Messages "
            "that it may choose from."
        )
    seen = set()
    for message in messages:
        if not isinstance(message, Message):
            raise SettingsError(f"{name}: its `messages` hold {_shown(message)}; each must be a Message.")
        if not isinstance(message.id, str) or not message.id:
            raise SettingsError(f"{name}: a message's id is {_described(message.id)}; set it to its msgid.")
        if message.id in seen:
            raise SettingsError(f"{name}: two messages have the id {message.id}; rename one of them.")
        seen.add(message.id)
        placeholders: object = message.placeholders
        if not isinstance(placeholders, tuple) or not all(
            isinstance(each, str) and _PLACEHOLDER.fullmatch(each) for each in placeholders
        ):
            raise SettingsError(
                f"{name}: the placeholders of {message.id} are {_described(placeholders)}; set them to a "
                'tuple of words in lower case, such as ("amount",).'
            )
        if len({*placeholders}) < len(placeholders):
            raise SettingsError(f"{name}: {message.id} declares a placeholder twice; remove one of them.")


def _construct(cls: type[EventType[Any]]) -> EventType[Any]:
    try:
        return cls()
    except Exception as error:  # code of another package
        raise SettingsError(
            f"{cls.name} cannot be constructed ({_error(error)}); let its constructor take no arguments and "
            "raise nothing."
        ) from error


def _check_folder(event_type: EventType[Any]) -> None:
    name = event_type.name
    try:
        folder: object = event_type.locales()
        exists = isinstance(folder, Traversable) and folder.is_dir()
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from None
    except Exception as error:  # code of another package
        raise SettingsError(f"{name}: its locales() raises {_error(error)}; correct it.") from error
    if not isinstance(folder, Traversable):
        raise SettingsError(f"{name}: its locales() returns {_shown(folder)}; return a Traversable.")
    if not exists:
        raise SettingsError(
            f"{name}: the folder {folder} does not exist; add it to the package, and its *.po files to the "
            "package's data."
        )


def _render_examples(event_type: EventType[Any], renderer: Renderer) -> Iterator[Rendered]:
    name = event_type.name
    chosen = set()
    for number, example in enumerate(event_type.examples, 1):
        where = f"{name}: example {number}"
        full = example if isinstance(example, Activity) else _activity(name, example)
        variants = [full]
        if not isinstance(example, Activity):
            variants.append(replace(full, scope="users", actor={}, merchant_id=None, subject=None))
        for activity in variants:
            try:
                arguments: object = event_type.message_arguments(event_type.read(activity.data), activity)
            except MessageRejected as error:
                if activity is full:
                    raise SettingsError(f"{where} is refused ({error}); correct the example.") from None
                continue  # the type may require what is optional for others
            except Exception as error:  # code of another package
                bare = "" if activity is full else " where actor, merchantId and subject are absent"
                raise SettingsError(f"{where} raises {_error(error)}{bare}; correct the type.") from error
            chosen.add(_check_arguments(where, event_type, arguments).id)
            for locale in LOCALES:
                try:
                    rendered = renderer.render(activity, locale)
                except Exception as error:  # code of another package
                    raise SettingsError(
                        f"{where} cannot be rendered in {locale} ({_error(error)}); correct the type."
                    ) from error
                if activity is full:
                    yield rendered
    for message in event_type.messages:
        if message.id not in chosen:
            raise SettingsError(f"{name}: none of its examples leads to {message.id}; add one that does.")


def _check_arguments(where: str, event_type: EventType[Any], arguments: object) -> Message:
    if not isinstance(arguments, MessageArguments):
        raise SettingsError(
            f"{where}: message_arguments returns {_shown(arguments)}; return MessageArguments."
        )
    message, values = arguments.message, arguments.values
    if message not in event_type.messages:
        listed = message.id if isinstance(message, Message) else _shown(message)
        raise SettingsError(f"{where}: the message {listed} is not in `messages`; add it there.")
    if not isinstance(values, Mapping):
        raise SettingsError(f"{where}: the values of {message.id} are {_shown(values)}; use a dict.")
    if missing := sorted({*message.placeholders} - {*values}):
        raise SettingsError(
            f"{where}: {message.id} is not given its placeholder {missing[0]}; add the value in "
            "message_arguments."
        )
    if unknown := sorted({*map(str, values)} - {*message.placeholders}):
        raise SettingsError(
            f"{where}: {message.id} is given {unknown[0]}, which is not among its placeholders; declare it "
            "in the Message or leave it out."
        )
    for placeholder, value in values.items():
        if mistake := _mistake_of(placeholder, value):
            raise SettingsError(f"{where}: the placeholder {placeholder} of {message.id} is {mistake}")
    return message


def _mistake_of(placeholder: str, value: object) -> str | None:
    if placeholder == COUNT and (not isinstance(value, int) or isinstance(value, bool)):
        return f"{_shown(value)}; it picks the plural form and must be an int."
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal, datetime, Money)):
        return f"{_shown(value)}; use a str, an int, a Decimal, an aware datetime or money()."
    if isinstance(value, datetime) and value.tzinfo is None:
        return "a datetime without a time zone; use an aware one, such as moment() returns."
    if isinstance(value, Decimal) and not value.is_finite():
        return "not a finite number; use a finite one."
    if isinstance(value, Money) and not (
        isinstance(value.amount, Decimal)
        and value.amount.is_finite()
        and isinstance(value.currency, str)
        and _CURRENCY.fullmatch(value.currency)
    ):
        return "not a Decimal with a currency of three capital letters; make it with money()."
    return None


def _activity(type: str, data: Mapping[str, Any]) -> Activity:
    """One with every optional field."""
    return Activity(
        id="example",
        type=type,
        scope="merchant",
        actor_id="u1",
        actor={"id": "u1", "name": "Mai", "type": "USER"},
        organizer_id="o1",
        merchant_id="m1",
        recipient_ids=(),
        data=dict(data),
        subject="s1",
        occurred_at=datetime(2026, 1, 1, 10, tzinfo=UTC),
    )


def _described(value: object) -> str:
    """Of an attribute; None where the class does not have it."""
    if value is None:
        return "missing"
    if isinstance(value, (list, tuple)) and not value:
        return "empty"
    return _shown(value)


def _shown(value: object) -> str:
    return one_line(repr(value))


def _error(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {error}")
