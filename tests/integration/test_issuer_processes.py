"""The embedded issuer's key where several processes start on one new data directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_processes_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; sys.stdin.read();"
        "from nx_signal.identity.issuer import open_issuer;"
        "print(open_issuer(pathlib.Path(sys.argv[1])).kid)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.close()
        process.stdin = None
    kids = {process.communicate(timeout=60)[0] for process in processes}
    assert len(kids) == 1
    assert kids != {""}
