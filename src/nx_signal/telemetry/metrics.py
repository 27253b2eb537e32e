"""Prometheus metrics of one process. A registry per instance, so that tests can run several."""

from __future__ import annotations

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nx_signal.model import Outcome

HANDSHAKES = ("accepted", "refused", "timeout", "unavailable", "bad_key", "flood", "sessions")
FRAMES = ("inbox", "ephemeral")
CLOSES = (1001, 1002, 1003, 1007, 1008, 1009, 1013, *range(4001, 4011))
"""CONTRACT §1, Errors and close codes."""
REFUSALS = ("connections", "address", "unauthenticated", "rate", "open_files", "crowded")
"""The first four as server.gate.Reason. The others were closed without an answer: no file could be opened for
them, or more came beyond the limits than are answered."""
GAPS = ("retention", "topic_made_anew", "end_moved_back", "unreadable", "standing")

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Every series whose labels are known exists from the start, at 0: a rate then shows its first increase.
    Those of the parts are begun where the parts are named, those of the event types where these are."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.activities = Counter(
            "signal_activities", "Activities by outcome", ["outcome"], registry=r
        )  # model.Outcome
        self.untranslated = Counter(
            "signal_untranslated",
            "Renderings in English because a translation is missing",
            ["type", "locale"],
            registry=r,
        )
        self.rows = Counter("signal_rows", "Notification rows written", registry=r)
        self.batch_seconds = Histogram(
            "signal_batch_seconds", "From a batch's arrival to its ack", buckets=LATENCY_BUCKETS_S, registry=r
        )
        self.source_gaps = Counter(
            "signal_source_gaps", "Times that a source did not go on where it stopped", ["reason"], registry=r
        )
        self.lost_records = Counter(
            "signal_lost_records", "Records that a source could not read any more", registry=r
        )
        self.store_retries = Counter("signal_store_retries", "Batches retried in place", registry=r)
        self.connections = Gauge("signal_connections", "Open TCP connections", registry=r)
        self.refused = Counter(
            "signal_refused", "Connections and requests refused by reason", ["reason"], registry=r
        )
        self.clients = Gauge(
            "signal_clients", "Sessions: of the stream, of /events, and long polls that wait", registry=r
        )
        self.handshakes = Counter("signal_handshakes", "Handshakes by outcome", ["outcome"], registry=r)
        self.versions = Counter(
            "signal_stream_versions",
            "Accepted handshakes by the version of the stream's cryptography",
            ["version"],
            registry=r,
        )
        self.frames = Counter("signal_frames", "Frames pushed by kind", ["kind"], registry=r)
        self.frames_dropped = Counter(
            "signal_frames_dropped", "Ephemeral frames dropped for slow clients", registry=r
        )
        self.heals = Counter("signal_heals", "Sessions caught up from the store", registry=r)
        self.lost_changes = Counter(
            "signal_lost_changes",
            "Clients reset because the store lost a change that they were sent",
            registry=r,
        )
        self.unknown_changes = Counter(
            "signal_unknown_changes",
            "Changes read from the store of a kind unknown to this release: their readers refetch",
            registry=r,
        )
        self.closes = Counter(
            "signal_closes", "Stream connections closed by the server", ["code"], registry=r
        )
        self.relay_published = Counter("signal_relay_published", "Messages passed to the relay", registry=r)
        self.relay_dropped = Counter(
            "signal_relay_dropped", "Messages that the relay had no room for", registry=r
        )
        self.relay_received = Counter("signal_relay_received", "Messages of other servers", registry=r)
        self.audited = Counter("signal_audited_inboxes", "Inboxes compared with their rows", registry=r)
        self.audit_drift = Counter(
            "signal_audit_drift", "Differences between an inbox's head and its rows and log", registry=r
        )
        self.expired_rows = Counter(
            "signal_expired_rows", "Rows removed by age or at their expiry", registry=r
        )
        self.part_up = Gauge("signal_part_up", "1 while the part works", ["part"], registry=r)
        self.degraded = Gauge(
            "signal_degraded",
            "1 while something is wrong with the part but this instance serves",
            ["part"],
            registry=r,
        )
        self.restarts = Counter("signal_restarts", "Restarts of a supervised part", ["part"], registry=r)

        for counter, values in (
            (self.activities, get_args(Outcome)),
            (self.handshakes, HANDSHAKES),
            (self.versions, (1, 2)),
            (self.frames, FRAMES),
            (self.closes, CLOSES),
            (self.refused, REFUSALS),
            (self.source_gaps, GAPS),
        ):
            for value in values:
                counter.labels(str(value))

    def exposition(self) -> bytes:
        """The text format of Prometheus, version 0.0.4."""
        return generate_latest(self.registry)
