"""What requests may contain. Numbers are bounded by what the database holds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from elara_hub.pool.decide import Ask
from elara_hub.pool.requests import Request
from elara_remoting.types import WHOLE, parse_memory, parse_share

_YEAR = 366 * 24 * 60
_MOST = 2**62


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not contain control characters")
    return text


Text = Annotated[str, StringConstraints(max_length=200), AfterValidator(_printable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LeaseBody(Body):
    """Either `share` (thousandths, or 0.25, or "1/4") or `memory_bytes` (or "2GiB"); neither means whole devices."""

    count: int = Field(default=1, ge=1, le=1024)
    share: int | float | str | None = Field(default=None, description="thousandths (250), 0.25 or 1/4")
    memory_bytes: int | str | None = Field(default=None, description="bytes, or such as 2GiB")
    model: Name | None = None
    minutes: int = Field(default=60, ge=1, le=_YEAR)
    wait: bool = False

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in ("count", "share", "memory_bytes", "minutes"):
                if isinstance(data.get(key), bool):
                    raise ValueError(f"{key} must be a number, not true or false")
        return data

    @model_validator(mode="after")
    def _one_size(self) -> LeaseBody:
        if self.share is not None and self.memory_bytes is not None:
            raise ValueError("give either a share of the device or an amount of memory, not both")
        self.to_request()
        return self

    def to_request(self) -> Request:
        """Raises:
        ValueError: the share or the memory cannot be read; the text says what is accepted.
        """
        memory = None if self.memory_bytes is None else parse_memory(_short(self.memory_bytes))
        share = None
        if memory is None:
            share = WHOLE if self.share is None else parse_share(_short(self.share))
        elif memory > _MOST:
            raise ValueError("memory_bytes is more than any device has")
        return Request(Ask(self.count, share, memory, self.model), self.minutes, self.wait)


def _short(value: int | float | str) -> Any:
    # Reading a number of a million digits would take the service's time.
    if len(str(value)) > 40:
        raise ValueError("is too long to be a share or an amount of memory")
    return value


class MinutesBody(Body):
    minutes: int = Field(ge=1, le=_YEAR)


class EmptyBody(Body):
    pass


class TeamBody(Body):
    slug: Name
    title: Text = ""


class TitleBody(Body):
    title: Name


class RoleBody(Body):
    role: Name


class QuotaBody(Body):
    max_device_share: int = Field(ge=0, le=10**9, description="thousandths of devices; 2000 is two devices")
    max_lease_minutes: int = Field(ge=1, le=_YEAR)


class NameBody(Body):
    name: Name


class JoinBody(Body):
    token: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    name: Name
    public_key_pem: Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class WorkspaceBody(Body):
    model_config = ConfigDict(extra="ignore")
    team: Name
    project: Name
    image: Text = ""
    size: Text = ""


class TokenBody(Body):
    token: Annotated[str, StringConstraints(min_length=1, max_length=4000)]


class UserBody(Body):
    model_config = ConfigDict(extra="ignore")
    disabled: bool | None = None
