"""One deployment: its declared sources and its opened store, lake and warehouse. Everything opens when it is first used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from lakehouse.errors import DeclarationError, WrongUse
from lakehouse.pipeline.declared import declared_sources
from lakehouse.raw import KeptManifests, RawLog
from lakehouse.settings import Settings
from lakehouse.sources import Patience, open_source
from lakehouse.sources.reader import SourceReader
from lakehouse.spec import History, Source, Table, history_of, lake_tables, logged
from lakehouse.spec.quarantine import quarantine_of
from lakehouse.spec.references import check_references
from lakehouse.spec.soft_delete import published_name, stored_name
from lakehouse.stores import ObjectStore, open_store
from lakehouse.tables import open_tables
from lakehouse.tables.engine import LakeTables
from lakehouse.warehouse import open_warehouse
from lakehouse.warehouse.publisher import Warehouse


class Deployment:
    """What every hop works on. Opening it does no I/O.

    It raises DeclarationError for tables of one published name, and for references to what is not declared.
    """

    def __init__(self, settings: Settings, sources: Sequence[Source]) -> None:
        self.settings = settings
        self.sources = tuple(sources)
        names = [published_name(source.name, table) for source, table in self._tables()]
        names += [stored_name(source.name, table) for source, table in self._tables() if table.hides]
        check_references(self.sources)
        if taken := sorted({name for name in names if names.count(name) > 1}):
            raise DeclarationError(
                "opening the deployment: tables that would be published under one name",
                value=", ".join(taken),
                allowed="each name once, made of source, two underscores and table (`__history` follows for a history, "
                "`__with_deleted` for the rows that soft_delete hides)",
                remedy="Give one of the tables another name and a relation, or its source another name.",
            )

    @cached_property
    def store(self) -> ObjectStore:
        """The object store of raw files and lake tables."""
        return open_store(self.settings.store)

    @cached_property
    def lake(self) -> LakeTables:
        """The lake tables, by the engine that the settings name."""
        return open_tables(self.settings, self.store)

    @cached_property
    def warehouse(self) -> Warehouse:
        """The warehouse that tables are published to."""
        return open_warehouse(self.settings)

    def reader(self, source: Source) -> SourceReader:
        """A new reader of a source; the caller closes it."""
        url, replica = self.settings.source_url(source.name), self.settings.replica_url(source.name)
        own = self.settings.sources[source.name]
        return open_source(source, url, replica, Patience(own.connect_seconds, own.answer_seconds))

    def log(self, source: Source, table: Table) -> RawLog:
        """The raw log of a table; a history has that of its table."""
        table = logged(table)
        kept = KeptManifests(self.settings.home / "manifests" / f"{source.name}.{table.name}.jsonl")
        return RawLog(self.store, source.name, table, longest_hours=self.settings.longest_write_hours, kept=kept)

    def source(self, name: str) -> Source:
        """The declared source of that name."""
        for source in self.sources:
            if source.name == name:
                return source
        raise WrongUse(
            f"looking for source {name!r}",
            value=name,
            allowed=", ".join(source.name for source in self.sources),
            remedy="Use a declared source, or declare it in assets/.",
        )

    def select(self, names: Sequence[str] = ()) -> list[tuple[Source, Table]]:
        """The tables named `source` or `source.table`, each followed by its history if it has one; all of them for no names.

        WrongUse names what is not there. A quarantine is chosen by its own name alone.
        """
        everything = list(self._tables())
        if not names:
            return everything
        kept = [pair for pair in with_quarantines(everything) if pair not in everything]
        chosen: list[tuple[Source, Table]] = []
        for name in names:
            found = [(s, t) for s, t in everything if name in (s.name, f"{s.name}.{t.name}")]
            found += [(s, t) for s, t in kept if name == f"{s.name}.{t.name}"]
            if not found:
                raise WrongUse(
                    f"looking for table {name!r}",
                    value=name,
                    allowed=", ".join(f"{s.name}.{t.name}" for s, t in everything),
                    remedy="Name a declared table as source.table, or a whole source.",
                )
            chosen.extend(pair for pair in found if pair not in chosen)
        return chosen

    def with_histories(self, chosen: Sequence[tuple[Source, Table]]) -> list[tuple[Source, Table]]:
        """The chosen tables and the histories of these."""
        found = [(source, table) for source, table in chosen if not isinstance(table, History)]
        own = [(source, history_of(table)) for source, table in found if table.history]
        return [*chosen, *(pair for pair in own if pair not in chosen)]

    def _tables(self) -> Iterator[tuple[Source, Table]]:
        for source in self.sources:
            for table in lake_tables(source):
                yield source, table


def with_quarantines(chosen: Iterable[tuple[Source, Table]]) -> Iterator[tuple[Source, Table]]:
    """Tables, each followed by its quarantine where it has one."""
    for source, table in chosen:
        yield source, table
        if table.keeps_refused:
            yield source, quarantine_of(table)


def open_deployment(settings: Settings) -> Deployment:
    """The deployment of the working folder."""
    return Deployment(settings, declared_sources(settings))
