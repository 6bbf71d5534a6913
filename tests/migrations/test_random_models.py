"""Models that nobody has thought of: from state to state by random changes, several at once.

Run beside `test_matrix.py`, which says what is asked of each change. A failure prints its seed,
which `SEED=` in the environment takes up again.
"""

import copy
import os
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, MetaData, Table
from sqlalchemy.dialects import mysql, postgresql
from test_matrix import IS_POSTGRESQL, Models, State, nothing
from test_matrix import models as models  # A fixture.
from test_matrix import server as server  # A fixture.

STEPS = 6
RUNS = 4

NAMES = ["a", "b_c", "Order", "select", "x1", "naïve", "a_long_name_of_many_words"]
TABLES = ["T1", "shops", "group", "orders", "Ünits"]
COMMENTS = [None, "it's: a 100 % comment", "ünï"]

# Types among which a column may change, each with what may be its default.
FAMILIES: list[list[tuple[Any, list[Any]]]] = [
    [
        (sa.Integer(), ["0", "7"]),
        (sa.BigInteger(), ["0", "12345678901"]),
        (sa.SmallInteger(), ["1"]),
        (sa.Numeric(10, 2), ["0", "1.50"]),
        (sa.Numeric(12, 4), ["1.2345"]),
        (sa.String(10), ["x", "it's"]),
        (sa.String(50), ["hello: world", "100%"]),
        (sa.Double(), ["1.5"]),
        (sa.Text(), []),
    ],
    [
        (sa.Date(), ["2026-01-02"]),
        (sa.DateTime(), [sa.func.now(), "2026-01-02 03:04:05"]),
        (sa.Text(), []),
    ],
    [(sa.Integer(), ["0"]), (sa.Boolean(), [sa.true(), sa.false()])],
    [(sa.JSON(), []), (sa.Text(), [])],
    [(sa.LargeBinary(), [])],
    [(sa.Time(), [])],
    [(sa.Uuid(), [])],
]
if IS_POSTGRESQL:
    FAMILIES += [
        [(sa.DateTime(), [sa.func.now()]), (sa.DateTime(timezone=True), [sa.func.now()])],
        [(sa.JSON(), []), (postgresql.JSONB(), [])],
        [(sa.Uuid(), []), (sa.String(50), [])],
        [(postgresql.INET(), []), (sa.Text(), [])],
        [(postgresql.ARRAY(sa.Integer), []), (postgresql.ARRAY(sa.Text), [])],
        [(sa.Interval(), [])],
    ]
else:
    FAMILIES += [
        [(sa.Integer(), ["0"]), (mysql.INTEGER(unsigned=True), ["1"])],
        [(sa.DateTime(), []), (mysql.DATETIME(fsp=6), [])],
        [(sa.Text(), []), (mysql.LONGTEXT(), [])],
        [(sa.VARBINARY(20), [])],
    ]


@dataclass
class Attribute:
    """A column: one of a family's types, or an Enum."""

    family: int
    type_: int
    default: int | None = None
    members: list[str] = field(default_factory=list)
    nullable: bool = True
    comment: str | None = None

    def column(self, table: str, name: str) -> Column[Any]:
        """Return it as SQLAlchemy has it."""
        type_, defaults = FAMILIES[self.family][self.type_]
        default = None if self.default is None else defaults[self.default]
        if self.members:
            type_ = sa.Enum(*self.members, name=f"{table}_{name}")
        options: dict[str, Any] = {"nullable": self.nullable, "comment": self.comment}
        return Column(name, type_, server_default=default, **options)

    @property
    def is_indexed(self) -> bool:
        """Return whether an index takes it, without a length."""
        type_, _ = FAMILIES[self.family][self.type_]
        short = isinstance(type_, sa.String) and type_.length is not None
        return short or isinstance(type_, sa.Integer | sa.Numeric | sa.Date | sa.Boolean | sa.Uuid)


@dataclass
class Entity:
    """A table: its columns by name, and what is of several of them."""

    columns: dict[str, Attribute]
    uniques: list[tuple[str, ...]] = field(default_factory=list)
    # Name, columns, and whether it is unique.
    indexes: list[tuple[str, tuple[str, ...], bool]] = field(default_factory=list)
    # A column of its own to the table that it refers to.
    references: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    comment: str | None = None


Entities = dict[str, Entity]


def declared(entities: Entities) -> State:
    """Return what declares the tables."""

    def declare(metadata: MetaData) -> None:
        for name, entity in entities.items():
            items: list[Any] = [Column("id", sa.Integer, primary_key=True)]
            items += [each.column(name, key) for key, each in entity.columns.items()]
            items += [sa.UniqueConstraint(*columns) for columns in entity.uniques]
            items += [sa.Index(key, *names, unique=one) for key, names, one in entity.indexes]
            for key, (other, ondelete) in entity.references.items():
                items.append(Column(key, sa.ForeignKey(f"{other}.id", ondelete=ondelete)))
            Table(name, metadata, *items, comment=entity.comment)

    return declare


class Changes:
    """Random changes of tables."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = 0

    def attribute(self) -> Attribute:
        family = self.random.randrange(len(FAMILIES))
        made = Attribute(family, self.random.randrange(len(FAMILIES[family])))
        made.nullable = self.random.random() < 0.6
        made.comment = self.random.choice(COMMENTS)
        if self.random.random() < 0.15:
            made.members = self.members()
        else:
            made.default = self.default(made)
        return made

    def members(self) -> list[str]:
        return self.random.sample("abcdef", self.random.randint(1, 5))

    def default(self, attribute: Attribute) -> int | None:
        _, defaults = FAMILIES[attribute.family][attribute.type_]
        chosen: int | None = self.random.choice([None, *range(len(defaults))])
        return chosen

    def entity(self) -> Entity:
        names = self.random.sample(NAMES, self.random.randint(1, 4))
        return Entity({name: self.attribute() for name in names})

    def some_columns(self, entity: Entity) -> tuple[str, ...]:
        found = [name for name, each in entity.columns.items() if each.is_indexed]
        return tuple(self.random.sample(found, min(len(found), self.random.randint(1, 2))))

    def change(self, before: Entities) -> Entities:
        """Return the tables with a few changes."""
        after = copy.deepcopy(before)
        for _ in range(self.random.randint(1, 4)):
            # One that goes and comes as another is for casts that there may not be.
            free = [name for name in TABLES if name not in after and name not in before]
            if free and (not after or self.random.random() < 0.1):
                after[self.random.choice(free)] = self.entity()
                continue
            name = self.random.choice(sorted(after))
            referred = {other for each in after.values() for other, _ in each.references.values()}
            if name not in referred and self.random.random() < 0.07:
                del after[name]
            else:
                self.change_table(after, name, before.get(name))
        return after

    def change_table(self, after: Entities, name: str, before: Entity | None) -> None:
        """Change one thing of a table. A column gets another type once in a step."""
        entity = after[name]
        column = self.random.choice(sorted(entity.columns))
        attribute = entity.columns[column]
        used = any(column in names for names in entity.uniques) or any(
            column in names for _, names, _ in entity.indexes
        )
        was = before.columns.get(column) if before else None
        match self.random.randrange(9):
            case 0:
                # As above.
                taken = entity.columns.keys() | (before.columns.keys() if before else set())
                if free := [each for each in NAMES if each not in taken]:
                    entity.columns[self.random.choice(free)] = self.attribute()
            case 1 if len(entity.columns) > 1 and not used:
                del entity.columns[column]
            case 2 if attribute.members:
                attribute.members = self.members()
            case 2 if was and was.type_ == attribute.type_ and not used:
                attribute.type_ = self.random.randrange(len(FAMILIES[attribute.family]))
                attribute.default = self.default(attribute)
            case 3:
                attribute.nullable = not attribute.nullable
            case 4 if not attribute.members:
                attribute.default = self.default(attribute)
            case 5:
                attribute.comment = self.random.choice(COMMENTS)
                entity.comment = self.random.choice(COMMENTS)
            case 6:
                names = self.some_columns(entity)
                if entity.uniques and self.random.random() < 0.5:
                    entity.uniques.pop()
                elif names and not any(set(names) == set(each) for each in entity.uniques):
                    entity.uniques.append(names)
            case 7:
                if entity.indexes and self.random.random() < 0.5:
                    entity.indexes.pop()
                elif names := self.some_columns(entity):
                    self.names += 1
                    unique = self.random.random() < 0.3
                    entity.indexes.append((f"ix_{self.names}", names, unique))
            case 8:
                if entity.references and self.random.random() < 0.5:
                    entity.references.popitem()
                else:
                    other = self.random.choice(sorted(after))
                    ondelete = self.random.choice([None, "CASCADE", "SET NULL"])
                    key = f"reference_{self.random.randrange(3)}"
                    entity.references.setdefault(key, (other, ondelete))


@pytest.mark.parametrize("run", range(RUNS))
def test_random_models(models: Models, run: int) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    print(f"run {run}: SEED={seed}")
    changes = Changes(seed)
    before: Entities = {}
    for _ in range(STEPS):
        after = changes.change(before)
        if after != before:
            models.follow(declared(before), declared(after))
        before = after
    models.follow(declared(before), nothing)
