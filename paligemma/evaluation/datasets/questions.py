"""VQAv2, TextVQA, DocVQA, ChartQA, MMMU and one's own JSON lines as examples.

A loader takes a file, or a folder that is searched for the file of a split such as "val".
"""

import ast
from pathlib import Path

from pydantic import ConfigDict

from paligemma.evaluation.datasets.examples import (
    AnswerReferences,
    ChoiceTarget,
    EvaluationDataset,
    EvaluationExample,
    make_dataset,
)
from paligemma.formats.files import (
    FileRecord,
    find_file,
    find_files,
    read_record,
    read_record_lines,
)
from paligemma.formats.image_files import ImageFinder
from paligemma.formats.samples import SampleRecord


class BenchmarkRecord(FileRecord):
    """A record of an official file, in which ids and answers may be numbers."""

    model_config = ConfigDict(coerce_numbers_to_str=True)


# --- VQAv2 ----------------------------------------------------------------------------------------


class _VqaQuestion(BenchmarkRecord):
    question_id: str
    image_id: int
    question: str


class _VqaQuestions(BenchmarkRecord):
    data_subtype: str
    questions: list[_VqaQuestion]


class _VqaAnswer(BenchmarkRecord):
    answer: str


class _VqaAnnotation(BenchmarkRecord):
    question_id: str
    answer_type: str = ""
    answers: list[_VqaAnswer]


class _VqaAnnotations(BenchmarkRecord):
    annotations: list[_VqaAnnotation]


def load_vqav2(data: Path, split: str) -> EvaluationDataset:
    """VQAv2's `…_questions.json`, with the `…_annotations.json` of the same images beside it."""
    source = find_file(data, f"*{split}*_questions.json")
    name = source.name.replace("OpenEnded_", "").replace("_questions", "_annotations")
    answers = find_file(source.parent if data.is_file() else data, name)
    file, find_image = read_record(_VqaQuestions, source), ImageFinder(data, source)
    records = read_record(_VqaAnnotations, answers).annotations
    annotations = {record.question_id: record for record in records if record.answers}
    folder = file.data_subtype
    return make_dataset(
        (
            EvaluationExample(
                one.question_id,
                find_image(f"{folder}/COCO_{folder}_{one.image_id:012d}.jpg"),
                one.question,
                AnswerReferences(tuple(a.answer for a in annotations[one.question_id].answers)),
                annotations[one.question_id].answer_type,
            )
            for one in file.questions
            if one.question_id in annotations
        ),
        data,
        {"without answers": sum(one.question_id not in annotations for one in file.questions)},
    )


# --- TextVQA and DocVQA ---------------------------------------------------------------------------


class _TextVqaQuestion(BenchmarkRecord):
    question_id: str
    image_id: str
    question: str
    answers: tuple[str, ...] = ()


class _TextVqaFile(BenchmarkRecord):
    data: list[_TextVqaQuestion]


def load_textvqa(data: Path, split: str) -> EvaluationDataset:
    """TextVQA's `TextVQA_0.5.1_val.json`; its images are `<image_id>.jpg`."""
    source = find_file(data, f"TextVQA*_{split}.json")
    records, find_image = read_record(_TextVqaFile, source).data, ImageFinder(data, source)
    questions = [
        (one.question_id, f"{one.image_id}.jpg", one.question, one.answers) for one in records
    ]
    return _make_answered(questions, find_image, data)


class _DocVqaQuestion(BenchmarkRecord):
    questionId: str
    question: str
    image: str
    answers: tuple[str, ...] = ()


class _DocVqaFile(BenchmarkRecord):
    data: list[_DocVqaQuestion]


def load_docvqa(data: Path, split: str) -> EvaluationDataset:
    """DocVQA's `val_v1.0_withQT.json`, and ST-VQA or InfographicVQA files of the same form."""
    source = find_file(data, f"{split}_v*.json")
    records, find_image = read_record(_DocVqaFile, source).data, ImageFinder(data, source)
    questions = [(one.questionId, one.image, one.question, one.answers) for one in records]
    return _make_answered(questions, find_image, data)


def _make_answered(
    questions: list[tuple[str, str, str, tuple[str, ...]]], find_image: ImageFinder, data: Path
) -> EvaluationDataset:
    """Examples of (id, image name, question, answers); those without answers are left out."""
    examples = [
        EvaluationExample(number, find_image(name), question, AnswerReferences(answers))
        for number, name, question, answers in questions
        if answers
    ]
    return make_dataset(examples, data, {"without answers": len(questions) - len(examples)})


# --- ChartQA --------------------------------------------------------------------------------------


class _ChartQuestion(BenchmarkRecord):
    imgname: str
    query: str
    label: str


def load_chartqa(data: Path, split: str) -> EvaluationDataset:
    """ChartQA's `val_human.json` and `val_augmented.json`, with their images in `png/`."""
    examples = []
    for source in find_files(data, f"{split}_human.json", f"{split}_augmented.json"):
        find_image, group = ImageFinder(data, source), source.stem.rpartition("_")[2]
        for number, record in enumerate(read_record(list[_ChartQuestion], source)):
            image, target = find_image(f"png/{record.imgname}"), AnswerReferences((record.label,))
            examples.append(
                EvaluationExample(f"{group}-{number}", image, record.query, target, group)
            )
    return make_dataset(examples, data)


# --- MMMU -----------------------------------------------------------------------------------------


class _MmmuQuestion(BenchmarkRecord):
    id: str
    question: str
    question_type: str = "multiple-choice"
    options: list[str] | str
    answer: str | list[str]
    image_1: str
    image_2: str | None = None


def load_mmmu(data: Path, split: str) -> EvaluationDataset:
    """MMMU's questions as JSON or JSON lines, with images as files that `image_1` names.

    Multiple choice about one image; open questions and several images are left out and counted.
    """
    source = find_file(data, f"*{split}*.json", f"*{split}*.jsonl")
    if source.suffix == ".jsonl":
        records = read_record_lines(_MmmuQuestion, source)
    else:
        records = read_record(list[_MmmuQuestion], source)
    find_image = ImageFinder(data, source)
    closed = [one for one in records if one.question_type == "multiple-choice"]
    single = [one for one in closed if not one.image_2]
    return make_dataset(
        (_mmmu_example(one, find_image, source) for one in single),
        data,
        {
            "open questions": len(records) - len(closed),
            "with several images": len(closed) - len(single),
        },
    )


def _mmmu_example(
    record: _MmmuQuestion, find_image: ImageFinder, source: Path
) -> EvaluationExample:
    options = record.options
    try:
        options = options if isinstance(options, list) else ast.literal_eval(options)
        options = tuple(str(option) for option in options)
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(f"{source}: the options of {record.id} are no list.") from None
    letters = [chr(ord("A") + n) for n in range(len(options))]
    listed = " ".join(f"({a}) {text}" for a, text in zip(letters, options, strict=True))
    question = record.question.replace("<image 1>", "").strip()
    correct = (record.answer,) if isinstance(record.answer, str) else tuple(record.answer)
    subject = record.id.partition("_")[2].rpartition("_")[0]  # of "validation_Art_Theory_12"
    return EvaluationExample(
        record.id,
        find_image(record.image_1),
        f"{question} {listed}",
        ChoiceTarget(correct, options),
        subject,
    )


# --- One's own ------------------------------------------------------------------------------------


def load_json_lines(data: Path, split: str) -> EvaluationDataset:
    """JSON lines of {"image": …, "prefix": …, "suffix": …}, the trainer's own format."""
    source = find_file(data, f"*{split}*.jsonl")
    records, find_image = read_record_lines(SampleRecord, source), ImageFinder(data, source)
    for number, one in enumerate(records, 1):
        if one.more_images:
            raise ValueError(
                f"{source}, sample {number}: it has {1 + len(one.more_images)} images; an "
                "evaluation asks about one. Training scores answers about several: eval_data."
            )
    return make_dataset(
        (
            EvaluationExample(
                f"{number} {Path(one.image).name}",  # another image is another example
                find_image(one.image),
                one.prefix,
                AnswerReferences((one.suffix,)),
            )
            for number, one in enumerate(records, 1)
        ),
        data,
    )
