"""Every error the platform raises on purpose.

    LakehouseError
    ├── TerminalError                  trying again changes nothing; somebody must act
    │   ├── DeclarationError           a Source or Table that cannot be meant
    │   ├── ConfigurationError         a setting that is missing, malformed or wrong
    │   ├── SourceMismatch             the source has not got what was declared
    │   ├── SchemaChanged              a column changed in a way that cannot be followed
    │   ├── ValueRefused               a value that the declared type cannot hold exactly
    │   ├── ExpectationFailed          rows that are not what their table expects of them
    │   ├── DeletesRefused             more rows are gone from the source than the table allows
    │   ├── DamagedData                bytes that are not the bytes that were written
    │   │   └── DamagedMetadata        those that say what a lake table is made of
    │   ├── Unsupported                this engine, format or store cannot do it
    │   └── WrongUse                   a command or call with arguments that make no sense
    └── TransientError                 trying again may help; nothing was left half done
        ├── SourceUnavailable          the source did not answer, or went away
        ├── StoreUnavailable           the object store did not answer
        ├── WarehouseUnavailable       the warehouse did not answer
        ├── CommitConflict             another process moved the log or the table first
        ├── TooLate                    a write took so long that its files may be gone
        ├── EngineFailed               Spark, or a part of it that was needed, died or refused
        └── ServiceFailed              an embedded server did not start or stop

Each says what was tried, the value that was met, what was allowed, and what to do next.
"""

from __future__ import annotations


class LakehouseError(Exception):
    """The root: `str(error)` is the whole message, one fact a line.

    tried: what the platform was doing, as a clause ("reading chronochat.users").
    value: what it met; shown by `repr` unless it is a string. Never a secret.
    allowed: what would have been right, in words or as the list of allowed values.
    remedy: what to do next, as an imperative sentence.
    """

    def __init__(self, tried: str, *, value: object = None, allowed: str | None = None, remedy: str) -> None:
        self.tried = tried
        self.value = value
        self.allowed = allowed
        self.remedy = remedy
        lines = [tried]
        if value is not None:
            lines.append(f"  found:   {value if isinstance(value, str) else repr(value)}")
        if allowed is not None:
            lines.append(f"  allowed: {allowed}")
        lines.append(f"  do next: {remedy}")
        super().__init__("\n".join(lines))


class TerminalError(LakehouseError):
    """Trying again changes nothing."""


class TransientError(LakehouseError):
    """Trying again may help; nothing was left half done."""


class DeclarationError(TerminalError):
    """A Source or Table that cannot be meant; raised when it is declared, before any work."""


class ConfigurationError(TerminalError):
    """A setting that is missing, malformed or refused by the server it names (a wrong password)."""


class SourceMismatch(TerminalError):
    """A declared table, column or collection is not in the source, or is not what was declared."""


class SchemaChanged(TerminalError):
    """A source column changed in a way that the table cannot follow; nothing was written."""


class ValueRefused(TerminalError):
    """A value cannot be held exactly by the declared type; its batch was not landed."""


class ExpectationFailed(TerminalError):
    """Rows are not what their table expects of them; their batch was not landed."""


class DeletesRefused(TerminalError):
    """More rows are gone from the source than their table allows at once; none of them was deleted here."""


class DamagedData(TerminalError):
    """Stored bytes differ from what was written; nothing was applied from them."""


class DamagedMetadata(DamagedData):
    """What says where a lake table stands cannot be read; its files may be whole."""


class Unsupported(TerminalError):
    """The chosen engine, format, store or source cannot do what was asked."""


class WrongUse(TerminalError):
    """A command or a call whose arguments make no sense together."""


class SourceUnavailable(TransientError):
    """The source did not answer, or went away in the middle; nothing was landed."""


class StoreUnavailable(TransientError):
    """The object store did not answer."""


class WarehouseUnavailable(TransientError):
    """The warehouse did not answer."""


class CommitConflict(TransientError):
    """Another process moved the log or the table first; this commit left nothing behind."""


class TooLate(TransientError):
    """A write took longer than files are kept that nothing names; it was not claimed, and it can be done again."""


class EngineFailed(TransientError):
    """The engine that folds tables died, or refused the work; nothing was committed."""


class ServiceFailed(TransientError):
    """An embedded server did not start, answer or stop; its log says why."""
