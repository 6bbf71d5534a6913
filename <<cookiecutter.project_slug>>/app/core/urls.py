"""Database URLs as hosted databases hand them out, turned into what the driver understands.

<% if cookiecutter.database == "postgresql" %>
They are written for libpq: `?sslmode=verify-full&sslrootcert=…`, `host1:5432,host2:5432`.
<% else %>
They are written for MySQL's own clients: `?ssl-mode=VERIFY_IDENTITY&ssl-ca=…`.
<% endif %>
"""

<% if cookiecutter.database == "postgresql" %>
import re
<% else %>
import ssl
<% endif %>
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
<% if cookiecutter.database == "postgresql" %>
from urllib.parse import urlencode
<% endif %>

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.util import to_list

<% if cookiecutter.database == "postgresql" %>
DRIVER = "postgresql+asyncpg"
EXAMPLE_URL = f"{DRIVER}://user:password@127.0.0.1:5432/name"

# The parameters of libpq that the driver knows: all of them, where it is given a DSN.
LIBPQ = {
    "application_name",
    "gsslib",
    "krbsrvname",
    "options",
    "passfile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "target_session_attrs",
}

# Those of the driver itself, and of SQLAlchemy.
OWN = {"dsn", "host", "port", "prepared_statement_cache_size", "ssl"}

# What the driver does anyway: it binds no channel, and does not encrypt by Kerberos.
WITHOUT_EFFECT = {"channel_binding": {"disable", "prefer"}, "gssencmode": {"disable", "prefer"}}

MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
CHOICES = WITHOUT_EFFECT | {
    "ssl": MODES,
    "sslmode": MODES,
    "sslnegotiation": {"direct", "postgres"},
    "target_session_attrs": {
        *("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
    },
}
FILES = {"passfile", "sslcert", "sslcrl", "sslkey", "sslrootcert"}

# Scheme, user and password as SQLAlchemy reads them, several hosts, the rest.
SEVERAL_HOSTS = re.compile(
    r"([\w+]+://(?:[^:/]*(?::[^@]*)?@|(?!.*@)))([^@/?]*,[^@/?]*)([/?].*|)", re.DOTALL
)
<% else %>
DRIVER = "mysql+asyncmy"
EXAMPLE_URL = f"{DRIVER}://user:password@127.0.0.1:3306/name"

# Those of the driver and of SQLAlchemy, and of MySQL's clients the same with a hyphen.
OWN = {
    "charset",
    "connect_timeout",
    "program_name",
    "ssl_ca",
    "ssl_capath",
    "ssl_cert",
    "ssl_check_hostname",
    "ssl_cipher",
    "ssl_key",
    "unix_socket",
}

# There is no word for "encrypted, if the server can".
CHOICES = {
    # In any other, values would be lost: `utf8` is one without emoji.
    "charset": {"utf8mb4"},
    "ssl": {"true", "1", "false", "0"},
    "ssl_check_hostname": {"true", "false"},
    "ssl_mode": {"DISABLED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"},
}
FILES = {"ssl_ca", "ssl_capath", "ssl_cert", "ssl_key"}
<% endif %>


def parse_url(value: Any) -> URL:
    """Return `value` as a URL for the driver, which prints without its password.

    Raises ValueError, without the value, when it is not a URL, names another driver, or asks for
    what the driver cannot do. A URL that names no driver would get SQLAlchemy's default, which
    blocks the event loop.
    """
    try:
<% if cookiecutter.database == "postgresql" %>
        url = split_hosts(value.strip()) if isinstance(value, str) else make_url(value)
<% else %>
        # A parameter without a value is refused below: it may be the one that asks for encryption.
        value = value.strip() if isinstance(value, str) else value
        url = make_url(value, keep_blank_values=True)
<% endif %>
    except (ArgumentError, ValueError):
        raise ValueError(f"not a database URL, such as {EXAMPLE_URL}") from None
    if url.drivername != DRIVER:
        raise ValueError(f"must start with {DRIVER}://, such as {EXAMPLE_URL}")
    # What stands before the last one would be a host's name, and a part of the password in the log.
    if "@" in (url.host or ""):
        raise ValueError("has several @: write each of the user's or the password's as %40")
    url = translate(url)
    try:
        ports = to_list(url.get_dialect()().create_connect_args(url)[1].get("port", 1))
    except (ArgumentError, ValueError):
        ports = [0]
    if not all(0 < port < 2**16 for port in ports):
        raise ValueError("has a host, a port or a number that is none")
    return url


<% if cookiecutter.database == "postgresql" %>
def split_hosts(value: str) -> URL:
    """Return a URL whose hosts may be several, as libpq writes them: SQLAlchemy repeats `host=`."""
    # A parameter without a value is refused below: it may be the one that asks for encryption.
    if not (match := SEVERAL_HOSTS.fullmatch(value)):
        return make_url(value, keep_blank_values=True)
    start, hosts, rest = match.groups()
    # SQLAlchemy wants the port of each.
    each = [host if ":" in host else f"{host}:5432" for host in hosts.split(",")]
    return make_url(start + rest, keep_blank_values=True).update_query_dict({"host": each})


<% endif %>
def check(parameters: Mapping[str, str | Sequence[str]], known: set[str]) -> None:
    """Raise ValueError, without a value, for a parameter that is not known or cannot be kept."""
    for name, value in parameters.items():
        if name not in known:
            raise ValueError(f"?{name}= is not known, only {', '.join(sorted(known))}")
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError(f"?{name}= can only be {', '.join(sorted(CHOICES[name]))}")
        if name in FILES and not (value and Path(str(value)).exists()):
            raise ValueError(f"?{name}= names a file that is not there")
<% if cookiecutter.database == "postgresql" %>
        if not isinstance(value, str) and name not in {"host", "port"}:
<% else %>
        if not isinstance(value, str):
<% endif %>
            raise ValueError(f"?{name}= is there twice")


<% if cookiecutter.database == "postgresql" %>
def translate(url: URL) -> URL:
    """Return the URL with libpq's parameters in a DSN, the only place where the driver reads them.

    Raises ValueError.
    """
    if "connect_timeout" in url.query:
        raise ValueError("?connect_timeout= is the setting POOL_TIMEOUT here")
    if {"ssl", "sslmode"} <= url.query.keys():
        raise ValueError("?ssl= and ?sslmode= are the same: leave one out")
    check(url.query, LIBPQ | OWN | set(WITHOUT_EFFECT))
    own = {name: value for name, value in url.query.items() if name in OWN}
    libpq = [(name, value) for name, value in url.query.items() if name in LIBPQ]
    if libpq:
        own["dsn"] = f"postgresql://?{urlencode(libpq)}"
    return url.set(query=own)
<% else %>
def translate(url: URL) -> URL:
    """Return the URL with the parameters of MySQL's clients by the driver's names.

    Raises ValueError.
    """
    if url.host and "," in url.host:
        raise ValueError("names several hosts: one of a proxy that finds the primary is needed")
    query = {name.replace("-", "_"): value for name, value in url.query.items()}
    check(query, OWN | {"ssl", "ssl_mode"})
    if "ssl_mode" in query and not {"ssl", "ssl_check_hostname"}.isdisjoint(query):
        raise ValueError("?ssl-mode= says all: leave out ?ssl= and ?ssl_check_hostname=")
    mode = query.pop("ssl_mode", default_mode(query))
    query.pop("ssl", None)
    if mode == "DISABLED":
        query = {name: value for name, value in query.items() if not name.startswith("ssl_")}
    else:
        query["ssl_check_hostname"] = str(mode == "VERIFY_IDENTITY").lower()
    if mode in {"VERIFY_CA", "VERIFY_IDENTITY"} and not {"ssl_ca", "ssl_capath"} & set(query):
        # Without any, the driver would verify nothing.
        if not (system := ssl.get_default_verify_paths().cafile):
            raise ValueError(f"?ssl-mode={mode} needs a file of authorities: ?ssl-ca=")
        query["ssl_ca"] = system
    return url.set(query=query)


def default_mode(query: Mapping[str, str | Sequence[str]]) -> str:
    """Return what a URL without `ssl-mode` asks for by the others: a name is verified with it."""
    if query.get("ssl") in {"false", "0"}:
        return "DISABLED"
    has_authority = not {"ssl_ca", "ssl_capath"}.isdisjoint(query)
    if query.get("ssl_check_hostname", str(has_authority).lower()) == "true":
        return "VERIFY_IDENTITY"
    if has_authority:
        return "VERIFY_CA"
    return "REQUIRED" if any(name.startswith("ssl") for name in query) else "DISABLED"
<% endif %>
