"""A Postgres source is read over TLS as its URL asks, with a client certificate where the server wants one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from lakehouse import Source, Table
from lakehouse.errors import ConfigurationError
from lakehouse.sources import open_source
from tests.tls import Certificates, certificates, tls_before

THINGS = Table("things", "snapshot", ("id",))

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None and "CI" not in os.environ, reason="certificates are made by the program openssl"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def database(postgres_database: str) -> str:
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute("create table things as select i as id, md5(i::text) as v from generate_series(1, 5000) i")
        connection.execute("alter table things add primary key (id)")
    return postgres_database


def address(url: str) -> tuple[str, int]:
    at = conninfo_to_dict(url)
    return str(at["host"]), int(at["port"] or 5432)


def rows_over(url: str, port: int, **parameters: object) -> int:
    """Check and read the table through a port of ours."""
    given = {"host": "127.0.0.1", "hostaddr": "127.0.0.1", "port": port, **parameters}
    through = make_conninfo(url, **{name: str(value) for name, value in given.items()})
    reader = open_source(Source("shop", "postgres", (THINGS,)), through)
    reader.check([THINGS])
    with reader.snapshot() as snapshot:
        return sum(batch.num_rows for batch in snapshot.read(THINGS))


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_every_session_of_a_read_is_encrypted(database: str, files: Certificates, mode: str) -> None:
    with tls_before(address(database), files) as server:
        assert rows_over(database, server.port, sslmode=mode, sslrootcert=files.root) == 5000
        assert len(server.encrypted) >= 3
        assert set(server.encrypted) == {None}
        assert server.plain == 0


def test_a_client_certificate_is_shown_by_every_session(database: str, files: Certificates) -> None:
    own = {"sslcert": files.client, "sslkey": files.key(files.client)}
    with tls_before(address(database), files, client_certificate=True) as server:
        assert rows_over(database, server.port, sslmode="verify-full", sslrootcert=files.root, **own) == 5000
        assert set(server.encrypted) == {"reader"}
        with pytest.raises(ConfigurationError, match="LAKEHOUSE_SOURCES__SHOP__URL"):
            rows_over(database, server.port, sslmode="verify-full", sslrootcert=files.root, sslcert="/nowhere.crt")


def test_a_server_that_is_not_the_one_that_was_meant_is_not_talked_to(database: str, files: Certificates, tmp_path: Path) -> None:
    other = certificates(tmp_path)
    with tls_before(address(database), files) as server:
        with pytest.raises(ConfigurationError, match="LAKEHOUSE_SOURCES__SHOP__URL") as unknown:
            rows_over(database, server.port, sslmode="verify-ca", sslrootcert=other.root)
        assert "certificate verify failed" in str(unknown.value.value)
        assert not server.encrypted
        with pytest.raises(ConfigurationError) as renamed:
            rows_over(database, server.port, sslmode="verify-full", sslrootcert=files.root, host="other.example")
        assert "other.example" in str(renamed.value.value)
