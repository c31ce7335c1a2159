"""What people of the example applications write, are called, and sit in front of."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lakehouse.demo.columns import Ints, stream

FIRST_NAMES = (
    "Ada", "Amélie", "Ayşe", "Björn", "Chiara", "Chinedu", "Dmitri", "Élodie", "Fatima", "Giulia", "Hana", "Ingrid",
    "Ivan", "Jürgen", "João", "Kateřina", "Kwame", "Lars", "Leïla", "Liam", "Łukasz", "Mei", "Minh", "Naïma", "Noah",
    "Olga", "Omar", "Priya", "Quinn", "Rosa", "Sana", "Siobhán", "Søren", "Tariq", "Uma", "Víctor", "Wanjiru", "Xin",
    "Yuki", "Zoë", "さくら", "小明", "Αλέξης", "Мария",
)  # fmt: skip
LAST_NAMES = (
    "Abe", "Almeida", "Bauer", "Çelik", "Costa", "D'Angelo", "Dvořák", "Eriksson", "Fischer", "García", "Haddad",
    "Ibrahim", "Ivanova", "Jansen", "Kim", "Kowalski", "Lee", "López", "Müller", "Nakamura", "Nguyễn", "Okafor",
    "O'Neill", "Papadopoulos", "Patel", "Petrov", "Quispe", "Rossi", "Santos", "Schäfer", "Singh", "Smith",
    "Sørensen", "Tanaka", "Usman", "van den Berg", "Wang", "Yılmaz", "佐藤",
)  # fmt: skip
_SYSTEMS = ("Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 14_5", "X11; Linux x86_64", "iPhone; CPU iPhone OS 18_1")
_ENGINES = ("Gecko/20100101 Firefox/132.0", "AppleWebKit/605.1 Safari/605.1", "AppleWebKit/537.36 Chrome/131.0 Safari/537.36")
USER_AGENTS = (
    *(f"Mozilla/5.0 ({system}) {engine}" for system in _SYSTEMS for engine in _ENGINES),
    "chronochat-ios/4.2.1",
    'chronochat-android/4.1.9 (build 8812; "beta")',
    "curl/8.9.1",
    "python-requests/2.32.3",
)
TAGS = (
    "work",
    "travel",
    "código",
    "recipes",
    "study",
    "écriture",
    "家族",
    "ideas",
    "health",
    "sql",
    "music",
    "für später",
    "🚀 launch",
)
LANGUAGES = ("en", "de", "es", "fr", "pt-BR", "ja", "zh-Hans", "tr", "pl")
THEMES = ("light", "dark", "system", "solarized")
_WORDS = (
    (
        "the plan", "our", "a draft", "please", "explain", "why", "this query", "returns", "twice", "summary", "of",
        "meeting", "tomorrow", "budget", "how do I", "write", "better", "a letter to", "my landlord",
        "in plain words", "compare", "both", "options", "and then", "what if", "it rains", "train", "tickets",
        "list", "three", "ideas", "for", "dinner", "without", "garlic", "refactor", "the loop",
    ),
    (
        "bitte", "erkläre", "den Unterschied", "zwischen", "Größe", "und", "Maß", "für", "übermorgen", "ein Gedicht",
        "über", "Bäume",
    ),
    (
        "¿cómo", "puedo", "mejorar", "mi", "currículum", "mañana", "el niño", "pregunta", "según", "la reunión",
        "gracias", "también",
    ),
    (
        "je voudrais", "réserver", "une table", "près de", "l'hôtel", "où", "ça", "coûte", "déjà", "cœur", "naïf",
        "s'il vous plaît",
    ),
    (
        "来週の", "予定を", "まとめて", "ください", "東京", "から", "京都", "まで", "新幹線", "料金", "日本語で", "お願いします",
    ),
    (
        "请", "帮我", "写", "一封", "邮件", "关于", "项目", "进度", "谢谢", "数据", "为什么", "不同",
    ),
    (
        "пожалуйста", "объясни", "разницу", "между", "таблицей", "и", "видом", "спасибо", "завтра", "перевод",
        "текста", "ещё",
    ),
)  # fmt: skip
_SENTENCES = 6000


class Ribbon:
    """One long text of many sentences; any run of neighbouring sentences is a text of its own.

    `cuts` has the place where each sentence begins, and the end, so the length of a run is known without cutting it.
    """

    def __init__(self) -> None:
        rng = stream(1, "ribbon")
        language = rng.choice(len(_WORDS), _SENTENCES, p=[0.62, 0.08, 0.08, 0.07, 0.06, 0.05, 0.04])
        length = rng.integers(3, 15, _SENTENCES)
        ending = rng.choice(4, _SENTENCES, p=[0.6, 0.3, 0.08, 0.02])
        sentences = []
        for which, words, end in zip(language.tolist(), length.tolist(), ending.tolist(), strict=True):
            bank = _WORDS[which]
            chosen = [bank[index] for index in rng.integers(0, len(bank), words).tolist()]
            sentences.append(" ".join(chosen).capitalize() + (".", "?", " 🙂", ":\n\tselect \"a\\b\", 'ünï' from t;")[end])
        self.text = " ".join(sentences) + " "
        self.cuts: Ints = np.concatenate([[0], np.cumsum([len(sentence) + 1 for sentence in sentences])]).astype(np.int64)
        self.sentences = _SENTENCES

    def spans(self, first: Ints, count: Ints) -> tuple[Ints, Ints]:
        """Beginning and end in `text` of runs of `count` sentences from `first` on, cut short at the end of the ribbon."""
        last = np.minimum(first + count, self.sentences)
        return self.cuts[first], self.cuts[last] - 1

    def runs(self, first: Ints, count: Ints) -> list[str]:
        """The texts of those runs."""
        begin, end = self.spans(first, count)
        text = self.text
        return [text[low:high] for low, high in zip(begin.tolist(), end.tolist(), strict=True)]


@lru_cache(maxsize=1)
def ribbon() -> Ribbon:
    """The one ribbon of this process: the same text for every seed."""
    return Ribbon()
