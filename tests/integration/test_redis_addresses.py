"""APP_ENV_REDIS_URL in the forms of providers, and servers that cannot be used: a sentence at the start where
waiting does not help, and waiting where it does."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from certificates import self_signed
from nx_signal.adapters.redis.address import TUNING, UNDERSTOOD, parse_address
from nx_signal.adapters.redis.servers import servers_of
from nx_signal.errors import RelayLost, SettingsError, Unsupported
from redis_kit import Raw, relay_to, running
from services import Redis, free_port

SECRET = "hunter2"

# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hosts", "options"),
    [
        ("redis://", [("localhost", 6379)], {}),
        ("redis://h", [("h", 6379)], {}),
        ("redis://h/", [("h", 6379)], {}),
        ("redis://h:1/2", [("h", 1)], {"db": 2}),
        ("redis://h:1/0/", [("h", 1)], {"db": 0}),
        ("redis://[::1]:1/2", [("::1", 1)], {"db": 2}),
        ("redis:///3", [("localhost", 6379)], {"db": 3}),
        ("redis://:pw@h", [("h", 6379)], {"password": "pw"}),
        ("redis://u@h", [("h", 6379)], {"username": "u"}),
        ("redis://default:pw@h:1", [("h", 1)], {"username": "default", "password": "pw"}),
        ("redis://u:p%40%2F%23%25%3F%3A@h", [("h", 6379)], {"username": "u", "password": "p@/#%?:"}),
        ("redis://u:p@ss:w%rd@h:1", [("h", 1)], {"username": "u", "password": "p@ss:w%rd"}),
        ("redis://u:a+b@h", [("h", 6379)], {"username": "u", "password": "a+b"}),
        ("redis://h?username=u&password=p%26q", [("h", 6379)], {"username": "u", "password": "p&q"}),
        ("redis://h/1?db=2", [("h", 6379)], {"db": 2}),
        ("redis://h?client_name=a@b", [("h", 6379)], {"client_name": "a@b"}),
        ("redis://h?family=0&socket_timeout=5&pool_size=9", [("h", 6379)], {}),
    ],
)  # fmt: skip
def test_one_server_is_named_in_every_usual_form(url: str, hosts: Any, options: Any) -> None:
    address = parse_address(url)
    assert (list(address.hosts), dict(address.options), address.tls) == (hosts, options, False)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("rediss://h", {}),
        ("redis://h?ssl=true", {}),
        ("redis://h?tls=1", {}),
        ("rediss://h?ssl_cert_reqs=none", {"ssl_cert_reqs": "none"}),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": "none"}),
        ("rediss://h?rejectUnauthorized=false", {"ssl_cert_reqs": "none"}),
        ("rediss://h?skip_verify=true", {"ssl_cert_reqs": "none"}),
        ("rediss://h?verify=true", {"ssl_cert_reqs": "required"}),
        ("rediss://h?ssl_check_hostname=False", {"ssl_check_hostname": False}),
    ],
)
def test_tls_is_asked_for_in_the_words_of_several_clients(url: str, options: Any) -> None:
    address = parse_address(url)
    assert address.tls and dict(address.options) == options


def test_a_socket_is_a_path() -> None:
    address = parse_address("unix://u:pw@/run/redis%20one.sock?db=3")
    assert (address.path, address.hosts) == ("/run/redis one.sock", ())
    assert dict(address.options) == {"username": "u", "password": "pw", "db": 3}


@pytest.mark.parametrize("name", sorted({*UNDERSTOOD, *TUNING}))
def test_every_parameter_that_is_known_is_taken_or_left_out_of_account(name: str) -> None:
    values = ("1", "true", "none", "x")
    for value in values:
        try:
            address = parse_address(f"rediss://h?{name}={value}")
        except SettingsError:
            continue
        assert (address.ignored == (name,)) == (name in TUNING)
        return
    raise AssertionError(f"{name} takes none of {values}")


@pytest.mark.parametrize(
    ("url", "match"),
    [
        (f"redis://u:{SECRET}/x@h:1/0", "/ is written %2F"),
        (f"redis://u:{SECRET}#x@h:1/0", "# is %23"),
        (f"redis://u:{SECRET}?x@h:1/0", r"\? is %3F"),
        (f"redis://:1/{SECRET}@h:1", "/ is written %2F"),
        (f"redis://:1?{SECRET}@h:1", "name=value"),
        (f"redis://:1?{SECRET}=@h:1", "name=value"),
        (f"redis://:1#{SECRET}@h:1", "# is %23"),
        (f"redis://u:{SECRET}@h:port", "port from 1 to 65535"),
        (f"redis://u:{SECRET}@h:0", "1 to 65535"),
        (f"redis://u:{SECRET}@h:70000", "1 to 65535"),
        (f"redis://u:{SECRET}@h:1/main", "database after the host is a number"),
        (f"redis://u:{SECRET}@h1:1,h2:2", r"redis\+sentinel://, or a cluster"),
        (
            f"redis://u:{SECRET}@h:1?colour=blue",
            "parameter colour is not known; these are: clientName, client",
        ),
        (f"redis://u:{SECRET}@h:1?db={SECRET}", "the parameter db takes a number"),
        (f"redis://u:{SECRET}@h:1?ssl={SECRET}", "the parameter ssl takes true or false"),
        (f"rediss://u:{SECRET}@h:1?ssl_cert_reqs={SECRET}", "takes none, optional or required"),
        (f"redis://u:{SECRET}@h:1?password=", "the parameter password takes a value"),
        (f"redis://u:{SECRET}@h:1?ssl_ca_certs=/ca.pem", "are for TLS: use rediss://"),
        (f"redis://u:{SECRET}@h:1?ssl_cert_reqs=none", "are for TLS: use rediss://"),
        (f"unix://u:{SECRET}@/path?ssl_ca_certs=/ca.pem", "are for TLS: use rediss://"),
        (f"unix://u:{SECRET}@host/path", "unix:///path"),
        ("unix://", "unix:///path"),
    ],
)
def test_what_is_not_understood_is_named_without_the_password(url: str, match: str) -> None:
    with pytest.raises(SettingsError, match=rf"^APP_ENV_REDIS_URL .*{match}") as raised:
        parse_address(url)
    assert SECRET not in str(raised.value) and "\n" not in str(raised.value)


@given(
    st.text(st.characters(codec="utf-8"), min_size=1),
    st.text(st.characters(codec="utf-8"), min_size=1),
)
def test_any_user_and_password_can_be_written_escaped(user: str, password: str) -> None:
    url = f"redis://{quote(user, safe='')}:{quote(password, safe='')}@h:1/2"
    address = parse_address(url)
    assert dict(address.options) == {"username": user, "password": password, "db": 2}
    assert address.hosts == (("h", 1),)


@given(st.text())
def test_any_text_is_an_address_or_a_sentence(text: str) -> None:
    for scheme in ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster"):
        try:
            servers_of(parse_address(f"{scheme}://{text}"))
        except SettingsError as error:
            assert str(error).startswith(("APP_ENV_REDIS_URL", "A file of certificates"))


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["missing", "empty", "other"])
def test_a_file_that_holds_no_certificate_is_named(
    option: str, content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"APP_ENV_REDIS_URL \({option}\) cannot be used"):
        servers_of(parse_address(f"rediss://h?{option}={path}"))


# --- servers -------------------------------------------------------------------------------------


def raises(kind: type[Exception], match: str) -> pytest.RaisesGroup[Exception]:
    return pytest.RaisesGroup(pytest.RaisesExc(kind, match=match), flatten_subgroups=True)


async def connect(url: str) -> None:
    """Returns once a subscription is confirmed."""
    relay = relay_to(url, "here")
    relay.subscribe(["ws:user:u1"])
    async with running(relay) as (_, inbound):
        await inbound.receive()


def command(redis: Redis, *words: str) -> bytes:
    with Raw(redis.url) as raw:
        return raw.command(*words)


@asynccontextmanager
async def peer(serve: Callable[[trio.SocketStream], Any]) -> AsyncIterator[int]:
    """The port of a server of any protocol."""

    async def serve_one(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await serve(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve_one, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def pump(source: Any, sink: Any) -> None:
    async for data in source:
        await sink.send_all(data)
    await sink.aclose()


@asynccontextmanager
async def tls_before(redis: Redis, context: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a TLS proxy before a server, as providers have them."""

    async def serve(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await secured.do_handshake()
            backend = await trio.open_tcp_stream("127.0.0.1", redis.port)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, secured, backend)
                nursery.start_soon(pump, backend, secured)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            await trio.aclose_forcefully(stream)

    async with peer(serve) as port:
        yield port


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """(of a server at 127.0.0.1, its CA's file)"""
    key, certificate = self_signed("127.0.0.1")
    (tmp_path / "both.pem").write_bytes(key + certificate)
    (tmp_path / "ca.pem").write_bytes(certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "both.pem")
    return context, tmp_path / "ca.pem"


async def test_a_user_and_a_password_of_special_characters_reach_the_server(own_redis: Redis) -> None:
    password = "p@ss/w#rd%?:&+ é"
    command(own_redis, "ACL", "SETUSER", "a@b", "on", f">{password}", "+@all", "&*")
    await connect(f"redis://a%40b:{quote(password, safe='')}@{own_redis.address}/0")
    await connect(f"redis://{own_redis.address}?username=a%40b&password={quote(password, safe='')}")
    command(own_redis, "ACL", "SETUSER", "plain", "on", ">p@ss%", "+@all", "&*")
    await connect(f"redis://plain:p@ss%@{own_redis.address}")


async def test_tls_with_a_ca_of_one_s_own(
    own_redis: Redis, certificates: tuple[ssl.SSLContext, Path]
) -> None:
    context, ca = certificates
    async with tls_before(own_redis, context) as port:
        await connect(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}")
        await connect(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none")
        with raises(SettingsError, "certificate that is not trusted: .*ssl_ca_certs="):
            await connect(f"rediss://127.0.0.1:{port}/0")
        with raises(SettingsError, "certificate that is not trusted: Hostname mismatch"):
            await connect(f"rediss://localhost:{port}/0?ssl_ca_certs={ca}")


async def test_plain_text_to_a_tls_port_and_tls_to_a_plain_port_end_with_a_sentence(
    own_redis: Redis, certificates: tuple[ssl.SSLContext, Path]
) -> None:
    async with tls_before(own_redis, certificates[0]) as port:
        with raises(SettingsError, "requires TLS: use rediss://"):
            await connect(f"redis://127.0.0.1:{port}")

    with raises(SettingsError, "offers no TLS: use redis://"):
        await connect(f"rediss://{own_redis.address}")


@pytest.mark.parametrize("reply", [b"", b"-ERR Protocol error: invalid bulk length\r\n"])
async def test_a_server_that_does_not_answer_tls_is_asked_without_it(
    reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis waits for the end of a line that a greeting may lack."""
    monkeypatch.setattr("nx_signal.adapters.redis.driver.CONNECT_TIMEOUT_S", 0.5)

    async def serve(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(b"+PONG\r\n" if data.startswith(b"PING") else reply or b"")

    async with peer(serve) as port:
        with raises(SettingsError, "offers no TLS: use redis://"):
            await connect(f"rediss://127.0.0.1:{port}")


async def test_a_unix_socket(own_redis: Redis, tmp_path: Path) -> None:
    with raises(RelayLost, "nowhere.sock"):
        await connect(f"unix://{tmp_path}/nowhere.sock")
    with LocalRedis() as server:
        path = server.directory / "redis one.sock"
        await connect(f"unix://{quote(str(path))}?db=1")


class LocalRedis(Redis):
    """Valkey, on a Unix socket too."""

    def command(self) -> Any:
        return [*super().command(), "--unixsocket", self.directory / "redis one.sock"]


REPLIES = {
    "an HTTP server": (b"HTTP/1.1 400 Bad Request\r\n\r\n", SettingsError, "is an HTTP server"),
    "an HTTP server without a head": (b"<!DOCTYPE HTML>\n", SettingsError, "is an HTTP server"),
    "another protocol": (b"220 smtp.example ESMTP\r\n", SettingsError, "has another protocol"),
    "protected mode": (b"-DENIED Redis is running in protected mode\r\n", SettingsError, "DENIED"),
    "still loading": (b"-LOADING Redis is loading the dataset in memory\r\n", RelayLost, "loading"),
    "a disk that is full": (b"-MISCONF Valkey is configured to save snapshots\r\n", RelayLost, "MISCONF"),
    "a script runs": (b"-BUSY Redis is busy running a script.\r\n", RelayLost, "BUSY"),
    "too many clients": (b"-ERR max number of clients reached\r\n", RelayLost, "max number of clients"),
    "too many clients of a cluster": (
        b"-ERR max number of clients + cluster connections reached\r\n",
        RelayLost,
        "max number of clients",
    ),
    "a replica without a master": (b"-MASTERDOWN Link with MASTER is down\r\n", RelayLost, "MASTER is down"),
    "a proxy without pub/sub": (b"-ERR unknown command 'PING'\r\n", Unsupported, "lacks what this release"),
    "Envoy without pub/sub": (b"-ERR unsupported command 'ping'\r\n", Unsupported, "lacks what this release"),
}


@pytest.mark.parametrize(("reply", "kind", "match"), REPLIES.values(), ids=REPLIES.keys())
async def test_what_cannot_pass_ends_with_a_sentence_and_what_may_pass_is_waited_for(
    reply: bytes, kind: type[Exception], match: str
) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async for data in stream:
            for _ in range(max(1, data.count(b"CLIENT\r\n") + data.count(b"PING"))):
                await stream.send_all(reply)
            if not reply.endswith(b"\r\n"):
                await stream.aclose()
                break

    async with peer(answer) as port:
        with raises(kind, match) as raised:
            await connect(f"redis://127.0.0.1:{port}")
    assert "\n" not in str(raised.value.exceptions[0])


async def test_a_server_that_is_not_there_or_has_no_name_is_waited_for() -> None:
    with raises(RelayLost, "is lost"):
        await connect(f"redis://127.0.0.1:{free_port()}")
    with raises(RelayLost, "is lost"):
        await connect("redis://no-such-host.invalid")


async def test_a_command_that_the_user_may_not_use_ends_with_a_sentence(own_redis: Redis) -> None:
    command(own_redis, "ACL", "SETUSER", "small", "on", ">pw", "&*", "+ping", "+publish", "+client")
    with raises(SettingsError, "refuses this user: .*[Ss]ubscribe.*APP_ENV_REDIS_URL"):
        await connect(f"redis://small:pw@{own_redis.address}")


async def test_a_user_with_the_rights_that_the_readme_names_suffices(own_redis: Redis) -> None:
    rights = ("&ws:*", "&signal:*", "+publish", "+subscribe", "+unsubscribe", "+ping")
    command(own_redis, "ACL", "SETUSER", "small", "on", ">pw", *rights)
    await connect(f"redis://small:pw@{own_redis.address}")
