"""Signing in by an identity provider: a real hub against a small OpenID Connect provider."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
from hub_world import HubWorld, free_port, open_hub, until

from elara_hub.accounts.oidc import OidcProblem, use_oidc

PROVIDER = """
import sys
from oidc_provider_mock import User, run_server_in_thread
people = [User(sub=n, claims={"preferred_username": n.capitalize()}) for n in ("rosa", "karl", "eve")]
with run_server_in_thread(port=int(sys.argv[1]), user_claims=people):
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def hub_by_oidc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubWorld]:
    folder = tmp_path_factory.mktemp("oidc")
    port = free_port()
    provider = f"http://localhost:{port}"
    command = [sys.executable, "-W", "ignore", "-c", PROVIDER, str(port)]
    secret = folder / "client-secret"
    secret.write_text("a secret of the client\n")
    with (
        (folder / "provider.log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log) as process,
    ):
        until(lambda: _answers(provider), "the provider answers")
        choices = {
            "ELARA_AUTH": "oidc",
            "ELARA_OIDC_AUTHORIZE_URL": f"{provider}/oauth2/authorize",
            "ELARA_OIDC_TOKEN_URL": f"{provider}/oauth2/token",
            "ELARA_OIDC_USERDATA_URL": f"{provider}/userinfo",
            "ELARA_OIDC_CLIENT_ID": "elara",
            "ELARA_OIDC_CLIENT_SECRET_FILE": str(secret),
            "ELARA_OIDC_TITLE": "Example University",
            "ELARA_OIDC_ADMINS": "rosa",
            "ELARA_OIDC_ALLOWED": "rosa, karl",
        }
        try:
            with open_hub(folder / "data", service=False, extra=choices) as world:
                yield world
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/.well-known/openid-configuration", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def sign_in(world: HubWorld, name: str) -> httpx.Client:
    """Walk the whole way: the hub's page, the provider's form, and back."""
    http = httpx.Client(base_url=world.url, follow_redirects=True, timeout=60, trust_env=False)
    page = http.get("/hub/login")
    assert "Sign in with Example University" in page.text
    form = http.get("/hub/oauth_login")
    assert form.url.path == "/oauth2/authorize"
    assert form.url.params["redirect_uri"] == f"{world.url}/hub/oauth_callback"
    assert form.url.params["code_challenge_method"] == "S256"
    http.post(form.url, data={"sub": name})
    return http


def test_people_of_the_provider_sign_in_and_the_named_admin_is_one(hub_by_oidc: HubWorld) -> None:
    for name, admin in (("rosa", True), ("karl", False)):
        model = sign_in(hub_by_oidc, name).get("/hub/api/user").json()
        assert (model["name"], model["admin"]) == (name, admin)


def test_who_is_not_on_the_list_stays_out(hub_by_oidc: HubWorld) -> None:
    assert sign_in(hub_by_oidc, "eve").get("/hub/api/user").status_code == 403


def test_there_are_no_passwords_of_our_own(hub_by_oidc: HubWorld) -> None:
    assert httpx.get(f"{hub_by_oidc.url}/hub/signup", trust_env=False).status_code == 404
    assert not (hub_by_oidc.data / "hub" / "accounts.sqlite").exists()


def test_a_missing_variable_is_named() -> None:
    config = SimpleNamespace(GenericOAuthenticator=SimpleNamespace(), JupyterHub=SimpleNamespace())
    with pytest.raises(OidcProblem, match="ELARA_OIDC_AUTHORIZE_URL"):
        use_oidc(config, "http://127.0.0.1:8000", {})
