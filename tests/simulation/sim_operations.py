"""What happens to the store beside deliveries and plain changes: maintenance, dead letters, reads over REST,
and other releases on the same database. Each method without an underscore is an action of the schedule."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import partial
from importlib.resources.abc import Traversable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio
from sim_inbox import Where, wrong_page
from sim_plan import MENDABLE, REFUSABLE

from nx_signal.activities.compose import compose_activities
from nx_signal.activities.content import Renderer
from nx_signal.activities.event_type import MessageArguments
from nx_signal.activities.registry import Registry
from nx_signal.activities.types import SHIPPED, PaymentData, PaymentSuccess
from nx_signal.adapters.sqlite.driver import SqliteTx
from nx_signal.errors import MessageRejected, StoreRejected
from nx_signal.inbox import maintenance as inbox_maintenance
from nx_signal.inbox.service import Inbox
from nx_signal.model import (
    Activity,
    Condition,
    Created,
    Deleted,
    Draft,
    InboxFilter,
    Mark,
    RelayMessage,
    Trace,
    Unknown,
    Updated,
)
from nx_signal.model.timestamps import epoch_ms
from nx_signal.store import collapse, read_all
from nx_signal.store import maintenance as store_maintenance
from nx_signal.store.driver import Inserted, Tx
from nx_signal.store.marks import MarkAll, MarkOfAll
from nx_signal.store.rows import lock

if TYPE_CHECKING:
    from sim_instance import Instance
    from sim_world import World

here: ContextVar[Instance | None] = ContextVar("here", default=None)
"""whose task this is: the store may be out of reach for one instance alone"""

REACHED_ROWS = """
SELECT id FROM activity_notification
WHERE recipient_id = ? AND (deleted_at IS NULL OR archived_at IS NOT NULL)
ORDER BY rev DESC
"""
LEFT_ROWS = """
SELECT count(*) FROM activity_notification
WHERE expires_at <= ? AND (deleted_at IS NULL OR archived_at IS NOT NULL)
"""
PINNED = "observation/signal/notification/pinned"
"""a frame that only a newer release knows"""
DAY_S = 600.0
"""of retention"""


class Mendable(PaymentSuccess):
    """An event type with a bug in some instances' release."""

    name = MENDABLE

    def message_arguments(self, data: PaymentData, activity: Activity) -> MessageArguments:
        instance = here.get()
        if instance is not None and instance.number in instance.world.operations.faulty:
            raise RuntimeError("a bug")
        return super().message_arguments(data, activity)

    def locales(self) -> Traversable:
        return PaymentSuccess().locales()


registry = Registry([*SHIPPED, Mendable()])
renderer = Renderer(registry, "UTC")
before_mendable = Registry.shipped()
"""of a release that does not know it"""
renderer_before = Renderer(before_mendable, "UTC")

SMALL_BOUNDS: Mapping[Any, Mapping[str, float]] = {
    read_all: {"PORTION": 3},
    inbox_maintenance: {
        "APPLY_EVERY_S": 150.0,
        "EXPIRE_EVERY_S": 250.0,
        "REMOVE_EXPIRED_EVERY_S": 100.0,
        "AUDIT_EVERY_S": 400.0,
        "APPLIED_ROWS": 3,
        "EXPIRED_ROWS": 8,
        "PRUNED_TRACES": 50,
        "AUDITED_INBOXES": 15,
        "AUDITED_ROWS": 300,
    },
}


async def _insert(
    tx: SqliteTx, drafts: Sequence[Draft], data: Sequence[str], insert: Any = SqliteTx.insert
) -> tuple[datetime, Sequence[Inserted]]:
    """As the release of this instance does it, with a store that may refuse values."""
    instance = here.get()
    operations = instance.world.operations if instance else None
    _refuse(drafts)
    created_at, inserted = await insert(tx, drafts, data)
    if operations and instance and instance.number in operations.older:
        tx._connection.executemany(
            "UPDATE activity_notification SET unread_after = NULL, total_after = NULL, unseen_after = NULL"
            " WHERE id = ? AND NOT EXISTS ("
            "SELECT 1 FROM activity_notification WHERE recipient_id = ? AND replaces IS NOT NULL)",
            [(row.id, drafts[row.index].recipient_id) for row in inserted],
        )
        tx._connection.executemany(
            "UPDATE recipient_head SET history = NULL, history_rev = 0 WHERE recipient_id = ?",
            [(drafts[row.index].recipient_id,) for row in inserted],
        )
    return created_at, inserted


async def _insert_kept(
    tx: Tx, drafts: Sequence[Draft], data: Sequence[str], insert: Any = collapse.insert
) -> tuple[datetime, Sequence[Inserted]]:
    _refuse(drafts)
    result: tuple[datetime, Sequence[Inserted]] = await insert(tx, drafts, data)
    return result


def _refuse(drafts: Sequence[Draft]) -> None:
    instance = here.get()
    operations = instance.world.operations if instance else None
    if operations and operations.refuses and any(draft.subject == REFUSABLE for draft in drafts):
        raise StoreRejected("subject: cannot be stored now.")


async def _remove_expired(tx: Tx, limit: int, remove: Any = store_maintenance._remove_expired) -> Any:
    """A change like an action's."""
    instance = here.get()
    assert instance is not None
    if instance.world.operations.ended:
        return 0, ()
    many, changes = await remove(tx, limit)
    if changes:
        instance.world.last_action_s = trio.current_time()
        instance.world.note(f"{[change.recipient_id for change in changes]} lose {many} that expired")
    return many, changes


async def _expire(tx: Tx, before_id: int, limit: int, expire: Any = store_maintenance._expire) -> Any:
    """The world reads what is about to be removed."""
    instance = here.get()
    assert instance is not None
    if instance.world.operations.ended:
        return None
    if await tx.one("owner_of_oldest", before_id=before_id) is not None:
        await instance.world.mirror(tx)
    done = await expire(tx, before_id, limit)
    if done is not None:
        instance.world.expired(done.recipient_id, done.up_to_rev, done.truncated_through)
    return done


def _log_error(event: str, **fields: Any) -> None:
    """Maintenance logs an error for what it finds wrong."""
    instance = here.get()
    assert instance is not None
    instance.world.violate(f"{event}: {fields}")


FAKES: Mapping[Any, Mapping[str, Any]] = {
    SqliteTx: {"insert": _insert},
    collapse: {"insert": _insert_kept},
    store_maintenance: {"_expire": _expire, "_remove_expired": _remove_expired},
    inbox_maintenance: {
        "timedelta": lambda days: timedelta(seconds=days * DAY_S),
        "log": SimpleNamespace(error=_log_error, info=lambda *args, **fields: None),
    },
}


class Operations:
    def __init__(self, world: World) -> None:
        self.world = world
        self.faulty: set[int] = set()
        """instances whose release has the bug of Mendable"""
        self.older: set[int] = set()
        """instances of the previous release"""
        self.refuses = False
        self.ended = False
        """nothing is removed by age any more: the last checks are near"""
        self.mendable: set[tuple[int, int]] = set()
        """(partition, offset) of records that become dead letters for a while"""

    def _start(self, instance: int, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        one = self.world.instances[instance]
        if one.up:
            one.nursery.start_soon(work, one, *args)

    # --- maintenance ---

    def maintain(self, instance: int, what: str) -> None:
        self._start(instance, self._maintain, what)

    async def _maintain(self, one: Instance, what: str) -> None:
        if what != "expire" or self.world.plan.retention_days:
            await one.perform(getattr(one.parts.maintenance, what))

    # --- reads, and writes that are read ---

    def look(
        self,
        instance: int,
        user: str,
        limit: int,
        pages: int,
        is_read: bool | None,
        type: str | None,
        archived: bool = False,
    ) -> None:
        self._start(instance, self._look, user, limit, pages, Where(is_read, type, archived))

    async def _look(self, one: Instance, user: str, limit: int, pages: int, where: Where) -> None:
        """Page through the inbox, while it changes; then count."""
        world, before_rev, restores = self.world, None, self.world.restores
        filter = InboxFilter.of(is_read=where.is_read, type=where.type, archived=where.archived)
        since = world.head(user).rev
        for _ in range(pages):
            page = await one.perform(partial(one.inbox.page, user, filter, limit, before_rev))
            if page is None or world.restores != restores:
                return
            log = world.log(user)
            if wrong := wrong_page(page, log, where, limit, before_rev):
                world.violate(f"a page of {user} below {before_rev} for {where}: {wrong}")
            if page.head.rev < since:
                world.violate(f"a page of {user} is of {page.head.rev}, {since} was there before")
            since, before_rev = page.head.rev, page.next_before_rev
            if before_rev is None:
                break
        counted = await one.perform(partial(one.inbox.count, user, filter))
        if counted is not None:
            matching, head = counted
            page = await one.perform(partial(one.inbox.page, user, filter, limit))
            if page is not None and page.head == head and page.matching != matching:
                world.violate(f"{matching} of {user} are counted, {page.matching} are listed for {where}")

    def write(self, instance: int, reader: int, user: str, newest: int, what: str, type: str | None) -> None:
        """A change through one instance; once it returned, a read through another one."""
        work = {"mark_read": self._mark_read, "delete": self._delete, "mark_all": self._mark_all}[what]
        one = self.world.instances[reader]
        if one.up:
            row = newest if what == "mark_all" else self.world._row(user, newest)
            self._start(instance, work, one.inbox, user, row, type)

    async def _mark_read(self, one: Instance, reader: Inbox, user: str, id: int, _: str | None) -> None:
        restores, since = self.world.restores, self.world.head(user).rev
        marked = await one.perform(partial(one.inbox.mark, user, id, "read", "sim"))
        if marked is None:
            return
        got = await one.perform(partial(self._got, reader, user, id))
        if self.world.restores != restores:
            return
        if got is not None and got[0] is None and not self._removed(user, id):
            self.world.violate(f"{id} of {user} is gone after it was read")
        if self._returned(user, since):
            return
        if got is not None and got[0] is not None and got[0].read_at != marked.read_at:
            self.world.violate(f"{id} of {user} was read at {marked.read_at}, a reader sees {got[0].read_at}")

    async def _delete(self, one: Instance, reader: Inbox, user: str, id: int, _: str | None) -> None:
        restores = self.world.restores
        if await one.perform(partial(one.inbox.delete, user, id)):
            got = await one.perform(partial(self._got, reader, user, id))
            if got is not None and got[0] is not None and self.world.restores == restores:
                self.world.violate(f"{id} of {user} is there after its deletion")

    async def _mark_all(self, one: Instance, reader: Inbox, user: str, below: int, type: str | None) -> None:
        since, restores = self.world.head(user).rev, self.world.restores
        up_to = max(since - below, 0)
        marked = await one.perform(partial(one.inbox.mark_all_read, user, up_to, type, origin="sim"))
        if marked is None:
            return
        covered = InboxFilter.of(Condition("rev", "lte", up_to), is_read=False, type=type)
        counted = await one.perform(partial(reader.count, user, covered))
        if self.world.restores != restores or counted is None or self._returned(user, since):
            return
        if counted[0] or counted[1].rev < marked[1].rev:
            self.world.violate(f"{counted[0]} of {user} are unread up to {up_to} after all became read")

    async def _got(self, reader: Inbox, user: str, id: int) -> tuple[Any]:
        """In a tuple: None is an answer too."""
        return (await reader.get(user, id),)

    def _returned(self, user: str, since: int) -> bool:
        """Whether rows became unread, or came out of the archive, after the revision."""
        return any(
            isinstance(change, Updated) and False in (change.is_read, change.archived)
            for change in self.world.log(user)[since:]
        )

    def _removed(self, user: str, id: int) -> bool:
        """Whether a deletion, a retraction, its age or its expiry took it away, or a newer one its place."""
        return any(
            (isinstance(change, Deleted) and id in change.ids)
            or (isinstance(change, Created) and id in change.replaces)
            for change in self.world.log(user)
        )

    # --- what readers do beside reading ---

    def mark_ids(self, instance: int, user: str, newest: int, count: int, mark: Mark) -> None:
        rows = self.world.database.driver.connection.execute(REACHED_ROWS, (user,))
        ids = [id for (id,) in rows][newest : newest + count]
        self._start(instance, self._mark_ids, user, ids, mark)

    async def _mark_ids(self, one: Instance, user: str, ids: list[int], mark: Mark) -> None:
        restores = self.world.restores
        marked = await one.perform(partial(one.inbox.mark_ids, user, ids, mark, "sim"))
        if marked is None or self.world.restores != restores:
            return
        gone = [id for id in marked.unknown if not self._removed(user, id)]
        if gone:
            self.world.violate(f"{gone} of {user} are unknown to {mark}")

    def mark_seen(self, instance: int, user: str, below: int | None) -> None:
        up_to = None if below is None else max(self.world.head(user).rev - below, 0)
        self._start(instance, self._mark_seen, user, up_to)

    async def _mark_seen(self, one: Instance, user: str, up_to: int | None) -> None:
        restores = self.world.restores
        marked = await one.perform(partial(one.inbox.mark_all_seen, user, up_to, "sim"))
        if marked is not None and up_to is None and marked[1].unseen and self.world.restores == restores:
            self.world.violate(f"{marked[1].unseen} of {user} are unseen after all were seen")

    def mark_portions(
        self, instance: int, user: str, mark: MarkOfAll, below: int | None, only_read: bool
    ) -> None:
        up_to = None if below is None else max(self.world.head(user).rev - below, 0)
        self._start(instance, self._mark_portions, MarkAll(user, mark, up_to, "sim", only_read=only_read))

    async def _mark_portions(self, one: Instance, covers: MarkAll) -> None:
        await one.perform(partial(one.inbox.mark_all, covers))

    # --- dead letters ---

    def fail(self, instance: int, on: bool) -> None:
        """The instance's release has the bug, or no longer."""
        (self.faulty.add if on else self.faulty.discard)(instance)

    def refuse(self, on: bool) -> None:
        self.refuses = on

    def replay(self, instance: int, newest: int, known: bool) -> None:
        """A dead letter; where its type is not `known`, by a release from before it."""
        ids = self._letter_ids()
        if ids:
            self._start(instance, self._replay, ids[max(len(ids) - 1 - newest, 0)], known)

    async def _replay(self, one: Instance, id: int, known: bool) -> None:
        world = self.world
        connection = world.database.driver.connection
        found = connection.execute(
            'SELECT partition, "offset", value FROM dead_letter WHERE id = ?', (id,)
        ).fetchone()
        if found is None:
            return
        partition, offset, value = found

        replay = one.parts.replay
        if not known:
            replay = compose_activities(
                database=world.database,
                registry=before_mendable,
                renderer=renderer_before,
                announce=one.hub.announce,
                push_to_members=one.hub.push_to_members,
                metrics=one.parts.metrics,
                now=world.now,
            ).replay

        async def replayed() -> Trace | None:
            try:
                return await replay.replay(id)
            except MessageRejected:
                return None

        restores = world.restores
        trace = await one.perform(replayed)
        if world.restores != restores:
            return
        activity = world.published[partition, offset]
        if activity is None:
            if trace is not None:
                world.violate(f"the poison {value!r} was replayed: {trace.outcome}")
            return
        world.note_rows()
        gone = id not in self._letter_ids()
        if (trace is not None or gone) and (missing := world._missing(activity)):
            world.violate(f"{activity} was replayed, for {missing} it is not stored")
        if trace is not None and not known and json.loads(value)["eventType"] == MENDABLE:
            world.violate(f"{activity} was replayed by a release that does not know its type")

    def _letter_ids(self) -> list[int]:
        found = self.world.database.driver.connection.execute("SELECT id FROM dead_letter ORDER BY id")
        return [id for (id,) in found]

    # --- other releases ---

    def release(self, instance: int, older: bool) -> None:
        """The instance is of the previous release, or of this one again: how it writes rows."""
        (self.older.add if older else self.older.discard)(instance)

    def newer(self, instance: int, user: str, announced: bool) -> None:
        """A newer release writes a change that this one does not know."""
        connection = self.world.database.driver.connection
        one = self.world.instances[instance]
        if not one.up:
            return
        connection.execute("PRAGMA ignore_check_constraints = ON")  # its schema allows it
        change = self.world.database.driver.play(_pin, user)
        connection.execute("PRAGMA ignore_check_constraints = OFF")
        if change is not None and announced:
            place = (change.rev, change.history, change.after)
            data = json.dumps({"rev": change.rev, "history": change.history, "unread": change.unread})
            message = RelayMessage("inbox", user, PINNED, data.encode(), frozenset(), None, *place)
            one.nursery.start_soon(one.hub.send, message)

    # --- the end ---

    async def rest(self) -> None:
        """All releases are mended; what can be replayed is, and all maintenance is done."""
        self.faulty.clear()
        self.refuses = False
        await self._remove_what_expired()
        self.ended = True
        for id in self._letter_ids():
            await self._replay(self.world.instances[0], id, True)
        for instance in self.world.instances:
            await instance.perform(instance.parts.maintenance.apply_read_alls)

    async def _remove_what_expired(self) -> None:
        now = self.world.now()
        await self.world.instances[0].perform(self.world.instances[0].parts.maintenance.remove_expired)
        (left,) = self.world.database.driver.connection.execute(LEFT_ROWS, (epoch_ms(now),)).fetchone()
        if left:
            self.world.violate(f"{left} notifications are there after their expiry")

    async def check(self) -> None:
        database = self.world.database
        (unapplied,) = database.driver.connection.execute("SELECT count(*) FROM unsettled_read").fetchone()
        if unapplied:
            self.world.violate(f"{unapplied} read-alls are not in all their rows")
        audit = await database.maintenance.audit("", 10**6, 10**9)
        if audit.drifts or audit.next_after is not None:
            self.world.violate(f"the audit finds {audit.drifts[:3]}")


async def _pin(tx: Tx, user: str) -> Unknown | None:
    head = await lock(tx, user)
    if not head.rev:
        return None
    counts = {"total": head.total, "unread": head.unread, "unseen": head.unseen}
    rev, history = head.rev + 1, f"pinned-{head.history}"
    place = {"recipient_id": user, "rev": rev, "history": history}
    step = {"kind": "pinned", "detail": "{}", **place, **counts}
    await tx.run("advance", changes=json.dumps([step]), losses="[]", many_changes=1, many_losses=0)
    return Unknown(user, rev, head.unread, head.total, head.unseen, history, head.history, "pinned")
