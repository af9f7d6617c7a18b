"""`python -m elara_remoting.node` is the command `elara node`."""

from elara_remoting.cli.node import node

node(prog_name="elara node")
