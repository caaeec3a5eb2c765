"""`python -m convspectra` is the `convspectra` command."""

from .cli import main

main()
