"""The bodies of errors."""

from pydantic import BaseModel


class Error(BaseModel):
    """What went wrong, in words."""

    detail: str


class InvalidField(BaseModel):
    """Which part of a request is wrong, and why."""

    type: str
    loc: list[str | int]
    msg: str


class Invalid(BaseModel):
    """What is wrong with a request: by its parts, or in words where the database has refused it."""

    detail: str | list[InvalidField]
