from fastapi import APIRouter, Depends, HTTPException
from sqlalchemy.orm import Session

from .database import get_db
from .models import Author

router = APIRouter(prefix="/authors")


@router.post("", status_code=201)
def create_author(name: str, db: Session = Depends(get_db)):
    author = Author(name=name)
    db.add(author)
    db.commit()
    db.refresh(author)
    return {"id": author.id, "name": author.name}


@router.get("/{author_id}")
def read_author(author_id: int, db: Session = Depends(get_db)):
    author = db.query(Author).filter(Author.id == author_id).first()
    if author is None:
        raise HTTPException(404)
    return {"name": author.name, "books": [book.title for book in author.books]}
