"""The base of everything that comes in."""

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """Strict, and unknown names are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
