"""Whether the process lives, and whether it can serve."""

from typing import Literal

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel

from app.api.errors import RETRY_AFTER, UNAVAILABLE
from app.core.deps import DatabaseDep
from app.core.queries import QueriesDep

router = APIRouter(prefix="/health", tags=["health"])


class Health(BaseModel):
    """The answer of a process that is well, or serves without its replica."""

    status: Literal["ok", "degraded"] = "ok"


@router.get("/live")
async def live() -> Health:
    """Answer without the database: a restart of this process would not mend that."""
    return Health()


@router.get("/ready", responses=UNAVAILABLE)
async def ready(request: Request, database: DatabaseDep, queries: QueriesDep) -> Health:
    """Answer 200 when a request would get a connection and an answer from the database."""
    if request.app.state.draining:
        raise HTTPException(503, "Shutting down", {"Retry-After": RETRY_AFTER})
    await database.ping()
    return Health(status="degraded" if queries.lacks_replica else "ok")
