"""`python -m sexton`: the CLI, for where the script is not on the PATH."""

from sexton.cli.main import main

main()
