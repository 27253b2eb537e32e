"""The commands for curl in the README, as they stand."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import trio
from test_events_http import Server, server  # noqa: F401 - a fixture

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


async def test_the_commands_for_curl_do_what_the_readme_states(server: Server) -> None:  # noqa: F811
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl or bash is not installed: the commands of the README are not run")
    (script,) = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    script = script.replace("http://127.0.0.1:31090", server.url).replace(" -N ", " -s -m 2 -N ")
    script = f'nx-signal() {{ {sys.executable} -m nx_signal "$@"; }}\n{script}'
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    environment["APP_ENV_DATA_DIR"] = str(server.data_dir)
    with trio.fail_after(60):
        done = await trio.run_process(
            ["bash", "-c", script], env=environment, capture_stdout=True, capture_stderr=True, check=False
        )
    out = done.stdout.decode()
    assert '{"accepted":[{"eventId":"order-42-2"}]}' in out, done.stderr
    assert '"activityId":"order-42-1"' in out, "the long poll waits for it"
    assert re.search(r'"updated":1,.*"unknown":\[\]|"unknown":\[\],.*"updated":1', out)
    assert out.count('{"eventId":"order-42-2"}\n') == 2, "corrected and retracted"
    assert out.count("event: connected") == 2
