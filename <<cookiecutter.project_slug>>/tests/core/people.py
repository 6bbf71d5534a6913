"""What a service does with rows: create, list, read, change and delete them."""

from fastapi import APIRouter, HTTPException, Response
from sqlalchemy import bindparam, select, update

from app.api.errors import DATABASE_ERRORS
from app.core.deps import RetryRoute, SessionDep
from app.core.queries import Create, QueriesDep, Read, TransactionDep, Update
from tests.core.tables import Person, PersonCreate, PersonId, PersonRead, PersonUpdate

router = APIRouter(prefix="/people", route_class=RetryRoute, responses=DATABASE_ERRORS)

PERSON = select(Person.id, Person.email, Person.full_name, Person.created_at)
CREATE_PERSON = Create(PersonRead, Person, PERSON, given=PersonCreate)
PERSON_BY_ID = Read(PersonRead, PERSON.where(Person.id == bindparam("person_id")))
LOCKED_PERSON = Read(
    PersonRead, PERSON.where(Person.id == bindparam("person_id")).with_for_update()
)
UPDATE_PERSON = Update(update(Person).where(Person.id == bindparam("person_id")))
PEOPLE = Read(PersonRead, PERSON.order_by(Person.id).limit(50))


@router.post("", status_code=201)
async def create_person(queries: QueriesDep, data: PersonCreate, response: Response) -> PersonRead:
    """Create a person."""
    person = await queries.create(CREATE_PERSON, **data.model_dump())
    response.headers["Location"] = f"/people/{person.id}"
    return person


@router.get("")
async def list_people(queries: QueriesDep) -> dict[str, list[PersonRead]]:
    """List the first people."""
    return {"items": await queries.all(PEOPLE)}


@router.get("/{person_id}")
async def read_person(queries: QueriesDep, person_id: PersonId) -> PersonRead:
    """Read a person."""
    person = await queries.first(PERSON_BY_ID, person_id=person_id)
    if person is None:
        raise HTTPException(404, "No such person")
    return person


@router.patch("/{person_id}")
async def update_person(
    transaction: TransactionDep, person_id: PersonId, data: PersonUpdate
) -> PersonRead:
    """Change the fields that are sent."""
    person = await transaction.first(LOCKED_PERSON, person_id=person_id)
    if person is None:
        raise HTTPException(404, "No such person")
    if changes := data.model_dump():
        await transaction.execute(UPDATE_PERSON, person_id=person_id, **changes)
    return person.model_copy(update=changes)


@router.delete("/{person_id}", status_code=204)
async def delete_person(session: SessionDep, person_id: PersonId) -> None:
    """Delete a person."""
    person = await session.get(Person, person_id, with_for_update=True)
    if person is None:
        raise HTTPException(404, "No such person")
    await session.delete(person)
