"""`elara team`, `project`, `member`, `quota`."""

from __future__ import annotations

from fractions import Fraction
from urllib.parse import quote

import click

from elara_hub.commands.client import Service
from elara_hub.commands.output import project_path, show, show_table, with_service
from elara_hub.contract import PROJECT_ROLES, TEAM_ROLES


@click.group()
def team() -> None:
    """Teams: list, create, archive, members."""


@team.command("list")
@with_service
def list_teams(service: Service, as_json: bool) -> None:
    """List teams."""
    answer = service.call("GET", "/teams")
    show_table(answer, as_json, answer["teams"], {"Team": "slug", "Title": "title"}, "There are no teams.")


@team.command("create")
@click.argument("name")
@click.option("--title", default="", help="What pages call it.")
@with_service
def create_team(service: Service, name: str, title: str, as_json: bool) -> None:
    """Make a team."""
    answer = service.call("POST", "/teams", {"slug": name, "title": title})
    show(answer, as_json, f"The team {name} was made.")


@team.command("archive")
@click.argument("name")
@click.confirmation_option(prompt="Its projects are archived too, and their leases end. Go on?")
@with_service
def archive_team(service: Service, name: str, as_json: bool) -> None:
    """Archive a team with its projects."""
    show(service.call("DELETE", f"/teams/{name}"), as_json, f"The team {name} was archived.")


@team.command("members")
@click.argument("name")
@with_service
def team_members(service: Service, name: str, as_json: bool) -> None:
    """List a team's members."""
    answer = service.call("GET", f"/teams/{name}/members")
    show_table(answer, as_json, answer["members"], {"User": "user", "Role": "role"}, "The team has no members.")


@team.command("add")
@click.argument("name")
@click.argument("user")
@click.option("--role", type=click.Choice(TEAM_ROLES), default="member", show_default=True)
@with_service
def add_to_team(service: Service, name: str, user: str, role: str, as_json: bool) -> None:
    """Add a member to a team, or change a role."""
    answer = service.call("PUT", f"/teams/{name}/members/{quote(user, safe='')}", {"role": role})
    show(answer, as_json, f"{user} is {role} of the team {name}.")


@team.command("remove")
@click.argument("name")
@click.argument("user")
@with_service
def remove_from_team(service: Service, name: str, user: str, as_json: bool) -> None:
    """Remove a member from a team and its projects."""
    answer = service.call("DELETE", f"/teams/{name}/members/{quote(user, safe='')}")
    show(answer, as_json, f"{user} was removed from the team {name}.")


@click.group()
def project() -> None:
    """Projects: list, create, archive."""


@project.command("list")
@click.argument("team_name", metavar="TEAM")
@with_service
def list_projects(service: Service, team_name: str, as_json: bool) -> None:
    """List a team's projects."""
    answer = service.call("GET", f"/teams/{team_name}/projects")
    columns = {"Project": "slug", "Title": "title", "MLflow workspace": "handle"}
    show_table(answer, as_json, answer["projects"], columns, "The team has no projects.")


@project.command("create")
@click.argument("name", metavar="TEAM/PROJECT")
@click.option("--title", default="", help="What pages call it.")
@with_service
def create_project(service: Service, name: str, title: str, as_json: bool) -> None:
    """Make a project."""
    project_path(name)
    team_name, _, slug = name.partition("/")
    answer = service.call("POST", f"/teams/{team_name}/projects", {"slug": slug, "title": title})
    show(
        answer, as_json, f"The project {name} was made. Add its first member: elara member add {name} USER --role owner"
    )


@project.command("show")
@click.argument("name", metavar="TEAM/PROJECT")
@with_service
def show_project(service: Service, name: str, as_json: bool) -> None:
    """Show a project's members and quota."""
    answer = service.call("GET", project_path(name))
    quota = answer["quota"]
    people = ", ".join(f"{member['user']} ({member['role']})" for member in answer["members"]) or "nobody"
    held = f"{quota['held_device_share'] / 1000:g} of {quota['max_device_share'] / 1000:g} devices held"
    show(answer, as_json, f"{name}: {answer['title']}\nMembers: {people}\nQuota: {held}")


@project.command("archive")
@click.argument("name", metavar="TEAM/PROJECT")
@click.confirmation_option(prompt="Its leases end and nobody can open it any more. Go on?")
@with_service
def archive_project(service: Service, name: str, as_json: bool) -> None:
    """Archive a project."""
    show(service.call("DELETE", project_path(name)), as_json, f"The project {name} was archived.")


@click.group()
def member() -> None:
    """Members of a project: list, add, remove."""


@member.command("list")
@click.argument("name", metavar="TEAM/PROJECT")
@with_service
def list_members(service: Service, name: str, as_json: bool) -> None:
    """List a project's members."""
    answer = service.call("GET", project_path(name) + "/members")
    show_table(answer, as_json, answer["members"], {"User": "user", "Role": "role"}, "The project has no members.")


@member.command("add")
@click.argument("name", metavar="TEAM/PROJECT")
@click.argument("user")
@click.option("--role", type=click.Choice(PROJECT_ROLES), default="editor", show_default=True)
@with_service
def add_member(service: Service, name: str, user: str, role: str, as_json: bool) -> None:
    """Add a member to a project, or change a role."""
    answer = service.call("PUT", f"{project_path(name)}/members/{quote(user, safe='')}", {"role": role})
    show(answer, as_json, f"{user} is {role} of {name}.")


@member.command("remove")
@click.argument("name", metavar="TEAM/PROJECT")
@click.argument("user")
@with_service
def remove_member(service: Service, name: str, user: str, as_json: bool) -> None:
    """Remove a member from a project; leases that the member holds there end."""
    answer = service.call("DELETE", f"{project_path(name)}/members/{quote(user, safe='')}")
    show(answer, as_json, f"{user} was removed from {name}.")


@click.group()
def quota() -> None:
    """How many devices a project may hold, and for how long."""


@quota.command("show")
@click.argument("name", metavar="TEAM/PROJECT")
@with_service
def show_quota(service: Service, name: str, as_json: bool) -> None:
    """Show a project's quota."""
    answer = service.call("GET", project_path(name) + "/quota")
    held, limit = answer["held_device_share"] / 1000, answer["max_device_share"] / 1000
    show(answer, as_json, f"{name} holds {held:g} of {limit:g} devices, {answer['max_lease_minutes']} minutes at most.")


@quota.command("set")
@click.argument("name", metavar="TEAM/PROJECT")
@click.option("--devices", help="Devices at once, such as 2, 0.5 or 3/2.")
@click.option("--minutes", type=click.IntRange(1), help="Longest lease in minutes.")
@with_service
def set_quota(service: Service, name: str, devices: str | None, minutes: int | None, as_json: bool) -> None:
    """Change a project's quota; what is left out stays."""
    path = project_path(name) + "/quota"
    before = service.call("GET", path)
    share = before["max_device_share"]
    if devices is not None:
        try:
            share = int(Fraction(devices) * 1000)
        except (ValueError, ZeroDivisionError):
            raise click.BadParameter(f"{devices!r} is not a number of devices: write 2, 0.5 or 3/2.") from None
    body = {"max_device_share": share, "max_lease_minutes": minutes or before["max_lease_minutes"]}
    answer = service.call("PUT", path, body)
    text = f"{name} may hold {share / 1000:g} devices, {body['max_lease_minutes']} minutes at most."
    show(answer, as_json, text)
