"""A small strict parser of Prometheus' text format 0.0.4, to read what we serve as it would."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

NAME: Final = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_HELP: Final = re.compile(rf"# HELP ({NAME}) (.*)").fullmatch
_TYPE: Final = re.compile(rf"# TYPE ({NAME}) (counter|gauge|histogram)").fullmatch
_SAMPLE: Final = re.compile(rf"({NAME})(?:\{{(.*)\}})? (-?\d+(?:\.\d+)?(?:e[+-]\d+)?)").fullmatch
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_ESCAPES: Final = {r"\\": "\\", r"\n": "\n", r"\"": '"'}

PARTS: Final = ("_bucket", "_count", "_sum")

Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    help: str
    kind: str = ""
    samples: dict[Labels, Decimal] = field(default_factory=dict)

    def buckets(self, process: str) -> dict[str, Decimal]:
        """Upper edge to count of a process's histogram, as it stands in the text."""
        found = {}
        for labels, value in self.samples.items():
            told = dict(labels)
            if (told["process"], told["part"]) == (process, "_bucket"):
                found[told["le"]] = value
        return found

    def of(self, process: str) -> Decimal:
        """The one sample of a process."""
        [value] = [v for labels, v in self.samples.items() if ("process", process) in labels]
        return value


def parse(text: str) -> dict[str, Family]:
    """Every family once, HELP and TYPE before its samples, no sample twice."""
    assert text.endswith("\n")
    families: dict[str, Family] = {}
    current = ""
    for line in text[:-1].split("\n"):
        if help_line := _HELP(line):
            current = help_line[1]
            assert current not in families
            families[current] = Family(_unescaped(help_line[2]))
        elif type_line := _TYPE(line):
            assert (type_line[1], families[current].kind) == (current, "")
            families[current].kind = type_line[2]
        else:
            sample = _SAMPLE(line)
            assert sample, line
            kind, part = families[current].kind, sample[1].removeprefix(current)
            assert kind, line
            assert part in PARTS if kind == "histogram" else not part, line
            labels = _labels(sample[2] or "")
            if part:
                labels = (("part", part), *labels)
            assert labels not in families[current].samples
            families[current].samples[labels] = Decimal(sample[3])
    return families


def _labels(text: str) -> Labels:
    found, at = [], 0
    while at < len(text):
        match = _LABEL.match(text, at)
        assert match, text
        found.append((match[1], _unescaped(match[2])))
        at = match.end()
    return tuple(found)


def _unescaped(text: str) -> str:
    return re.sub(r'\\[\\n"]', lambda match: _ESCAPES[match[0]], text)
