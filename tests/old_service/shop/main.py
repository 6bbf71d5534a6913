from fastapi import FastAPI

from . import authors, books
from .database import Base, engine

Base.metadata.create_all(bind=engine)

app = FastAPI()
app.include_router(authors.router)
app.include_router(books.router)
