"""Programs out of Debian's packages, for tests against PgBouncer, nginx and Caddy: downloaded with
apt-get and unpacked into .cache, since that needs no root and starts nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "debian"
APT_S = 120.0


class NoDebian(Exception):
    """The package cannot be had here; the text states why. A test skips with it."""


@dataclass(frozen=True)
class Unpacked:
    root: Path

    def program(self, path: str) -> Path:
        """`usr/sbin/nginx`"""
        return self.root / path

    @property
    def environment(self) -> dict[str, str]:
        """That of this process, with the libraries that were unpacked beside the program."""
        libraries = [
            str(path)
            for pattern in ("usr/lib/*-linux-gnu", "lib/*-linux-gnu")
            for path in self.root.glob(pattern)
        ]
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}


def debian(package: str) -> Unpacked:
    """`package` with those that it depends on and that are not installed. Raises NoDebian."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise NoDebian(f"{package} comes from Debian's packages, and this machine has no apt-get.")
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / package
    with (CACHE / f"{package}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several parts of the tests run at once
        if not target.exists():
            archives = CACHE / f"{package}.work"
            shutil.rmtree(archives, ignore_errors=True)
            (archives / "root").mkdir(parents=True)
            _run(["apt-get", "download", *_missing(package)], archives)
            for archive in archives.glob("*.deb"):
                _run(["dpkg-deb", "-x", str(archive), str(archives / "root")], archives)
            (archives / "root").rename(target)
            shutil.rmtree(archives)
    return Unpacked(target)


def _missing(package: str) -> list[str]:
    simulation = ["apt-get", "install", "--simulate", "--reinstall", "--no-install-recommends", package]
    try:
        plan = _run(simulation, CACHE)
    except NoDebian:
        if os.geteuid() != 0:
            raise
        _run(["apt-get", "update"], CACHE)  # a new image has no lists of packages
        plan = _run(simulation, CACHE)
    return [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]


def _run(command: list[str], directory: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=APT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NoDebian(f"{' '.join(command)}: no answer within {APT_S:g} s") from error
    if done.returncode:
        raise NoDebian(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    return done.stdout
