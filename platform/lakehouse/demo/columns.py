"""Columns of generated rows: vectors of text, identifiers and times, made without a loop."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Rng = np.random.Generator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
_DASHES = (8, 13, 18, 23)


def stream(seed: int, *names: str | int) -> Rng:
    """A generator of its own for each purpose, so that one table's rows don't depend on how many another drew."""
    words = [zlib.crc32(name.encode()) if isinstance(name, str) else name for name in names]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def microseconds(moment: date) -> int:
    """Microseconds since 1970 of a moment, or of the beginning of a UTC day."""
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return (moment - EPOCH) // MICROSECOND


def moment(us: int) -> datetime:
    """The UTC moment so many microseconds after 1970."""
    return EPOCH + timedelta(microseconds=int(us))


def day_of(us: int) -> date:
    """The UTC day of a moment."""
    return moment(us).date()


def text_of(letters: Bytes) -> pa.Array:
    """Strings of one width from ASCII bytes of shape (rows, width)."""
    rows, width = letters.shape
    offsets = np.arange(rows + 1, dtype=np.int64) * width
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(letters).tobytes())]
    return pa.Array.from_buffers(pa.large_string(), rows, buffers).cast(pa.string())


def hexadecimal(raw: Bytes) -> Bytes:
    """Bytes of shape (rows, n) as hexadecimal digits of shape (rows, 2n)."""
    rows, width = raw.shape
    return np.frombuffer(raw.tobytes().hex().encode(), dtype=np.uint8).reshape(rows, 2 * width)


def random_bytes(rng: Rng, rows: int, width: int) -> Bytes:
    """Random bytes of shape (rows, width)."""
    return np.frombuffer(rng.bytes(rows * width), dtype=np.uint8).reshape(rows, width).copy()


def uuids(rng: Rng, rows: int) -> pa.Array:
    """Random UUIDs (RFC 9562, version 4) as text."""
    raw = random_bytes(rng, rows, 16)
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    letters = np.full((rows, 36), ord("-"), dtype=np.uint8)
    letters[:, [place for place in range(36) if place not in _DASHES]] = hexadecimal(raw)
    return text_of(letters)


def tokens(rng: Rng, rows: int, prefix: str, width: int = 24) -> pa.Array:
    """Identifiers as sign-in services make them: a prefix and `width` letters and digits."""
    alphabet = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", dtype=np.uint8)
    body = alphabet[rng.integers(0, len(alphabet), (rows, width))]
    head = np.tile(np.frombuffer(prefix.encode(), dtype=np.uint8), (rows, 1))
    return text_of(np.hstack([head, body]))


def addresses(rng: Rng, rows: int) -> pa.Array:
    """IP addresses of networks kept for documentation: mostly version 4, one in eight version 6."""
    pool = [f"198.51.{a}.{b}" for a in range(100, 104) for b in range(1, 255)]
    pool += [f"2001:db8::{a:x}:{b:x}" for a in range(1, 16) for b in range(1, 11)]
    return pick(rng, pool, rows)


def weights(values: Sequence[float]) -> Floats:
    """Probabilities in proportion to `values`."""
    array = np.asarray(values, dtype=np.float64)
    scaled: Floats = array / array.sum()
    return scaled


def pick(rng: Rng, pool: Sequence[str | None], rows: int, chances: Sequence[float] | None = None) -> pa.Array:
    """`rows` picks from a pool, with equal chances or those given."""
    chosen = rng.choice(len(pool), rows, p=None if chances is None else weights(chances))
    return pa.array(pool, pa.string()).take(pa.array(chosen))


def some_null(rng: Rng, column: pa.Array, share: float) -> pa.Array:
    """The column with about `share` of its values gone."""
    return null_where(column, rng.random(len(column)) < share)


def null_where(column: pa.Array, gone: Flags) -> pa.Array:
    """The column with a null wherever `gone` is true."""
    return pc.if_else(pa.array(gone), pa.scalar(None, column.type), column)


def timestamps(us: Ints) -> pa.Array:
    """Microseconds since 1970 as timestamps in UTC."""
    return pa.array(us, pa.timestamp("us", tz="UTC"))
