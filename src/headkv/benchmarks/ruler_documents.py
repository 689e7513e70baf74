"""The documents of RULER's qa_1 (SQuAD 2.0) and qa_2 (HotpotQA), in the files that RULER reads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from headkv.downloads.cached import first_line
from headkv.downloads.hub import hub_file
from headkv.errors import UserError
from headkv.storage.reading import parse

FILES = {"qa_1": "squad.json", "qa_2": "hotpotqa.json"}
_HUB = {
    "squad.json": ("rajpurkar/squad_v2", "squad_v2/validation-00000-of-00001.parquet"),
    "hotpotqa.json": ("hotpotqa/hotpot_qa", "distractor/validation-00000-of-00001.parquet"),
}


@dataclass(frozen=True)
class Question:
    """A question and the numbers of its documents.

    Attributes:
        text: what is asked.
        answers: any of them is right.
        own: documents that the answer stands in or that belong to the question.
        near: others on the same subject, taken before any else.
    """

    text: str
    answers: tuple[str, ...]
    own: tuple[int, ...]
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class Documents:
    """All documents of a file, each once, and the questions that can be answered."""

    texts: list[str]
    questions: list[Question]

    def example(
        self, number: int, rng: Random
    ) -> tuple[str, tuple[str, ...], list[str], list[str]]:
        """Returns question, answers, its own documents, and the others in a drawn order.

        Args:
            number: of the question.
            rng: the example's own.
        """
        asked = self.questions[number]
        taken = {*asked.own, *asked.near}
        rest = [place for place in range(len(self.texts)) if place not in taken]
        near = rng.sample(asked.near, len(asked.near))
        order = [*near, *rng.sample(rest, len(rest))]
        own = [self.texts[place] for place in asked.own]
        return asked.text, asked.answers, own, [self.texts[place] for place in order]


def read_documents(path: Path) -> Documents:
    """Reads `squad.json` or `hotpotqa.json`, each in the form in which it is published.

    Raises:
        UserError: the file cannot be read or lacks a field.
    """
    read = _squad if path.name == "squad.json" else _hotpot
    try:
        return read(parse(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        what = f"no field {problem}" if isinstance(problem, KeyError) else first_line(problem)
        form = "SQuAD 2.0's (data)" if read is _squad else "HotpotQA's (question, answer, context)"
        raise UserError(
            f"{path} cannot be used: {what}", allowed=f"a file of {form}", do="fetch it again"
        ) from problem


def _squad(content: Mapping[str, Any]) -> Documents:
    """SQuAD: a paragraph is a document, those of its article are near."""
    articles = [[p["context"] for p in article["paragraphs"]] for article in content["data"]]
    texts = sorted({text for article in articles for text in article})
    place = {text: number for number, text in enumerate(texts)}
    questions = []
    for article, own in zip(content["data"], articles, strict=True):
        numbers = sorted({place[text] for text in own})
        for paragraph in article["paragraphs"]:
            mine = place[paragraph["context"]]
            near = tuple(number for number in numbers if number != mine)
            for each in paragraph["qas"]:
                if not each["is_impossible"]:
                    answers = tuple(answer["text"] for answer in each["answers"])
                    questions.append(Question(each["question"], answers, (mine,), near))
    return Documents(texts, questions)


def _hotpot(content: Sequence[Mapping[str, Any]]) -> Documents:
    """HotpotQA: a question has ten documents of its own."""
    own = [[f"{title}\n{''.join(lines)}" for title, lines in row["context"]] for row in content]
    texts = sorted({text for each in own for text in each})
    place = {text: number for number, text in enumerate(texts)}
    return Documents(
        texts,
        [
            Question(row["question"], (row["answer"],), tuple(place[text] for text in each))
            for row, each in zip(content, own, strict=True)
        ],
    )


def fetch(folder: Path, files: Sequence[str]) -> None:
    """Downloads the hub's validation sets and writes them in the published form.

    Raises:
        UserError: the hub cannot be reached.
    """
    import pandas as pd

    for name in files:
        rows = pd.read_parquet(hub_file(*_HUB[name])).to_dict("records")
        content = _published_squad(rows) if name == "squad.json" else _published_hotpot(rows)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def _published_squad(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    articles: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        answers = [{"text": str(text)} for text in row["answers"]["text"]]
        asked = {
            "question": row["question"],
            "answers": answers,
            "is_impossible": not answers,
        }
        articles.setdefault(row["title"], {}).setdefault(row["context"], []).append(asked)
    return {
        "data": [
            {"paragraphs": [{"context": text, "qas": qas} for text, qas in paragraphs.items()]}
            for paragraphs in articles.values()
        ]
    }


def _published_hotpot(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "question": row["question"],
            "answer": row["answer"],
            "context": [
                [str(title), [str(line) for line in lines]]
                for title, lines in zip(
                    row["context"]["title"], row["context"]["sentences"], strict=True
                )
            ],
        }
        for row in rows
    ]
