"""The command line: parse, build Settings, run one command."""
