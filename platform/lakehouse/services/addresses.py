"""Where the parts of a deployment are: the recorded addresses under those that somebody gave."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr, TypeAdapter

from lakehouse.services.record import Record, merge
from lakehouse.settings import Settings

SECTIONS = {
    "store": ("url", "secret_key"),
    "warehouse": ("host", "password"),
    "catalog": ("url", "url"),
    "dagster": ("url", "url"),
}
"""Sections of Settings that lead to a server: the field that is empty when nobody gave one, and the one with the secret."""


def is_ours(address: str, record: Record) -> bool:
    """Whether an address is one of this home's own servers, perhaps under an older port: it holds our password."""
    return any(service.password in address for service in record.services.values())


def led(settings: Settings, record: Record) -> Settings:
    """The settings with the recorded addresses, where nobody gave others."""
    content: dict[str, Any] = revealed(settings)
    recorded = dict(record.settings)
    sources = recorded.pop("sources", {})
    for name, source in sources.items():
        url = content["sources"].get(name, {}).get("url", "")
        if not url or is_ours(url, record):
            content["sources"][name] = source
    for section, (address, secret) in SECTIONS.items():
        given = content[section]
        if section in recorded and (not given[address] or is_ours(given[secret] or "", record)):
            merge(given, recorded[section])
    if not content["privacy_key"]:
        content["privacy_key"] = recorded.get("privacy_key", "")
    plain = Settings.model_construct()
    checked = {name: _validated(settings, name, value) for name, value in content.items()}
    return plain.model_copy(update=checked)


def _validated(settings: Settings, name: str, value: Any) -> Any:
    """One field of Settings from its plain value; without reading the environment again."""
    annotation: Any = type(settings).model_fields[name].annotation
    return TypeAdapter(annotation).validate_python(value)


def revealed(settings: Settings) -> dict[str, Any]:
    """The settings as plain nested values, secrets included: for child processes only, never for output."""

    def plain(value: Any) -> Any:
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return value

    return {name: plain(value) for name, value in settings.model_dump().items()}
