"""How a build reaches packages: this machine's configuration of pip, apt and npm, handed to it as BuildKit secrets.

Secrets are in no layer and in no cache key, so an image does not tell where it was built, and another index makes no
other image. Indexes and wheel folders that lie on this machine's disk are served to the build on 127.0.0.1 while it
runs.
"""

from __future__ import annotations

import ast
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from elara_hub.images.problem import ImageProblem

CA_IN_BUILD = "/run/secrets/ca"
_MOST_BYTES = 500_000  # BuildKit takes no larger secret
_SYSTEM_BUNDLES = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))
_PIP_KEPT = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "no-index", "timeout", "retries")
_APT_KEPT = ("Acquire::http", "Acquire::https", "Acquire::ftp", "Acquire::Retries")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


def pip_settings(listed: str) -> dict[str, str]:
    """pip's settings from `pip config list`, the stronger place last: files, then variables.

    >>> pip_settings("global.index-url='https://a/simple'\\n:env:.index-url='https://b/simple'\\n")
    {'index-url': 'https://b/simple'}
    """
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        place, _, key = name.rpartition(".")
        if key in _PIP_KEPT and place in ("global", "install", "download", ":env:"):
            try:
                settings[key] = str(ast.literal_eval(value))
            except (SyntaxError, ValueError):
                settings[key] = value
    return settings


def pip_conf(settings: Mapping[str, str], wheels: Sequence[Path], url: Mapping[Path, str], has_ca: bool) -> str:
    """The pip.conf of a build: local places are replaced by the addresses in `url`."""
    lines = ["[global]"]
    for key, value in settings.items():
        if key in ("extra-index-url", "find-links", "index-url"):
            value = "\n    ".join(_served(word, url) for word in value.split())
        if key != "find-links":
            lines.append(f"{key} = {value}")
    links = [_served(word, url) for word in settings.get("find-links", "").split()] + [url[w] for w in wheels]
    if links:
        lines.append("find-links = " + "\n    ".join(links))
    if has_ca:
        lines.append(f"cert = {CA_IN_BUILD}")
    return "\n".join(lines) + "\n"


def uv_toml(settings: Mapping[str, str], wheels: Sequence[Path], url: Mapping[Path, str]) -> str:
    """The same for uv; nothing where pip's settings hold what uv has no word for, so that the build takes pip."""
    if "proxy" in settings:
        return ""
    links = [_served(word, url) for word in settings.get("find-links", "").split()] + [url[w] for w in wheels]
    lines = [
        # As pip does: the best of all indexes, not the first index that knows the name.
        'index-strategy = "unsafe-best-match"',
        f"find-links = {json.dumps(links)}",
        f"allow-insecure-host = {json.dumps(settings.get('trusted-host', '').split())}",
    ]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        lines.append("no-index = true")
    for key in ("extra-index-url", "index-url"):
        for word in settings.get(key, "").split():
            lines += ["[[index]]", f"url = {json.dumps(_served(word, url))}"]
            lines += ["default = true"] if key == "index-url" else []
    return "\n".join(lines) + "\n"


def local_places(settings: Mapping[str, str]) -> list[Path]:
    """Folders of this machine that the settings name."""
    words = [w for key in ("index-url", "extra-index-url", "find-links") for w in settings.get(key, "").split()]
    return [path for word in words if (path := _local(word)) is not None]


def _local(word: str) -> Path | None:
    parts = urlsplit(word)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(word) if not parts.scheme and word.startswith("/") else None


def _served(word: str, url: Mapping[Path, str]) -> str:
    path = _local(word)
    return word if path is None else url[path]


def apt_conf(dumped: str, has_ca: bool) -> str:
    """What of `apt-config dump` says how to reach an archive."""
    kept = [line for line in dumped.splitlines() if line.startswith(_APT_KEPT) and '""' not in line]
    kept = [line for line in kept if "CaInfo" not in line]
    if has_ca:
        kept.append(f'Acquire::https::CaInfo "{CA_IN_BUILD}";')
    return "".join(line + "\n" for line in kept)


def npm_rc(settings: Mapping[str, str], has_ca: bool) -> str:
    """An .npmrc with the registry and, where a bundle is handed over, the authority."""
    lines = [f"{key}={value}" for key, value in settings.items()]
    if has_ca:
        lines.append(f"cafile={CA_IN_BUILD}")
    return "".join(line + "\n" for line in lines)


@contextmanager
def build_options(folder: Path, wheels: Sequence[Path] = ()) -> Iterator[list[str]]:
    """Options of `docker build` that hand over this machine's ways to packages, good within the `with` block.

    Args:
        folder: a private folder for the secrets' files.
        wheels: folders with further wheels for pip.

    Raises:
        ImageProblem: a folder does not exist.
    """
    for place in wheels:
        if not place.is_dir():
            raise ImageProblem(f"--find-links {place}: there is no such folder.")
    settings = pip_settings(pip_list())
    bundle = _bundle()
    with _serving([*local_places(settings), *wheels]) as url:
        files = {
            "pip": pip_conf(settings, wheels, url, bundle is not None),
            "uv": uv_toml(settings, wheels, url),
            "apt": apt_conf(_said("apt-config", "dump"), bundle is not None),
            "npm": npm_rc(_npm(), bundle is not None),
        }
        options = ["--network", "host"]
        for name, text in files.items():
            file = folder / name
            file.touch(mode=0o600)
            file.write_text(text)
            options += ["--secret", f"id={name},src={file}"]
        if bundle is not None:
            options += ["--secret", f"id=ca,src={bundle}"]
        # Docker knows these build arguments by itself and keeps them out of the image's history.
        for name in _PROXIES:
            if name in os.environ:
                options += ["--build-arg", name]
        yield options


def pip_list() -> str:
    """What `pip config list` prints here."""
    return _said(sys.executable, "-m", "pip", "config", "list")


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except OSError:
        return ""


def _npm() -> dict[str, str]:
    registry = _said("npm", "config", "get", "registry").strip()
    return {"registry": registry} if registry.startswith("http") else {}


def _bundle() -> Path | None:
    """The authorities that this machine trusts, so that a site's own one is among them."""
    named = [
        Path(os.environ[name]) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if os.environ.get(name)
    ]
    for file in (*named, *_SYSTEM_BUNDLES):
        if file.is_file() and 0 < file.stat().st_size < _MOST_BYTES:
            return file
    return None


class _Files(SimpleHTTPRequestHandler):
    """Serves folders below a path that nobody else on this machine can guess."""

    def __init__(self, *arguments: object, places: Mapping[str, Path], **named: object) -> None:
        self.places = places
        super().__init__(*arguments, **named)  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        """`/<secret>/...` is the folder that it stands for; anything else is nothing."""
        first, _, rest = unquote(urlsplit(path).path).lstrip("/").partition("/")
        root = self.places.get(first)
        if root is None:
            return os.devnull + "/none"
        wanted = (root / rest).resolve()
        return str(wanted) if wanted.is_relative_to(root.resolve()) else os.devnull + "/none"

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a build says itself what it fetches."""


@contextmanager
def _serving(folders: Sequence[Path]) -> Iterator[dict[Path, str]]:
    """Serve folders on 127.0.0.1; gives their addresses. An index names files beside it: its parent is served."""
    present = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    places = {secrets.token_hex(16): folder for folder in present}
    roots = {key: folder.parent if folder.name == "simple" else folder for key, folder in places.items()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, places=roots))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    url = {f: f"{address}/{key}/{'simple/' if f.name == 'simple' else ''}" for key, f in places.items()}
    url |= {folder: f"{address}/none/" for folder in folders if folder not in url}
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
