"""The tables. Import every model here, so that Alembic sees them all."""

from app.models.base import Base
from app.models.user import User

__all__ = ["Base", "User"]
