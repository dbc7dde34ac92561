"""The tokenizer of a synthetic world: what is one token, and that every text comes back."""

import pytest
import tiny

from paligemma.synthetic.world import open_world
from paligemma.training.tokenizer import train_tokenizer


def encoded(text: str) -> list[str]:
    return tiny.words().encode(text, add_special_tokens=False).tokens


def test_capitals_are_read_letter_by_letter():
    assert encoded("EXIT") == ["E", "X", "I", "T"]
    assert encoded("ocr") == ["ocr"] and encoded("caption en") == ["caption", "▁en"]


def test_a_word_is_one_token_whatever_mark_follows():
    assert encoded(" cat?")[-2:] == ["▁cat", "?"]
    assert encoded(" cat,") == ["▁cat", ","]
    assert encoded("1024") == ["1", "0", "2", "4"]


def test_capitals_merge_not_even_when_they_repeat():
    words = train_tokenizer(["exit door"] * 50)
    assert words.encode("EXIT exit", add_special_tokens=False).tokens[:4] == ["E", "X", "I", "T"]
    assert "exit" in words.get_vocab()


@pytest.fixture(scope="module")
def stickers():
    return train_tokenizer(open_world("stickers").texts(1, 0), open_world("stickers").characters)


@pytest.mark.slow
def test_words_of_four_languages_are_tokens(stickers):
    tokens = lambda text: stickers.encode(text, add_special_tokens=False).tokens
    assert tokens("answer de wo ist der Hund?")[1:] == ["▁de", "▁wo", "▁ist", "▁der", "▁Hund", "?"]
    assert tokens("Hund") == ["Hund"] and tokens("sí") == ["sí"]  # as answers
    assert tokens("¿dónde está") == ["¿", "dónde", "▁está"]
    assert tokens("où est l'hélicoptère")[-2:] == ["▁l'", "hélicoptère"]
    assert tokens("HUND") == ["H", "U", "N", "D"] and tokens("ÜBEL")[0] == "Ü"
    assert 5_000 < stickers.get_vocab_size() < 10_000
    for character in open_world("stickers").characters:
        assert stickers.token_to_id(character) is not None
    text = "qu'y a-t-il à 5:30 € <loc0001> Straße, cœur, niño?"
    ids = stickers.encode(text, add_special_tokens=False).ids
    assert stickers.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", ["a red cat", "  two  spaces ", "naïve 猫 \N{GRINNING FACE}", "a\nb", "x\ty", "<0x41>"]
)
def test_any_text_comes_back(text):
    words = tiny.words()
    ids = words.encode(text, add_special_tokens=False).ids
    assert words.decode(ids, skip_special_tokens=False) == text
    assert words.token_to_id("<unk>") not in ids


def test_the_newline_is_its_own_token():
    assert encoded(" cat\n cat") == ["▁cat", "\n", "▁cat"]
    assert encoded("\n\n") == ["\n", "\n"]


def test_the_table_is_gemmas():
    words = tiny.words()
    assert [words.token_to_id(f"<{name}>") for name in ("pad", "eos", "bos", "unk")] == [0, 1, 2, 3]
    first = words.token_to_id("<loc0000>")
    assert [words.token_to_id(f"<loc{n:04d}>") for n in range(1024)] == [
        *range(first, first + 1024)
    ]
    first += 1024
    assert [words.token_to_id(f"<seg{n:03d}>") for n in range(128)] == [*range(first, first + 128)]
    assert words.token_to_id("<image>") == first + 128 == words.get_vocab_size() - 1
    assert encoded("<loc0007><seg011> cat") == ["<loc0007>", "<seg011>", "▁cat"]


def test_transformers_reads_the_same_ids(tmp_path):
    transformers = pytest.importorskip("transformers")
    tiny.words().save(str(tmp_path / "tokenizer.json"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in (
        "caption en\n",
        "detect cat ; two red mice",
        "EXIT 42",
        "<loc0000><loc0128><loc0512><loc1023><seg001> cat ; <loc0001>",
        "naïve 猫 \N{GRINNING FACE}\n\n",
    ):
        ids = tiny.words().encode(text, add_special_tokens=False).ids
        assert theirs(text, add_special_tokens=False).input_ids == ids
        assert theirs.decode(ids) == tiny.words().decode(ids, skip_special_tokens=False)
