"""The tables. Import every model here, so that Alembic sees them all."""

from app.models.base import Base
<% if cookiecutter.vector_search == "yes" %>
from app.models.document import Document
<% endif %>
from app.models.user import User

<% if cookiecutter.vector_search == "yes" %>
__all__ = ["Base", "Document", "User"]
<% else %>
__all__ = ["Base", "User"]
<% endif %>

# A mistake in a model stops the start, not the first request.
Base.registry.configure()
