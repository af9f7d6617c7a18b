"""What workspaces may reach, as rules of the machine's packet filter on their bridge.

Bridges keep containers from one another but leave every address of the machine open to them, `internal` ones too. Two
chains of our own close that: one for what is meant for the machine itself (from INPUT), one for what it passes on (from
DOCKER-USER, which Docker leaves to the admin and asks first). Building the rules is pure; `apply` runs a script.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elara_spawner.docker.objects import Network

PRIVATE = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
"""Networks that are not the internet: private, link-local (clouds answer with credentials there), test, multicast."""


class FirewallFailed(Exception):
    """The rules could not be set; the text is a sentence."""


@dataclass(frozen=True, order=True)
class Endpoint:
    """An address and port that may be connected to over TCP."""

    address: str
    port: int


@dataclass(frozen=True)
class Policy:
    """What may be reached: `endpoints` wherever they are, name servers, and with `outside` all but `closed`."""

    endpoints: tuple[Endpoint, ...]
    name_servers: tuple[str, ...]
    outside: bool
    closed: tuple[str, ...] = PRIVATE


def chains(bridge: str) -> tuple[str, str]:
    """The names of the two chains of a bridge. (A chain's name has at most 28 characters, a bridge's 15.)"""
    return f"ELARA-IN-{bridge}", f"ELARA-FW-{bridge}"


def rules(network: Network, policy: Policy) -> tuple[list[str], list[str]]:
    """The rules of both chains, each as the arguments after ``-A CHAIN``."""
    allowed = [
        *(f"-d {e.address}/32 -p tcp --dport {e.port} -j ACCEPT" for e in sorted(set(policy.endpoints))),
        *(
            f"-d {server}/32 -p {protocol} --dport 53 -j ACCEPT"
            for server in policy.name_servers
            for protocol in ("udp", "tcp")
        ),
    ]
    # What answers a connection that the proxy opened, or one that was allowed.
    known = ["-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
    refused = ["-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT --reject-with icmp-admin-prohibited"]
    to_machine = [*known, f"-s {network.own} -j RETURN", *allowed, *refused]
    passed_on = [
        *known,
        # The site's own containers on this bridge, such as the proxy, connect to workspaces.
        f"-s {network.own} -j ACCEPT",
        *allowed,
        f"-o {network.bridge} -p tcp -j REJECT --reject-with tcp-reset",
        f"-o {network.bridge} -j DROP",
    ]
    if policy.outside:
        passed_on += [f"-d {closed} -j REJECT --reject-with icmp-admin-prohibited" for closed in policy.closed]
        passed_on.append("-j RETURN")
    else:
        passed_on += refused
    return to_machine, passed_on


def script(network: Network, policy: Policy) -> str:
    """A shell script, safe to repeat, that makes the rules true or ends with another status than 0 and a sentence."""
    own_in, own_forward = chains(network.bridge)
    to_machine, passed_on = rules(network, policy)
    digest = hashlib.sha256("\n".join([*to_machine, "", *passed_on]).encode()).hexdigest()[:24]
    mark = f"elara-{digest}"
    table = [
        "*filter",
        f":{own_in} - [0:0]",
        f":{own_forward} - [0:0]",
        *(f"-A {own_in} {rule}" for rule in (f"-m comment --comment {mark}", *to_machine)),
        *(f"-A {own_forward} {rule}" for rule in (f"-m comment --comment {mark}", *passed_on)),
        "COMMIT",
    ]
    return _SCRIPT.format(
        bridge=network.bridge,
        own_in=own_in,
        own_forward=own_forward,
        mark=mark,
        count_in=len(to_machine) + 2,
        count_forward=len(passed_on) + 2,
        table="\n".join(table),
    )


# `-S CHAIN` prints the chain itself and its rules; one with our mark and of the right length was set by us as it is.
# In both jumps `-i` decides, so that whatever the rest of the machine does is left alone.
_SCRIPT = """\
set -u
fail() {{ echo "$1" >&2; exit 3; }}
tables=""
for candidate in iptables iptables-nft iptables-legacy; do
  if "$candidate" -w 10 -S DOCKER-USER >/dev/null 2>&1; then tables=$candidate; break; fi
done
[ -n "$tables" ] || fail "No iptables here knows Docker's chain DOCKER-USER."
if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then
  [ "$(cat /proc/sys/net/bridge/bridge-nf-call-iptables)" = 1 ] ||
    fail "The kernel does not filter what passes a bridge (net.bridge.bridge-nf-call-iptables is 0)."
fi
held() {{
  "$tables" -w 10 -S "$1" 2>/dev/null | {{
    count=0; marked=no
    while read -r line; do
      count=$((count + 1))
      case "$line" in *"{mark}"*) marked=yes ;; esac
    done
    [ "$count" = "$2" ] && [ "$marked" = yes ]
  }}
}}
if ! held {own_in} {count_in} || ! held {own_forward} {count_forward}; then
  "$tables-restore" -w 10 --noflush <<'RULES' || fail "iptables did not take the rules."
{table}
RULES
fi
jump() {{
  "$@" -C "$chain" -i {bridge} -j "$target" 2>/dev/null || "$@" -I "$chain" 1 -i {bridge} -j "$target" ||
    fail "iptables did not take the jump from $chain."
}}
chain=INPUT target={own_in} jump "$tables" -w 10
chain=DOCKER-USER target={own_forward} jump "$tables" -w 10
if [ -e /proc/net/if_inet6 ]; then
  six=$(echo "$tables" | sed s/iptables/ip6tables/)
  chain=INPUT target=DROP jump "$six" -w 10
  chain=FORWARD target=DROP jump "$six" -w 10
fi
"""


def seen_here(network: Network) -> bool:
    """Whether this process is root where the bridge is: not so for a hub in a container with a network of its own."""
    return (
        os.geteuid() == 0
        and Path(f"/sys/class/net/{network.bridge}").exists()
        and shutil.which("iptables", path=_PATH) is not None
    )


_PATH = f"/usr/sbin:/sbin:/usr/bin:/bin:{os.environ.get('PATH', '')}"


async def apply(text: str) -> None:
    """Run the script on this machine.

    Raises:
        FirewallFailed: with what it printed.
    """
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        text,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": _PATH},
    )
    printed, _ = await process.communicate()
    if process.returncode != 0:
        raise FirewallFailed(printed.decode(errors="replace").strip() or "the rules could not be set.")


def address_of(text: str) -> bool:
    """Whether it is an IPv4 address."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def name_servers(resolv_conf: str) -> tuple[str, ...]:
    """Those that a container asks itself. One on the machine's loopback is asked by the engine in its place."""
    found: Sequence[str] = [
        words[1] for line in resolv_conf.splitlines() if len(words := line.split()) > 1 and words[0] == "nameserver"
    ]
    return tuple(s for s in found if address_of(s) and not ipaddress.IPv4Address(s).is_loopback)
