"""Errors as ClickHouse words them, and the HTTP status that belongs to each code."""

from __future__ import annotations

import re

_ENGINE_TEXT = re.compile(r"Code: (\d+)\. DB::Exception: (.*)", re.DOTALL)
_VERSION = re.compile(r" \(version [^()]*(\([^()]*\))?\)\s*$")
_NAME = re.compile(r" \(([A-Z][A-Z0-9_]+)\)$")

UNKNOWN_EXCEPTION = 1002

_STATUS = {
    **dict.fromkeys((194,), 401),
    **dict.fromkeys((192, 193, 516), 403),
    **dict.fromkeys((6, 16, 26, 27, 28, 36, 38, 41, 42, 43, 53, 62, 72, 117, 130, 158, 167, 190, 386, 427, 456, 457), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 144, 336, 372), 404),
    **dict.fromkeys((159,), 408),
    **dict.fromkeys((381,), 411),
    **dict.fromkeys((48,), 501),
    **dict.fromkeys((202, 209), 503),
}


class EngineError(Exception):
    """One of ClickHouse's errors: `code` is its number, `name` its symbol, str() the line that clients read."""

    def __init__(self, code: int, message: str, name: str) -> None:
        self.code = code
        self.name = name
        self.message = message
        super().__init__(f"Code: {code}. DB::Exception: {message}. ({name})")

    @classmethod
    def from_engine(cls, error: BaseException) -> EngineError:
        """What the embedded engine raised, taken apart."""
        match = _ENGINE_TEXT.search(str(error))
        if match is None:
            return cls(UNKNOWN_EXCEPTION, str(error).rstrip(". "), "UNKNOWN_EXCEPTION")
        message = _VERSION.sub("", match[2]).strip()
        name = _NAME.search(message)
        if name is not None:
            message = message[: name.start()]
        return cls(int(match[1]), message.rstrip(". "), name[1] if name else "UNKNOWN_EXCEPTION")

    @property
    def status(self) -> int:
        """The HTTP status that ClickHouse answers with for this code."""
        return _STATUS.get(self.code, 500)

    def text(self, version: str) -> str:
        """The body of the answer."""
        return f"{self} (version {version} (embedded))\n"
