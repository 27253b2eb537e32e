"""Prometheus metrics of one process. A registry per instance, so that tests can run several."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.activities = Counter(
            "signal_activities", "Activities by outcome", ["outcome"], registry=r
        )  # stored, duplicate, unknown_type, nobody, dead_letter
        self.untranslated = Counter(
            "signal_untranslated",
            "Renderings in English for want of a translation",
            ["type", "locale"],
            registry=r,
        )
        self.rows = Counter("signal_rows", "Notification rows written", registry=r)
        self.batch_seconds = Histogram(
            "signal_batch_seconds", "From a batch's arrival to its ack", buckets=LATENCY_BUCKETS_S, registry=r
        )
        self.store_retries = Counter("signal_store_retries", "Batches retried in place", registry=r)
        self.connections = Gauge("signal_connections", "Open TCP connections", registry=r)
        self.clients = Gauge("signal_clients", "Authenticated stream clients", registry=r)
        self.handshakes = Counter("signal_handshakes", "Handshakes by outcome", ["outcome"], registry=r)
        self.frames = Counter("signal_frames", "Frames pushed by kind", ["kind"], registry=r)
        self.frames_dropped = Counter(
            "signal_frames_dropped", "Ephemeral frames given up for slow clients", registry=r
        )
        self.heals = Counter("signal_heals", "Sessions caught up from the store", registry=r)
        self.closes = Counter(
            "signal_closes", "Stream connections closed by the server", ["code"], registry=r
        )
        self.relay_published = Counter("signal_relay_published", "Messages handed to the relay", registry=r)
        self.relay_dropped = Counter(
            "signal_relay_dropped", "Messages that the relay had no room for", registry=r
        )
        self.relay_received = Counter("signal_relay_received", "Messages of other servers", registry=r)
        self.audited = Counter("signal_audited_inboxes", "Inboxes compared with their rows", registry=r)
        self.audit_drift = Counter(
            "signal_audit_drift", "Differences between an inbox's head and its rows and log", registry=r
        )
        self.expired_rows = Counter("signal_expired_rows", "Rows removed by age", registry=r)
        self.part_up = Gauge("signal_part_up", "1 while the part works", ["part"], registry=r)
        self.restarts = Counter("signal_restarts", "Restarts of a supervised part", ["part"], registry=r)

    def exposition(self) -> bytes:
        """The text format of Prometheus, version 0.0.4."""
        return generate_latest(self.registry)
