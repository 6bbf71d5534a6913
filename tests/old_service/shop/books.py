from fastapi import APIRouter, Depends
from sqlalchemy.orm import Session

from .database import get_db
from .models import Author, Book

router = APIRouter(prefix="/books")


@router.post("", status_code=201)
def create_book(title: str, author_id: int, db: Session = Depends(get_db)):
    book = Book(title=title, author_id=author_id)
    db.add(book)
    db.commit()
    return {"id": book.id}


@router.get("")
def list_books(author: str, db: Session = Depends(get_db)):
    books = db.query(Book).join(Author).filter(Author.name == author).order_by(Book.id).all()
    return [{"title": book.title, "author": book.author.name} for book in books]
