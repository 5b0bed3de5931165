"""What the sections of the configuration are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

Positive = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the configuration: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
