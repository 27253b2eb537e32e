"""What a deployment calls its channels on a Redis server that others use too, and how its instances recognize
each other's messages. Pub/sub has no databases: a number in the URL separates nothing. No I/O."""

from __future__ import annotations

import hmac
from hashlib import blake2b

from nx_signal.model.channels import OWN

TAG_BYTES = 16
TAG_CHARS = 2 * TAG_BYTES


class Deployment:
    """Derived from the secret that the instances of one store share.

    Own channels `own:…` are `{prefix}signal:{namespace}:…` on Redis, every other one is itself after the
    prefix. Messages on own channels begin with a tag, a keyed hash of the rest: it cannot be made
    without the secret in the store."""

    def __init__(self, secret: bytes, prefix: str = "", namespace: str | None = None) -> None:
        self.namespace = namespace or _derived(secret, b"namespace").hex()
        self._key = _derived(secret, b"key of " + self.namespace.encode())
        self.id = blake2b(key=self._key, digest_size=8).hexdigest()
        """for the instances of others, which notice that it is not theirs"""
        self._prefix = prefix
        self._own = f"{prefix}signal:{self.namespace}:"

    def on_redis(self, channel: str) -> str:
        if channel.startswith(OWN):
            return self._own + channel.removeprefix(OWN)
        return self._prefix + channel

    def channel(self, on_redis: str) -> str:
        """The inverse."""
        if on_redis.startswith(self._own):
            return OWN + on_redis.removeprefix(self._own)
        return on_redis.removeprefix(self._prefix)

    def sealed(self, message: bytes) -> bytes:
        return self._tag(message) + message

    def opened(self, payload: bytes) -> bytes | None:
        """The message; None where its tag is not of this deployment."""
        message = payload[TAG_CHARS:]
        return message if hmac.compare_digest(payload[:TAG_CHARS], self._tag(message)) else None

    def _tag(self, message: bytes) -> bytes:
        return blake2b(message, key=self._key, digest_size=TAG_BYTES).hexdigest().encode()


def _derived(secret: bytes, purpose: bytes) -> bytes:
    """For one purpose; it reveals neither the secret nor what is derived for another."""
    return hmac.digest(secret, purpose, "sha256")[:TAG_BYTES]
