"""What the admin API takes and gives, as its OpenAPI document describes it."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from llm_pipeline.serving.protection.keys import KeyInfo, Limits
from llm_pipeline.serving.traffic.canary import RolloutConfig

DEFAULTS = RolloutConfig()
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]
Text = Annotated[str, Field(max_length=200, pattern=r"^[ -~]*$")]


def _whole(value: object) -> object:
    """JSON has one kind of number: 75.0 is an integer too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**9), WHOLE]
Seconds = Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)]
Scope = Literal["chat", "simulate", "feedback", "admin"]


class Strict(BaseModel):
    """A body: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: None = None
    code: str | None


class ErrorReply(BaseModel):
    error: ErrorDetail


class Done(BaseModel):
    ok: bool = True


class Health(BaseModel):
    status: Literal["ok"]


class Registering(Strict):
    artifact: Id = Field(description="Id or name of a release artefact of this home, such as `latest`.")


class ReleaseReply(BaseModel):
    id: str
    model: str
    prompt: str
    index: str | None
    policy: str
    engine: dict[str, JsonValue]
    replicas: int


class TrafficReply(BaseModel):
    revision: int
    weights: dict[str, float]
    shadow: str | None
    observed: dict[str, int] = Field(description="The revision that every gateway process acts on.")


class TrafficRecord(BaseModel):
    revision: int
    weights: dict[str, float]
    shadow: str | None
    reason: str
    at: float


class SetTraffic(Strict):
    weights: dict[Id, Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]] = Field(
        min_length=1,
        description="Release -> share, relative to the others: 9 and 1 are 90% and 10%.",
        json_schema_extra={"additionalProperties": False},
    )
    shadow: Id | None = Field(default=None, description="A release that gets copies of all requests and answers none.")
    reason: Text = "admin"


class RolloutSettings(Strict):
    """`canary.RolloutConfig`, field by field."""

    strategy: Literal["auto", "all_at_once", "blue_green", "rolling", "canary", "shadow", "ab"] = DEFAULTS.strategy
    steps: list[Share] = Field(default=list(DEFAULTS.steps), min_length=1, max_length=20)
    share: Share = DEFAULTS.share
    shadow_requests: Annotated[int, Field(ge=0, le=10**9), WHOLE] = DEFAULTS.shadow_requests
    step_requests: Count = DEFAULTS.step_requests
    least_canary: Count = DEFAULTS.least_canary
    most_requests: Count = DEFAULTS.most_requests
    max_seconds: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)] = DEFAULTS.max_seconds
    alpha: Share = DEFAULTS.alpha
    consecutive_failures: Count = DEFAULTS.consecutive_failures
    judge_floor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = DEFAULTS.judge_floor
    allowed_rise: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = DEFAULTS.allowed_rise
    parity: bool = DEFAULTS.parity


class StartRollout(Strict):
    release: Id
    config: RolloutSettings = RolloutSettings()


class RolloutReply(BaseModel):
    id: int
    release: str
    previous: str | None
    config: dict[str, JsonValue]
    status: str
    step: int
    evidence: dict[str, JsonValue]
    finished: bool
    created_at: float
    updated_at: float


class KeyLimits(Strict):
    """`keys.Limits`, with what makes sense; null is no limit."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent: Annotated[int, Field(ge=1, le=10**6), WHOLE] | None = None
    monthly_tokens: Annotated[int, Field(ge=1, le=10**15), WHOLE] | None = None
    monthly_cost: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None

    def limits(self) -> Limits:
        return Limits(**self.model_dump())


class MakeKey(Strict):
    name: Name
    scopes: list[Scope] = Field(default=["chat", "feedback"], min_length=1, max_length=8)
    labels: list[Name] = Field(
        default=[], max_length=64, description="Access labels: passages with labels are seen by keys that share one."
    )
    limits: KeyLimits = KeyLimits()
    expires_in: Seconds | None = Field(default=None, description="Seconds from now.")

    def expires_at(self) -> float | None:
        return None if self.expires_in is None else time.time() + self.expires_in


class ChangeKey(Strict):
    labels: list[Name] | None = Field(default=None, max_length=64)
    limits: KeyLimits | None = None
    expires_in: Seconds | None = None

    def values(self) -> dict[str, Any]:
        """The columns to change, of the fields that were given."""
        changed: dict[str, Any] = {}
        if "labels" in self.model_fields_set:
            changed["labels"] = self.labels or []
        if "limits" in self.model_fields_set:
            changed["limits"] = (self.limits or KeyLimits()).limits()
        if "expires_in" in self.model_fields_set:
            changed["expires_at"] = None if self.expires_in is None else time.time() + self.expires_in
        return changed


class RotateKey(Strict):
    overlap_seconds: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)] = Field(
        default=86_400.0, description="So long the present secret is accepted too."
    )


class KeyReply(BaseModel):
    id: int
    name: str
    scopes: list[str]
    labels: list[str]
    limits: dict[str, float | None]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used: float | None
    rotates_until: float | None

    @staticmethod
    def of(key: KeyInfo) -> KeyReply:
        return KeyReply(**{**vars(key), "scopes": sorted(key.scopes), "labels": sorted(key.labels), "limits": vars(key.limits)})


class SecretReply(BaseModel):
    id: int
    secret: str = Field(description="Shown this once; only its hash is kept.")


class UsageReply(BaseModel):
    month: str
    tokens: int
    cost: float


class EngineReply(BaseModel):
    name: str
    engine: str
    url: str
    pid: int
    state: str
    restarts: int
    detail: str
