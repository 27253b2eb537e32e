"""Runs a benchmark's module with an interpreter that has `nx_signal`: this one, or the one in .venv."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

VENV_PYTHON = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "python"


def run(module: str) -> None:
    if importlib.util.find_spec("nx_signal") is not None:
        importlib.import_module(module).main()
    elif VENV_PYTHON.exists() and "BENCH_IN_VENV" not in os.environ:
        os.environ["BENCH_IN_VENV"] = "1"
        os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])  # noqa: S606 - this program again
    else:
        sys.exit("nx_signal is not installed for this Python; scripts/test makes a .venv that has it.")
