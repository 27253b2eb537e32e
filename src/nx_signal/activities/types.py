"""The event types that are shipped. Their texts are in `locales`.

Sister services vary: what may be absent may also be null, additional fields are let through, a wrong type
is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from nx_signal.activities.event_type import (
    Amount,
    EventType,
    Message,
    MessageArguments,
    Value,
    money,
    one_line,
)
from nx_signal.activities.fields import moment
from nx_signal.model import Activity, Json

Label: TypeAlias = str | int
"""a number or a name that a service identifies something by"""


class Payment(msgspec.Struct):
    amount: Amount
    currency: str | None = None
    subject: str | None = None


class PaymentData(msgspec.Struct):
    payment: Payment


class PaymentSuccess(EventType[PaymentData]):
    PLAIN = Message("payment_success.plain", ("amount", "when"))
    SUBJECT = Message("payment_success.subject", ("amount", "subject", "when"))

    name = "PAYMENT_SUCCESS"
    schema = PaymentData
    messages = (PLAIN, SUBJECT)
    examples = (
        {"payment": {"amount": 1250000}},
        {"payment": {"subject": "Order 42", "amount": "19.90", "currency": "USD"}},
    )

    def message_arguments(self, data: PaymentData, activity: Activity) -> MessageArguments:
        payment = data.payment
        values: dict[str, Value] = {
            "amount": money(payment.amount, payment.currency, "data.payment.amount"),
            "when": activity.occurred_at,
        }
        if subject := one_line(payment.subject):
            return MessageArguments(self.SUBJECT, values | {"subject": subject})
        return MessageArguments(self.PLAIN, values)


class Order(msgspec.Struct):
    number: Label | None = None
    id: Label | None = None
    total: Amount | None = None
    currency: str | None = None


class OrderData(msgspec.Struct):
    order: Order | None = None


class OrderCompleted(EventType[OrderData]):
    PLAIN = Message("order_completed.plain", ("when",))
    TOTAL = Message("order_completed.total", ("total", "when"))
    ORDER = Message("order_completed.order", ("order", "when"))
    ORDER_TOTAL = Message("order_completed.order_total", ("order", "total", "when"))

    name = "ORDER_COMPLETED"
    schema = OrderData
    messages = (PLAIN, TOTAL, ORDER, ORDER_TOTAL)
    examples = (
        {},
        {"order": {"total": 1250000}},
        {"order": {"number": 42}},
        {"order": {"id": "A-42", "total": "19.90", "currency": "USD"}},
    )

    def message_arguments(self, data: OrderData, activity: Activity) -> MessageArguments:
        order = data.order or Order()
        values: dict[str, Value] = {"when": activity.occurred_at}
        if label := one_line(order.number) or one_line(order.id):
            values["order"] = label
        if order.total is not None:
            values["total"] = money(order.total, order.currency, "data.order.total")
        if label:
            return MessageArguments(self.ORDER if order.total is None else self.ORDER_TOTAL, values)
        return MessageArguments(self.PLAIN if order.total is None else self.TOTAL, values)


class Inquiry(msgspec.Struct):
    subject: str | None = None
    name: str | None = None
    message: str | None = None


class InquiryData(msgspec.Struct):
    inquiry: Inquiry | None = None


class InquirySubmitted(EventType[InquiryData]):
    PLAIN = Message("inquiry_submitted.plain")
    NAME = Message("inquiry_submitted.name", ("name",))
    TOPIC = Message("inquiry_submitted.topic", ("topic",))
    NAME_TOPIC = Message("inquiry_submitted.name_topic", ("name", "topic"))

    name = "INQUIRY_SUBMITTED"
    schema = InquiryData
    messages = (PLAIN, NAME, TOPIC, NAME_TOPIC)
    examples = (
        {},
        {"inquiry": {"name": "Lan"}},
        {"inquiry": {"message": "Do you open on Sunday?"}},
        {"inquiry": {"name": "Lan", "subject": "Opening hours"}},
    )
    pushed_to_members = True

    def message_arguments(self, data: InquiryData, activity: Activity) -> MessageArguments:
        inquiry = data.inquiry or Inquiry()
        name, topic = one_line(inquiry.name), one_line(inquiry.subject) or one_line(inquiry.message)
        if name and topic:
            return MessageArguments(self.NAME_TOPIC, {"name": name, "topic": topic})
        if name:
            return MessageArguments(self.NAME, {"name": name})
        return MessageArguments(self.TOPIC, {"topic": topic}) if topic else MessageArguments(self.PLAIN, {})


class Device(msgspec.Struct):
    id: Label | None = None
    name: str | None = None


class DeviceData(msgspec.Struct):
    device: Device | None = None
    since: str | None = None


DEVICE_EXAMPLES: Sequence[Mapping[str, Json]] = (
    {},
    {"device": {"name": "POS 1"}, "since": "2026-01-01T09:30:00Z"},
)


class DeviceOffline(EventType[DeviceData]):
    PLAIN = Message("device_offline.plain", ("when",))
    DEVICE = Message("device_offline.device", ("device", "when"))

    name = "DEVICE_OFFLINE"
    schema = DeviceData
    messages = (PLAIN, DEVICE)
    examples = DEVICE_EXAMPLES

    def message_arguments(self, data: DeviceData, activity: Activity) -> MessageArguments:
        return _device_arguments(self.PLAIN, self.DEVICE, data, activity)


class DeviceOnline(EventType[DeviceData]):
    PLAIN = Message("device_online.plain", ("when",))
    DEVICE = Message("device_online.device", ("device", "when"))

    name = "DEVICE_ONLINE"
    schema = DeviceData
    messages = (PLAIN, DEVICE)
    examples = DEVICE_EXAMPLES

    def message_arguments(self, data: DeviceData, activity: Activity) -> MessageArguments:
        return _device_arguments(self.PLAIN, self.DEVICE, data, activity)


def _device_arguments(
    plain: Message, named: Message, data: DeviceData, activity: Activity
) -> MessageArguments:
    device = data.device or Device()
    when = moment(data.since, "data.since") if data.since else activity.occurred_at
    if label := one_line(device.name) or one_line(device.id):
        return MessageArguments(named, {"device": label, "when": when})
    return MessageArguments(plain, {"when": when})


SHIPPED: Sequence[EventType[Any]] = (
    PaymentSuccess(),
    OrderCompleted(),
    InquirySubmitted(),
    DeviceOffline(),
    DeviceOnline(),
)
