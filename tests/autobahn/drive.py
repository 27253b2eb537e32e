"""Run the Autobahn cases against a WebSocket server; one JSON line per case. A process of its own: the
cases date from Python 2, and kosoku changes `binascii` for them.

python drive.py ws://host:port/path EXCLUDED…
"""

from __future__ import annotations

import asyncio
import json
import sys

from kosoku import FailureError, run_fuzzingclient


async def main(url: str, excluded: list[str]) -> None:
    try:
        results = await run_fuzzingclient(url, exclude_cases=excluded)
    except FailureError as failure:
        results = failure.results
    for each in results:
        result = {
            "case": each.case_id,
            "behavior": each.behavior.value,
            "close": each.behavior_close.value,
            "why": f"{each.result} {each.result_close} Expected: {each.expected}; got: {each.received}"[
                :2000
            ],
        }
        print(json.dumps(result))


asyncio.run(main(sys.argv[1], sys.argv[2:]))
