"""Compressed bodies, both ways, as streams: gzip, deflate, lz4 (frames), zstd, and br where the package is installed."""

from __future__ import annotations

import importlib.util
import io
import zlib
from collections.abc import Callable
from typing import IO, Protocol, cast

from lakehouse.warehouse.server.failures import EngineError


class Compressor(Protocol):
    """What turns chunks of a response into one compressed stream."""

    def compress(self, data: bytes) -> bytes:
        """Take a chunk; what is ready is returned."""
        ...

    def flush(self) -> bytes:
        """The end of the stream."""
        ...


class _Lz4Compressor:
    def __init__(self) -> None:
        import lz4.frame  # type: ignore[import-untyped]

        self._frame = lz4.frame.LZ4FrameCompressor()
        self._begun = False

    def compress(self, data: bytes) -> bytes:
        head = b"" if self._begun else self._frame.begin()
        self._begun = True
        return cast(bytes, head + self._frame.compress(data))

    def flush(self) -> bytes:
        head = b"" if self._begun else self._frame.begin()
        return cast(bytes, head + self._frame.flush())


def _zstd_compressor() -> Compressor:
    import zstandard

    return zstandard.ZstdCompressor(level=1).compressobj()


_COMPRESSORS: dict[str, Callable[[], Compressor]] = {
    "lz4": _Lz4Compressor,
    "zstd": _zstd_compressor,
    "gzip": lambda: zlib.compressobj(1, zlib.DEFLATED, 31),
    "deflate": lambda: zlib.compressobj(1, zlib.DEFLATED, 15),
}


def response_encoding(accepted: str) -> str | None:
    """The first encoding of an Accept-Encoding header that this server writes; None: send it plain."""
    for part in accepted.split(","):
        name, _, quality = part.strip().partition(";")
        if name.strip().lower() in _COMPRESSORS and quality.replace(" ", "") not in ("q=0", "q=0.0"):
            return name.strip().lower()
    return None


def compressor(encoding: str) -> Compressor:
    """A fresh compressor; `encoding` as `response_encoding` gave it."""
    return _COMPRESSORS[encoding]()


class _Inflated(io.RawIOBase):
    """A zlib or brotli stream read through its decompressor."""

    def __init__(self, raw: io.RawIOBase, make: Callable[[], Callable[[bytes], bytes]]) -> None:
        self._raw = raw
        self._decompress = make()
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            chunk = self._raw.read(1 << 17)
            if not chunk:
                return 0
            self._ready = self._decompress(chunk)
        size = min(len(target), len(self._ready))
        target[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


def _brotli() -> Callable[[bytes], bytes]:
    import brotli  # type: ignore[import-not-found]

    return cast(Callable[[bytes], bytes], brotli.Decompressor().process)


class _Checked(io.RawIOBase):
    """A compressed stream whose damage is one of ClickHouse's errors, whatever its library raises."""

    def __init__(self, inner: io.RawIOBase, encoding: str) -> None:
        self._inner = inner
        self._encoding = encoding

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        import zstandard

        try:
            data = self._inner.read(len(target)) or b""
        except ConnectionError:
            raise
        except (OSError, EOFError, RuntimeError, ValueError, zlib.error, zstandard.ZstdError) as error:
            raise EngineError(354, f"Cannot read the body as {self._encoding}: {error}", "ZLIB_INFLATE_FAILED") from error
        target[: len(data)] = data
        return len(data)


def decompressed(raw: io.RawIOBase, encoding: str) -> io.RawIOBase:
    """`raw` as it was before `encoding`; EngineError for an encoding that is not known here, or bytes that are not in it."""
    encoding = encoding.strip().lower()
    return raw if encoding in ("", "identity") else _Checked(_decompressing(raw, encoding), encoding)


def _decompressing(raw: io.RawIOBase, encoding: str) -> io.RawIOBase:
    if encoding in ("gzip", "x-gzip"):
        import gzip

        return cast(io.RawIOBase, gzip.GzipFile(fileobj=cast(io.BufferedIOBase, raw), mode="rb"))
    if encoding == "deflate":
        return _Inflated(raw, lambda: zlib.decompressobj(15).decompress)
    if encoding == "lz4":
        import lz4.frame

        return cast(io.RawIOBase, lz4.frame.LZ4FrameFile(raw, mode="rb"))
    if encoding == "zstd":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(cast(IO[bytes], raw), read_across_frames=True)
        return cast(io.RawIOBase, reader)
    if encoding == "br" and importlib.util.find_spec("brotli") is not None:
        return _Inflated(raw, _brotli)
    raise EngineError(48, f"Unknown Content-Encoding: {encoding}", "NOT_IMPLEMENTED")
