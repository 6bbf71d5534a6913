"""What a client is told for each error of the database's server."""

<% if cookiecutter.database == "mysql" %>
import re

<% endif %>
from sqlalchemy.exc import DBAPIError

<% if cookiecutter.database == "postgresql" %>
from app.core.server_errors import causes, error_code, is_stale
<% else %>
from app.core.server_errors import error_code
<% endif %>

ALREADY_EXISTS = (409, "That already exists")
MISSING = (409, "That refers to something that does not exist")
REFERRED_TO = (409, "Something still refers to that")
REFUSED_VALUE = (422, "The database refused a value")
TOO_LONG = (504, "The database took too long")
AWAY = (503, "The database is away")
BUSY = (503, "The database is busy")
<% if cookiecutter.database == "postgresql" %>
REFUSED = (503, "The database refused the service")
<% endif %>
READ_ONLY = (503, "The database takes no writes at the moment")
CONTENDED = (503, "Too many want to change the same at once")
<% if cookiecutter.database == "postgresql" %>
CHANGED = (503, "The database's tables are being changed")

# The answers to errors of the server, by the beginning of their SQLSTATE
# (https://www.postgresql.org/docs/current/errcodes-appendix.html). None is a bug of ours: what a
# client may send is checked before, so a value that is missing (23502), or that its type does not
# know (22P02, such as a new member of an enum without its migration), is our mistake. So are keys
# that ran out (2200H).
ANSWERS: dict[str, tuple[int, str] | None] = {
    "23505": ALREADY_EXISTS,
    "23P01": ALREADY_EXISTS,
    "23001": REFERRED_TO,
    "23502": None,
    "23": REFUSED_VALUE,
    "22P02": None,
    "2200H": None,
    "22": REFUSED_VALUE,
    "57014": TOO_LONG,
    "08": AWAY,
    "25006": READ_ONLY,
    "28": REFUSED,
    "3D000": AWAY,
    "40": CONTENDED,
    # By the condition of a view.
    "44000": REFUSED_VALUE,
    "53": BUSY,
    # Too long for its index, or for a full-text search.
    "54000": REFUSED_VALUE,
    "55P03": CONTENDED,
    "57": AWAY,
    # By a function's RAISE, such as a trigger's.
    "P0001": REFUSED_VALUE,
    "58": AWAY,
}


def answer_to(error: DBAPIError) -> tuple[int, str] | None:
    """Return the status and the words for an error of the database, or None for a bug of ours."""
    code = error_code(error) or ""
    if is_stale(error):
        return CHANGED
    if code == "23503":
        return answer_to_foreign_key(error)
    # The driver refuses what is of another type in Python than the column has.
    wrong_type = (isinstance(cause, TypeError | AttributeError) for cause in causes(error.orig))
    if code == "22000" and any(wrong_type):
        return None
    # Python takes and writes JSON that is none to the server: NaN, or half of a character.
    source = said_by_server(error, "server_source_filename"<% if cookiecutter.sync_bridge == "yes" %>, "source_file"<% endif %>)
    if code == "22P02" and source == "jsonfuncs.c":
        return REFUSED_VALUE
    for length in (5, 2):
        if code[:length] in ANSWERS:
            return ANSWERS[code[:length]]
    return AWAY if error.connection_invalidated else None


def answer_to_foreign_key(error: DBAPIError) -> tuple[int, str]:
    """Say which side of a foreign key is in the way."""
    [verb, *_] = (error.statement or "").upper().split() or [""]
    details = said_by_server(error, "detail"<% if cookiecutter.sync_bridge == "yes" %>, "message_detail"<% endif %>)
    # The server's words are in its own language; then the statement tells, but for an UPDATE.
    if "still referenced" in details or (verb == "DELETE" and "not present" not in details):
        return REFERRED_TO
    if "not present" in details or verb == "INSERT":
        return MISSING
    return (409, "That refers to something that does not exist, or something still refers to it")


def said_by_server(error: DBAPIError, *fields: str) -> str:
    """Return what the server says of an error, by the first of these fields that it has."""
    for cause in causes(error.orig):
        for field in fields:
<% if cookiecutter.sync_bridge == "yes" %>
            # asyncpg's are in the error itself, psycopg's in its `diag`.
            if value := getattr(getattr(cause, "diag", cause), field, None):
<% else %>
            if value := getattr(cause, field, None):
<% endif %>
                return str(value)
    return ""


def name_in(error: DBAPIError) -> str | None:
    """Return what an error is about, such as a constraint, but never a value."""
    return said_by_server(error, "constraint_name", "column_name") or None
<% else %>

# The answers to errors, by number; those of MariaDB alone are marked
# (https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html,
# https://mariadb.com/docs/server/reference/error-codes). What is not here is a bug of ours, such as
# a value that is missing (1048, 1364), or that its type does not know (1265, such as a new member of
# an enum without its migration): what a client may send is checked before.
ANSWERS = {
    1062: ALREADY_EXISTS,
    1586: ALREADY_EXISTS,
    1216: MISSING,  # for a user who may not see the other table
    1452: MISSING,
    1217: REFERRED_TO,  # for a user who may not see the other table
    1451: REFERRED_TO,
    1264: REFUSED_VALUE,  # out of range
    1292: REFUSED_VALUE,  # a time that its type does not know, such as a TIMESTAMP in 2039
    1366: REFUSED_VALUE,  # wrong for its type
    1406: REFUSED_VALUE,  # too long
    1153: REFUSED_VALUE,  # too long for any statement
    1300: REFUSED_VALUE,  # bytes that are no text, beside text (MariaDB)
    3854: REFUSED_VALUE,  # the same (MySQL)
    1526: REFUSED_VALUE,  # no partition for it
    1644: REFUSED_VALUE,  # SIGNAL SQLSTATE '45000', such as a trigger's
    1690: REFUSED_VALUE,  # out of range once it is reckoned with
    1369: REFUSED_VALUE,  # condition of a view
    3819: REFUSED_VALUE,  # check constraint
    3988: REFUSED_VALUE,  # letters that the column's character set has not (MySQL)
    4025: REFUSED_VALUE,  # check constraint (MariaDB)
    1365: REFUSED_VALUE,  # divided by zero
    1441: REFUSED_VALUE,  # a time beyond all times
    **dict.fromkeys((3140, 3141, 3143, 3150, 3151, 3157), REFUSED_VALUE),  # JSON (MySQL)
    **dict.fromkeys((1139, *range(3685, 3700)), REFUSED_VALUE),  # regular expressions
    **dict.fromkeys((1416, 3037, 3048, 3070, 3616, 3617, 4048), REFUSED_VALUE),  # geometry
    1205: TOO_LONG,  # lock wait timeout
    1317: TOO_LONG,  # interrupted
    1969: TOO_LONG,  # max_statement_time (MariaDB)
    3024: TOO_LONG,  # max_execution_time
    1213: CONTENDED,  # deadlock
    1020: CONTENDED,  # a row that is not any more as it was read (MariaDB)
    3101: CONTENDED,  # a commit that another node's was before (MySQL)
    1040: BUSY,  # too many connections
    1203: BUSY,  # too many connections of this user
    1226: BUSY,  # a limit of this user
    1041: BUSY,  # out of memory
    **dict.fromkeys((3, 1021, 1026, 1114, 3675), BUSY),  # a full disk
    1290: READ_ONLY,  # --read-only
    1792: READ_ONLY,  # transaction
    1836: READ_ONLY,  # read-only mode
    1180: READ_ONLY,  # a commit that the cluster does not take (Galera)
    3100: READ_ONLY,  # a commit that the cluster does not take (MySQL)
    1044: AWAY,  # access denied to the database
    1045: AWAY,  # access denied to the user
    1047: AWAY,  # a node that has lost its cluster (Galera)
    1049: AWAY,  # unknown database
    1053: AWAY,  # shutting down
    1927: AWAY,  # connection killed (MariaDB)
    2002: AWAY,  # cannot connect to the socket
    2003: AWAY,  # cannot connect to the host
    2006: AWAY,  # server has gone away
    2013: AWAY,  # lost connection
}

# What the server's messages name: a key, a column, a constraint.
NAME = re.compile(
    r"^Duplicate entry .* for key '([^']+)'"
    r"|^(?:Data|Out of range|Incorrect) .* for column '?(\S+?)'? at row"
    r"|CONSTRAINT [`\"]([^`\"]+)[`\"]"  # by the server's sql_mode
    r"|^Check constraint '([^']+)'",
    re.DOTALL,
)


# What a value is refused with, too, where these words are in it: by a column whose character set has
# not its letters (MariaDB), and by a full-text search.
OF_VALUES = {1267: ",COERCIBLE)", 1270: ",COERCIBLE)", 1064: "syntax error, unexpected"}


def answer_to(error: DBAPIError) -> tuple[int, str] | None:
    """Return the status and the words for an error of the database, or None for a bug of ours."""
    code = error_code(error)
    if code in ANSWERS:
        return ANSWERS[code]
    if code in OF_VALUES and OF_VALUES[code] in str(error.orig):
        return REFUSED_VALUE
    return AWAY if error.connection_invalidated else None


def name_in(error: DBAPIError) -> str | None:
    """Return what an error is about, such as a constraint, but never a value."""
    arguments = error.orig.args if error.orig is not None else ()
    found = NAME.search(str(arguments[1])) if len(arguments) > 1 else None
    return next(filter(None, found.groups()), None) if found else None
<% endif %>
