"""The language models that chronochat offers, by provider. Their prices are the dbt seed `model_prices`."""

MODELS: dict[str, tuple[str, ...]] = {
    "gemini": ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-2.0-flash-lite"),
    "openai": ("gpt-4o-mini", "gpt-4o", "gpt-4.1", "o4-mini"),
}
OFFERED: tuple[tuple[str, str], ...] = tuple((provider, model) for provider, models in MODELS.items() for model in models)
