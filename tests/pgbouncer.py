"""PgBouncer in front of a PostgreSQL, as Debian packages it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from debian import debian
from services import Account, Service, ServiceFailed, open_to_all, psql


class PgBouncer(Service):
    """`database` at it is `target` at the server. Nothing is set but what the package's file requires to be:
    start-up parameters that it does not know are refused. Raises NoDebian."""

    name = "pgbouncer"

    def __init__(self, target: str, pool_mode: str, auth_type: str = "any", **settings: str) -> None:
        self._unpacked = debian("pgbouncer")
        super().__init__()
        self._target = urlsplit(target)
        self._settings = {"pool_mode": pool_mode, "auth_type": auth_type, **settings}
        self.users: dict[str, str] = {}

    def _make_directory(self) -> Path:
        base = Path(tempfile.gettempdir())
        if os.geteuid() == 0 and not open_to_all(base):
            base = Path("/tmp")
        return Path(tempfile.mkdtemp(prefix=f"signal-{self.name}-", dir=base))

    def prepare(self) -> None:
        server = self._target
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_file": str(self.directory / "users.txt"),
            "default_pool_size": "3",  # less than the clients
            "server_login_retry": "1",
            **self._settings,
        }
        (self.directory / "users.txt").write_text(
            "".join(f'"{user}" "{password}"\n' for user, password in self.users.items())
        )
        (self.directory / "pgbouncer.ini").write_text(
            f"[databases]\nalias = host={server.hostname} port={server.port} dbname={server.path[1:]} "
            "user=signal\n"
            "[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        if os.geteuid() == 0:
            self._account = Account()
            for path in (self.directory, *self.directory.iterdir()):
                os.chown(path, self._account.uid, self._account.gid)

    def command(self) -> Sequence[str | Path]:
        libraries = self._unpacked.environment["LD_LIBRARY_PATH"]
        program = self._unpacked.program("usr/sbin/pgbouncer")
        return ["/usr/bin/env", f"LD_LIBRARY_PATH={libraries}", program, self.directory / "pgbouncer.ini"]

    def url(self, login: str = "signal", parameters: str = "") -> str:
        return f"postgresql://{login}@{self.address}/alias{parameters}"

    def answers(self) -> bool:
        try:
            login = next((f"{user}:{quote(word, safe='')}" for user, word in self.users.items()), "signal")
            return psql(self.url(login), "SELECT 1") == "1"
        except ServiceFailed as error:
            return "SSL required" in str(error)  # the wheel's psql cannot do TLS
        except subprocess.TimeoutExpired:
            return False
