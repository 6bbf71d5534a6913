"""The body of every error."""

from pydantic import BaseModel


class Error(BaseModel):
    """What went wrong, in words."""

    detail: str
