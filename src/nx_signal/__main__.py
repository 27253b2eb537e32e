"""`python -m nx_signal` is `nx-signal`."""

from nx_signal.cli.main import entry

if __name__ == "__main__":
    entry()
