"""One process of the simulation, and the broker and topic as it sees them."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio
from sim_operations import here, registry, renderer
from sim_plan import NEVER_S, PARTITIONS
from sim_wire import Link

from gate_kit import a_visit
from memory_relay import MemoryRelay
from memory_source import MemorySource, MemoryTopic
from nx_signal.composition import compose
from nx_signal.errors import RelayLost, StoreUnavailable
from nx_signal.model import RelayMessage
from nx_signal.ports import Batch, RelayEvent
from nx_signal.supervise import supervise
from stream_kit import static_key

if TYPE_CHECKING:
    from sim_world import World

T = TypeVar("T")
BATCHES_WAITING = 2
ANNOUNCEMENTS_WAITING = 8
RELAYED_WAITING = 4


class SimTopic(MemoryTopic):
    """Lets nothing be committed that is not dealt with."""

    def __init__(self, world: World) -> None:
        super().__init__(PARTITIONS, "topic")
        self.world = world

    def end(self, partition: int) -> int:
        return len(self._logs[partition])

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        before = list(self._committed)
        super().commit(offsets)
        for partition, offset in enumerate(self._committed):
            for position in range(before[partition], offset):
                self.world.committed(partition, position)


class SimRelay(MemoryRelay):
    def __init__(self, world: World, instance: Instance, server_id: str) -> None:
        super().__init__(world.broker, server_id)
        self.world = world
        self.instance = instance

    async def run(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[RelayMessage, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        if self.instance.deaf:
            raise RelayLost("The broker does not answer.")
        await super().run(outbound, inbound, task_status)

    def enqueue(self, message: RelayMessage) -> None:
        world = self.world
        sender = int((message.server_id or "i0").partition(".")[0][1:])
        if sender in world.operations.older:
            message = msgspec.structs.replace(message, history=None, after=None)
        if (sender, self.instance.number) in world.apart_now or world.rng.random() < world.loss_share:
            return
        if world.jitter_s:
            world.nursery.start_soon(self._late, message, world.rng.uniform(0, world.jitter_s))
        else:
            super().enqueue(message)

    async def _late(self, message: RelayMessage, delay_s: float) -> None:
        await trio.sleep(delay_s)
        super().enqueue(message)


class Instance:
    """One process, that may die at any await and be started again with nothing but its number."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.up = False
        self.running = False
        self.boots = 0
        self.deaf = self.source_cut = self.relay_cut = self.store_cut = False
        self.links: dict[Link, None] = {}
        self.visit = a_visit()
        """of every connection: it counts for no bound"""
        self.life = trio.CancelScope()

    async def live(self) -> None:
        """From its start to its death: nx_signal.service.run, in memory."""
        world = self.world
        here.set(self)
        self.boots += 1
        self.running = True
        world.note(f"i{self.number} boots")
        server_id = f"i{self.number}.{self.boots}"
        self.life = trio.CancelScope()
        announcements = ANNOUNCEMENTS_WAITING if world.plan.sweep_s != NEVER_S else 10**6
        to_pipeline, batches = trio.open_memory_channel[Batch](BATCHES_WAITING)
        to_relay, outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](announcements)
        from_relay, inbound = trio.open_memory_channel[RelayEvent](RELAYED_WAITING)
        self.relay = SimRelay(world, self, server_id)
        self.source = MemorySource("source", world.topic)
        self.parts = compose(
            server_id=server_id,
            database=world.database,
            relay=self.relay,
            to_relay=to_relay,
            registry=registry,
            renderer=renderer,
            verify=world.verify,
            static_key=static_key,
            now=world.now,
            resume_limit=world.plan.resume_limit,
            sweep_s=world.plan.sweep_s,
            client_buffer_bytes=1,
            rate_factor=1.0,
            sources=[self.source.name],
            retention_days=world.plan.retention_days,
        )
        self.delivery, self.pipeline, self.inbox = self.parts.delivery, self.parts.pipeline, self.parts.inbox
        self.hub, self.operator = self.delivery.hub, self.delivery.operator
        self.websocket = self.parts.websocket
        if self.relay_cut:
            world.broker.cut(server_id)
        if self.source_cut:
            self.source.cut()
        try:
            with self.life:
                async with trio.open_nursery() as self.nursery:
                    await self.nursery.start(self.delivery.run, inbound)
                    await self.nursery.start(self.pipeline.run, batches)
                    part_up = partial(supervise, health=self.parts.health)
                    self.nursery.start_soon(
                        part_up, "relay", partial(self.delivery.run_relay, outbound, from_relay)
                    )
                    self.nursery.start_soon(part_up, self.source.name, partial(self.source.run, to_pipeline))
                    self.nursery.start_soon(self.parts.maintenance.run)
                    self.up = True
                    await trio.sleep_forever()
        except Exception as error:
            world.violate(f"instance {self.number} died: {traced(error)}")
        finally:
            self.up = self.running = False

    def die(self, silent_s: float = 0.0) -> None:
        """Kill it. Its devices learn it at once, or when `silent_s` have passed."""
        self.world.note(f"i{self.number} dies")
        self.world.losses += 1
        self.up = False
        for link in self.links:
            link.wire.closed = link.lost = True
            self.world.nursery.start_soon(_end_later, link, silent_s)
        self.life.cancel()

    async def drain(self) -> None:
        self.up = False
        with trio.move_on_after(15):
            self.parts.events.stop()
            self.parts.polling.stop()
            await self.delivery.drain(7.5)
            await self.pipeline.finish()
        self.die()

    async def serve(self, link: Link) -> None:
        here.set(self)
        self.links[link] = None
        try:
            await link.run()
        except Exception as error:
            self.world.violate(f"a connection of {link.device} failed: {traced(error)}")
        finally:
            del self.links[link]
            if not link.lost:
                link.device.ended(link)

    async def perform(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """A request to it; None when it dies meanwhile or cannot reach the store."""
        answer: list[T] = []
        done = trio.Event()

        async def answered() -> None:
            here.set(self)
            try:
                answer.append(await ask())
            except StoreUnavailable:
                pass
            finally:
                done.set()

        self.nursery.start_soon(answered)
        await done.wait()
        return answer[0] if answer else None


async def _end_later(link: Link, after_s: float) -> None:
    await trio.sleep(after_s)
    link.over.set()


def traced(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
