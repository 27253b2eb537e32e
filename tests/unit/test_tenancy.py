"""Two tenants' clients never receive each other's frames, whatever they join and whatever is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from nx_signal.adapters.local_relay import LocalRelay
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.delivery.compose import compose_delivery
from nx_signal.model import Draft, Member, Organizer, RelayMessage, Roster
from nx_signal.ports import RelayEvent
from nx_signal.telemetry.metrics import Metrics
from stream_kit import FakeClient

TENANTS = ("red", "blue")
SHOPS = ("1", "2")
USERS = tuple(f"{tenant}-{n}" for tenant in TENANTS for n in range(3))

ROOMS = [
    *(f"signal/organizer/{tenant}" for tenant in TENANTS),
    *(f"signal/merchant/{tenant}{shop}" for tenant in TENANTS for shop in SHOPS),
    *(f"signal/notification/{user}" for user in USERS),
]

members = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from([None, *SHOPS])), max_size=8)
joins = st.lists(st.tuples(st.sampled_from(USERS), st.lists(st.sampled_from(ROOMS), max_size=8)), max_size=12)
sends = st.lists(
    st.one_of(
        st.tuples(st.just("room"), st.sampled_from(ROOMS)),
        st.tuples(st.just("user"), st.sampled_from(USERS)),
        st.tuples(st.just("row"), st.sampled_from(USERS)),
    ),
    max_size=30,
)


def tenant_of(text: str) -> str:
    return next(tenant for tenant in TENANTS if tenant in text)


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


async def play(roster: Roster, joined: Any, sent: Any) -> None:
    database = MemoryDatabase(now)
    await database.directory.load(roster)
    to_relay, _outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](1_000)
    _from_relay, inbound = trio.open_memory_channel[RelayEvent](1)
    delivery = compose_delivery(
        server_id="me",
        database=database,
        relay=LocalRelay(),
        to_relay=to_relay,
        metrics=Metrics(),
        now=now,
        room_patterns=(),
        resume_limit=500,
        sweep_s=10,
    )
    hub = delivery.hub
    async with trio.open_nursery() as nursery:
        await nursery.start(delivery.run, inbound)
        clients = []
        for user, rooms in joined:
            client = FakeClient(user, request_read=delivery.recovery.request_read)
            hub.attach(client.session)
            client.session.begin(await delivery.admission.baseline(user))
            await delivery.admission.join(client.session, rooms)
            clients.append(client)
        for n, (kind, target) in enumerate(sent):
            mark = tenant_of(target)
            if kind == "row":
                draft = Draft(
                    recipient_id=target,
                    activity_id=f"a{n}",
                    type="T",
                    organizer_id=mark,
                    merchant_id=None,
                    subject=None,
                    locale="en",
                    content=mark,
                    content_html=mark,
                    action_url=None,
                    data={"to": target},
                )
                hub.announce(await database.inbox.insert([draft]))
            else:
                await hub.send(RelayMessage(kind, target, "t", b'{"of":"%b"}' % mark.encode()))
        await trio.sleep(30)
        for client in clients:
            own = tenant_of(client.session.user_id)
            for _, data in client.events:
                assert data.get("of", own) == own
                if "organizerId" in data:
                    assert data["data"]["to"] == client.session.user_id
        nursery.cancel_scope.cancel()


@settings(max_examples=30)
@given(members, joins, sends)
def test_no_frame_crosses_from_one_tenant_to_another(who: Any, joined: Any, sent: Any) -> None:
    roster = Roster(
        [Organizer(tenant, None, tuple(tenant + shop for shop in SHOPS)) for tenant in TENANTS],
        [Member(user, tenant_of(user), shop and tenant_of(user) + shop, "staff", None) for user, shop in who],
        [],
    )
    trio.run(play, roster, joined, sent, clock=MockClock(autojump_threshold=0))
