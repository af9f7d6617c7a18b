"""`python -m elara_remoting.cli` is the command `elara`."""

from elara_remoting.cli import main

main()
