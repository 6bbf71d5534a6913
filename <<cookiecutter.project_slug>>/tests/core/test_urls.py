"""Database URLs as they are handed out: what they ask for is done, or refused in one line."""

<% if cookiecutter.database == "mysql" %>
import ssl
<% endif %>
from pathlib import Path
<% if cookiecutter.database == "postgresql" %>
from urllib.parse import quote_plus
<% endif %>

import pytest
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import URL, make_url, text
<% else %>
from sqlalchemy import make_url
<% endif %>

from app.core.config import load_settings
from app.core.urls import DRIVER, parse_url
<% if cookiecutter.database == "postgresql" %>
from tests.core.conftest import started
<% endif %>

<% if cookiecutter.database == "postgresql" %>
HERE = f"{DRIVER}://app:secret@127.0.0.1:5432/app"
FILE = str(Path(__file__))


@pytest.mark.parametrize(
    ("given", "query"),
    [
        ("", {}),
        ("?sslmode=require", {"dsn": "postgresql://?sslmode=require"}),
        (
            f"?sslmode=verify-full&sslrootcert={FILE}&channel_binding=prefer",
            {"dsn": f"postgresql://?sslmode=verify-full&sslrootcert={quote_plus(FILE)}"},
        ),
        ("?ssl=require&prepared_statement_cache_size=0", None),
    ],
)
def test_parameters_reach_the_driver(given: str, query: dict[str, str] | None) -> None:
    url = parse_url(HERE + given)

    assert url.query == (make_url(HERE + given).query if query is None else query)
    assert url.set(query={}) == make_url(HERE)


@pytest.mark.parametrize("hosts", ["one:5433,two", "one:5433,two:5432"])
@pytest.mark.parametrize("user", ["app:p%40ss,word@", "app@", ""])
def test_several_hosts_are_tried_in_their_order(hosts: str, user: str) -> None:
    url = parse_url(f"{DRIVER}://{user}{hosts}/app?target_session_attrs=read-write")

    assert url.query["host"] == ("one:5433", "two:5432")
    assert url.query["dsn"] == "postgresql://?target_session_attrs=read-write"
    assert url.host is None
    assert url.database == "app"
    assert url.password == ("p@ss,word" if "%40" in user else None)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("sslmode=on", "?sslmode= can only be allow, disable, prefer, require, verify-ca"),
        ("ssl=true", "?ssl= can only be allow, disable"),
        ("sslrootcert=/nowhere/ca.pem", "?sslrootcert= names a file that is not there"),
        ("sslrootcert=system", "?sslrootcert= names a file that is not there"),
        ("channel_binding=require", "?channel_binding= can only be disable, prefer"),
        ("target_session_attrs=master", "?target_session_attrs= can only be any"),
        ("connect_timeout=10", "POOL_TIMEOUT"),
        ("sslmod=require", "?sslmod= is not known, only application_name"),
        ("sslmode=disable&sslmode=require", "?sslmode= can only be"),
        ("sslmode=", "?sslmode= can only be"),
        ("ssl=disable&sslmode=require", "?ssl= and ?sslmode= are the same"),
        ("application_name=a&application_name=b", "?application_name= is there twice"),
        ("port=x", "has a host, a port or a number that is none"),
        ("host=one:1&host=:2", "has a host, a port or a number that is none"),
        ("prepared_statement_cache_size=x", "has a host, a port or a number that is none"),
        ("host=one:1&host=two:65536", "has a host, a port or a number that is none"),
    ],
)
<% else %>
HERE = f"{DRIVER}://app:secret@127.0.0.1:3306/app"
FILE = str(Path(__file__))
VERIFIED = {"ssl_ca": FILE, "ssl_check_hostname": "true"}
ENCRYPTED = {"ssl_check_hostname": "false"}


@pytest.mark.parametrize(
    ("given", "query"),
    [
        ("", {}),
        ("?charset=utf8mb4&connect_timeout=5", {"charset": "utf8mb4", "connect_timeout": "5"}),
        ("?ssl=true", ENCRYPTED),
        ("?ssl=false", {}),
        ("?ssl-mode=REQUIRED", ENCRYPTED),
        ("?ssl-mode=DISABLED", {}),
        (f"?ssl-mode=DISABLED&ssl-ca={FILE}", {}),
        (f"?ssl-mode=VERIFY_CA&ssl-ca={FILE}", ENCRYPTED | {"ssl_ca": FILE}),
        (f"?ssl-mode=VERIFY_IDENTITY&ssl-ca={FILE}", VERIFIED),
        (f"?ssl_ca={FILE}", VERIFIED),
        (f"?ssl=true&ssl_ca={FILE}&ssl_check_hostname=false", ENCRYPTED | {"ssl_ca": FILE}),
        (f"?ssl=true&ssl_ca={FILE}", VERIFIED),
        (f"?ssl_cert={FILE}&ssl_key={FILE}", ENCRYPTED | {"ssl_cert": FILE, "ssl_key": FILE}),
    ],
)
def test_parameters_reach_the_driver(given: str, query: dict[str, str]) -> None:
    url = parse_url(HERE + given)

    assert url.query == query
    assert url.set(query={}) == make_url(HERE)


@pytest.mark.parametrize(
    "query",
    [
        *("ssl-mode=VERIFY_CA", "ssl-mode=VERIFY_IDENTITY", "ssl_check_hostname=true"),
        "ssl=true&ssl_check_hostname=true",
    ],
)
def test_who_is_to_be_verified_is_verified(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without authorities the driver would take any server, in silence."""
    paths = ssl.get_default_verify_paths()
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths._replace(cafile=FILE))
    assert parse_url(f"{HERE}?{query}").query["ssl_ca"] == FILE

    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths._replace(cafile=""))
    with pytest.raises(ValueError, match="ssl-ca="):
        parse_url(f"{HERE}?{query}")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("ssl=perhaps", "?ssl= can only be 0, 1, false, true"),
        ("ssl-mode=PREFERRED", "?ssl_mode= can only be DISABLED, REQUIRED, VERIFY_CA"),
        ("ssl-ca=/nowhere/ca.pem", "?ssl_ca= names a file that is not there"),
        ("sslaccept=strict", "?sslaccept= is not known, only charset"),
        ("ssl=true&ssl=false", "?ssl= can only be"),
        ("charset=utf8", "?charset= can only be utf8mb4"),
        ("ssl-mode=", "?ssl_mode= can only be"),
        ("ssl=true&ssl-mode=DISABLED", "?ssl-mode= says all"),
        ("ssl-mode=REQUIRED&ssl_check_hostname=true", "?ssl-mode= says all"),
        ("program_name=a&program_name=b", "?program_name= is there twice"),
        ("connect_timeout=x", "has a host, a port or a number that is none"),
    ],
)
<% endif %>
def test_what_cannot_be_done_is_refused_in_one_line(
    query: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{HERE}?{query}")

    with pytest.raises(SystemExit) as stopped:
        load_settings()

    line = str(stopped.value)
    assert line.startswith("Wrong settings: DATABASE_URL: ")
    assert reason in line
    assert "\n" not in line
    assert "secret" not in line


@pytest.mark.parametrize("password", ["a,b", "a,b/c", "a,b?c", "a:b", "a#b", "a%b", "a+b", "", "é"])
def test_a_password_stays_one(password: str) -> None:
    url = parse_url(f"{DRIVER}://app:{password}@here/app\n")

    assert (url.password, url.host, url.database) == (password, "here", "app")


@pytest.mark.parametrize("where", ["app:a@b@here/app", "app:a@b@here:1,there:2/app"])
def test_a_part_of_a_password_is_no_host(where: str) -> None:
    with pytest.raises(ValueError, match=r"as %40|not a database URL"):
        parse_url(f"{DRIVER}://{where}")


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_is_one(port: int) -> None:
    with pytest.raises(ValueError, match="a port or a number that is none"):
        parse_url(f"{DRIVER}://app@here:{port}/app")
<% if cookiecutter.database == "postgresql" %>


async def test_the_server_hears_what_the_url_says(database_url: URL) -> None:
    said = {"application_name": "books", "options": "-c work_mem=7MB", "sslmode": "prefer"}
    url = parse_url(database_url.update_query_dict(said))

    async with (
        started(database_url=url, statement_timeout=7) as (_, database),
        database.session() as session,
    ):
        names = ("application_name", "work_mem", "statement_timeout")
        heard = [await session.scalar(text(f"SHOW {name}")) for name in names]

    assert heard == ["books", "7MB", "7s"]
<% endif %>
