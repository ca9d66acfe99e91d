"""The command line: tables for people, `--json` for programs. Uses the verbs of `client` and nothing private."""
