"""MySQL and MariaDB by TLS: what a generated service does over an encrypted connection.

Run in a generated project, by its own Python, as the tests beside it are.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.core.config import load_settings
from app.core.db import Database
from app.models import User
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import URL, insert, text
from test_faults import kept


def certify(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for localhost, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(pem))
    paths[1].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@asynccontextmanager
async def served(url: URL) -> AsyncIterator[tuple[Database, AsyncClient]]:
    """Serve in this process."""
    os.environ["DATABASE_URL"] = url.render_as_string(hide_password=False)
    from app.main import create_app

    app = create_app(load_settings())
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        yield app.state.database, client


async def test_many_rows_and_single_statements_over_tls(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    emails = [f"{number}@example.com" for number in range(7)]
    async with kept(f"--ssl-cert={certificate}", f"--ssl-key={key}") as keeper:
        url = keeper.url.update_query_dict({"ssl_ca": str(certificate)})
        async with served(url) as (database, client):
            async with database.session() as session:
                _, cipher = (await session.execute(text("SHOW STATUS LIKE 'Ssl_cipher'"))).one()
                assert cipher
                session.add_all(User(email=email) for email in emails[:3])
            async with database.session() as session:
                await session.execute(insert(User), [{"email": email} for email in emails[3:6]])
            created = await client.post("/users", json={"email": emails[6]})
            assert created.status_code == 201
            assert (await client.get(created.headers["location"])).json() == created.json()
            items = (await client.get("/users")).json()["items"]
            assert [item["email"] for item in items] == emails


async def test_a_server_with_another_certificate_is_away(tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    certificate, key = certify(tmp_path)
    stranger, _ = certify(other)
    async with kept(f"--ssl-cert={certificate}", f"--ssl-key={key}") as keeper:
        async with served(keeper.url.update_query_dict({"ssl_ca": str(stranger)})) as (_, client):
            answer = await client.get("/users")
        assert answer.status_code == 503
