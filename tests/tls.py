"""A server of Postgres' TLS that stands before a real Postgres: the embedded one was built without.

It answers the client's request for TLS, takes the session over, and carries it to the real server in the clear. (Postgres
documentation, "Message Flow", SSL Session Encryption.) Certificates are made by the program `openssl`.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_PIECE = 1 << 16


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, and of a certificate for the server on loopback and for one client, both signed by it."""

    root: Path
    server: Path
    client: Path

    def key(self, certificate: Path) -> Path:
        """The private key of a certificate; libpq wants that nobody else can read it."""
        return certificate.with_suffix(".key")


def certificates(folder: Path) -> Certificates:
    """Make them in a folder."""
    root = _certificate(folder, "root", "/CN=an authority", ["basicConstraints=critical,CA:TRUE"])
    server = _certificate(folder, "server", "/CN=db.example", ["subjectAltName=IP:127.0.0.1"], root)
    return Certificates(root, server, _certificate(folder, "client", "/CN=reader", ["basicConstraints=CA:FALSE"], root))


def _certificate(folder: Path, name: str, subject: str, extensions: list[str], authority: Path | None = None) -> Path:
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", subject]
    command += ["-keyout", str(key), "-out", str(certificate)]
    for extension in extensions:
        command += ["-addext", extension]
    if authority is not None:
        command += ["-CA", str(authority), "-CAkey", str(authority.with_suffix(".key"))]
    subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o600)
    return certificate


@dataclass
class TlsServer:
    """What came to it. encrypted: sessions over TLS, each with the name in the client's certificate, or None. plain: others."""

    port: int
    encrypted: list[str | None] = field(default_factory=list)
    plain: int = 0


@contextmanager
def tls_before(target: tuple[str, int], files: Certificates, *, client_certificate: bool = False) -> Iterator[TlsServer]:
    """A server that takes sessions over TLS only. client_certificate: and only from clients that show one of the authority's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.key(files.server))
    if client_certificate:
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # a client learns during the handshake that it was refused
        context.load_verify_locations(files.root)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = TlsServer(listener.getsockname()[1])
        stopped = threading.Event()

        def serve() -> None:
            while not stopped.is_set():
                with suppress(OSError):
                    client, _ = listener.accept()
                    threading.Thread(target=_session, args=(client, target, context, server), daemon=True).start()

        accepting = threading.Thread(target=serve, daemon=True)
        accepting.start()
        try:
            yield server
        finally:
            stopped.set()
            with suppress(OSError), socket.create_connection(("127.0.0.1", server.port)):
                pass
            accepting.join()


def _session(client: socket.socket, target: tuple[str, int], context: ssl.SSLContext, server: TlsServer) -> None:
    with suppress(OSError, struct.error), closing(client):
        while (request := struct.unpack("!ii", client.recv(8, socket.MSG_WAITALL)))[1] == _GSS_REQUEST:
            client.sendall(b"N")
        if request[1] != _SSL_REQUEST:
            server.plain += 1
            return
        client.sendall(b"S")
        with context.wrap_socket(client, server_side=True) as secure, socket.create_connection(target) as real:
            shown = secure.getpeercert()
            server.encrypted.append(dict(pair for (pair,) in shown["subject"])["commonName"] if shown else None)  # type: ignore[misc]
            _carry(secure, real)


def _carry(secure: ssl.SSLSocket, real: socket.socket) -> None:
    """Bytes both ways until either side ends."""
    while True:
        readable = [secure] if secure.pending() else select.select([secure, real], [], [])[0]
        for side in readable:
            piece = side.recv(_PIECE)
            if not piece:
                return
            (real if side is secure else secure).sendall(piece)
