"""Questions and answers on disk: VQAv2, TextVQA, DocVQA, ChartQA, MMMU, and JSON lines.

A loader takes a file, or a folder that is searched for the file of a split ("val").
"""

import ast
from pathlib import Path

from paligemma.evaluation.datasets.examples import Answers, Choice, Example, Loaded
from paligemma.evaluation.datasets.files import (
    Pictures,
    Row,
    find,
    find_one,
    read_json,
    read_lines,
    some,
)


class _Question(Row):
    question_id: str
    image_id: int
    question: str


class _Questions(Row):
    data_subtype: str
    questions: list[_Question]


class _Said(Row):
    answer: str


class _Annotation(Row):
    question_id: str
    answer_type: str = ""
    answers: list[_Said]


class _Annotations(Row):
    annotations: list[_Annotation]


def vqav2(data: Path, split: str) -> Loaded:
    """VQAv2's `…_questions.json`, with the `…_annotations.json` of the same pictures beside."""
    source = find_one(data, f"*{split}*_questions.json")
    name = source.name.replace("OpenEnded_", "").replace("_questions", "_annotations")
    answers = find_one(source.parent if data.is_file() else data, name)
    read, picture = read_json(_Questions, source), Pictures(data, source)
    rows = read_json(_Annotations, answers).annotations
    known = {row.question_id: row for row in rows if row.answers}
    kind = read.data_subtype
    return some(
        (
            Example(
                one.question_id,
                picture(f"{kind}/COCO_{kind}_{one.image_id:012d}.jpg"),
                one.question,
                Answers(tuple(said.answer for said in known[one.question_id].answers)),
                known[one.question_id].answer_type,
            )
            for one in read.questions
            if one.question_id in known
        ),
        data,
        {"without answers": sum(one.question_id not in known for one in read.questions)},
    )


def _answered(asked: list[tuple], picture: Pictures, data: Path) -> Loaded:
    """Examples of (id, picture's name, question, answers); those without answers are left out."""
    examples = [
        Example(one, picture(name), question, Answers(answers))
        for one, name, question, answers in asked
        if answers
    ]
    return some(examples, data, {"without answers": len(asked) - len(examples)})


class _TextQuestion(Row):
    question_id: str
    image_id: str
    question: str
    answers: tuple[str, ...] = ()


class _TextQuestions(Row):
    data: list[_TextQuestion]


def textvqa(data: Path, split: str) -> Loaded:
    """TextVQA's `TextVQA_0.5.1_val.json`; its pictures are `<image_id>.jpg`."""
    source = find_one(data, f"TextVQA*_{split}.json")
    rows, picture = read_json(_TextQuestions, source).data, Pictures(data, source)
    asked = [(row.question_id, f"{row.image_id}.jpg", row.question, row.answers) for row in rows]
    return _answered(asked, picture, data)


class _Page(Row):
    questionId: str
    question: str
    image: str
    answers: tuple[str, ...] = ()


class _Pages(Row):
    data: list[_Page]


def docvqa(data: Path, split: str) -> Loaded:
    """DocVQA's `val_v1.0_withQT.json`, and ST-VQA or InfographicVQA files of the same form."""
    source = find_one(data, f"{split}_v*.json")
    rows, picture = read_json(_Pages, source).data, Pictures(data, source)
    asked = [(row.questionId, row.image, row.question, row.answers) for row in rows]
    return _answered(asked, picture, data)


class _Chart(Row):
    imgname: str
    query: str
    label: str


def chartqa(data: Path, split: str) -> Loaded:
    """ChartQA's `val_human.json` and `val_augmented.json`, with their pictures in `png/`."""
    examples = []
    for source in find(data, f"{split}_human.json", f"{split}_augmented.json"):
        picture, group = Pictures(data, source), source.stem.rpartition("_")[2]
        for number, row in enumerate(read_json(list[_Chart], source)):
            image, truth = picture(f"png/{row.imgname}"), Answers((row.label,))
            examples.append(Example(f"{group}-{number}", image, row.query, truth, group))
    return some(examples, data)


class _Subject(Row):
    id: str
    question: str
    question_type: str = "multiple-choice"
    options: list[str] | str
    answer: str | list[str]
    image_1: str
    image_2: str | None = None


def mmmu(data: Path, split: str) -> Loaded:
    """MMMU's rows as JSON or JSON lines, with pictures as files that `image_1` names.

    Multiple choice about one picture; what is open or shows several is left out, and counted.
    """
    source = find_one(data, f"*{split}*.json", f"*{split}*.jsonl")
    lines = source.suffix == ".jsonl"
    rows = read_lines(_Subject, source) if lines else read_json(list[_Subject], source)
    picture = Pictures(data, source)
    closed = [row for row in rows if row.question_type == "multiple-choice"]
    asked = [row for row in closed if not row.image_2]
    return some(
        (_subject(row, picture, source) for row in asked),
        data,
        {"open questions": len(rows) - len(closed),
         "with several pictures": len(closed) - len(asked)},
    )  # fmt: skip


def _subject(row: _Subject, picture: Pictures, source: Path) -> Example:
    options = row.options
    try:
        options = options if isinstance(options, list) else ast.literal_eval(options)
        options = tuple(str(option) for option in options)
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(f"{source}: the options of {row.id} are no list.") from None
    letters = [chr(ord("A") + n) for n in range(len(options))]
    listed = " ".join(f"({a}) {text}" for a, text in zip(letters, options, strict=True))
    question = row.question.replace("<image 1>", "").strip()
    right = (row.answer,) if isinstance(row.answer, str) else tuple(row.answer)
    subject = row.id.partition("_")[2].rpartition("_")[0]  # of "validation_Art_Theory_12"
    truth = Choice(right, options)
    return Example(row.id, picture(row.image_1), f"{question} {listed}", truth, subject)


# --- One's own ------------------------------------------------------------------------------------


class _Line(Row):
    image: str
    prefix: str
    suffix: str


def json_lines(data: Path, split: str) -> Loaded:
    """JSON lines of {"image": …, "prefix": …, "suffix": …}: what the trainer reads."""
    source = find_one(data, f"*{split}*.jsonl")
    rows, picture = read_lines(_Line, source), Pictures(data, source)
    return some(
        (
            Example(str(number), picture(row.image), row.prefix, Answers((row.suffix,)))
            for number, row in enumerate(rows, 1)
        ),
        data,
    )
