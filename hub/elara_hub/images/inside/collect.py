"""Prints as JSON what packages an image holds, what its build left out, and which distribution it is."""

import importlib.metadata
import json
import pathlib
import subprocess

LEFT_OUT = pathlib.Path("/usr/share/elara/left-out")
PROXY = pathlib.Path("/srv/elara/deploy/proxy")


def npm() -> list[tuple[str, str]]:
    """The npm packages of the proxy, where the image has it."""
    found = set()
    for file in PROXY.glob("**/node_modules/**/package.json"):
        try:
            package = json.loads(file.read_text())
        except ValueError:
            continue
        if package.get("name") and package.get("version"):
            found.add((package["name"], package["version"]))
    return sorted(found)


def debian() -> list[list[str]]:
    """Debian packages: name, version, architecture."""
    query = ("dpkg-query", "-W", "-f", "${Package}\t${Version}\t${Architecture}\n")
    said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return [line.split("\t") for line in said.splitlines()]


release = dict(line.split("=", 1) for line in pathlib.Path("/etc/os-release").read_text().splitlines() if "=" in line)
print(
    json.dumps(
        {
            "debian": debian(),
            "python": [[d.metadata["Name"], d.version] for d in importlib.metadata.distributions()],
            "npm": npm(),
            "distribution": release.get("ID", "debian").strip('"'),
            "left_out": LEFT_OUT.read_text().splitlines() if LEFT_OUT.exists() else [],
        }
    )
)
