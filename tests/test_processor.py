"""Images and text to model inputs: parity with transformers, and everything people upload."""

import io
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import ANSWERED, encoded, hostile_files
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from paligemma.config import PaliGemmaConfig, TextConfig, VisionConfig
from paligemma.images import MAX_PIXELS, open_image
from paligemma.processor import MAX_PROMPT_CHARACTERS, MAX_PROMPT_TOKENS, PaliGemmaProcessor

P, R = 4, 28
LOCS = [f"<loc{i:04d}>" for i in range(1024)]
SEGS = [f"<seg{i:03d}>" for i in range(128)]


def make_tokenizer(without: str = "") -> Tokenizer:
    """A small tokenizer of Gemma's make; `<eos>` is even a word that its merges can build."""
    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>"])}
    for token in [f"<0x{byte:02X}>" for byte in range(256)]:
        vocab[token] = len(vocab)
    merges = []
    words = [
        "caption",
        "▁en",
        "▁cat",
        "detect",
        "▁;",
        "▁the",
        "answer",
        "<eos>",
        "<pad>",
        "<image>",
    ]
    for char in dict.fromkeys("▁\n<>" + "".join(words) + "abcdefghijklmnopqrstuvwxyz0123456789"):
        vocab.setdefault(char, len(vocab))
    for word in [word for word in words if word != without]:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocab or word[:end] == word:
                vocab.setdefault(word[:end], len(vocab))
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(
        BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )

    def add(*tokens: str, special: bool = False) -> None:
        rest = [token for token in tokens if token != without]
        tokenizer.add_tokens([AddedToken(t, normalized=False, special=special) for t in rest])

    add("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", special=True)
    add("\n", "\n\n", *LOCS, *SEGS)
    add("<image>", special=True)
    return tokenizer


@pytest.fixture(scope="module")
def processor() -> PaliGemmaProcessor:
    return PaliGemmaProcessor(make_tokenizer(), num_image_tokens=P, image_size=R)


@pytest.fixture(scope="module")
def theirs():
    from transformers import PreTrainedTokenizerFast
    from transformers.models.paligemma import PaliGemmaProcessor as Reference
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": R, "width": R})
    images.image_seq_length = P
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    return Reference(images, PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(), **named))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> dict[str, Path]:
    return hostile_files(tmp_path_factory.mktemp("hostile"))


def photo(width: int = 61, height: int = 47, seed: int = 0) -> Image.Image:
    """Smooth colours with hard edges, so that filters differ visibly."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)


# ----------------------------------------------------------------------- parity with transformers

PROMPTS = {
    "caption": "caption en",
    "empty": "",
    "detect": "detect cat ; the cat",
    "spaces": "  caption   en ",
    "its own newline": "caption en\n",
    "newlines inside": "the\ncat\n\nthe",
    "not in the vocabulary": "où est le chat ? 猫 \N{GRINNING FACE}",
    "brackets": "<b>cat</b> a<b>c <0x41>",
    "a region": "caption en <loc0010><loc0020><loc1023><loc0000>",
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_ids_equal_those_of_transformers(processor, theirs, prompt):
    expected = theirs(text=["<image>" + prompt], images=[photo()], return_tensors="pt")
    batch = processor(text=[prompt], images=[photo()])
    assert torch.equal(batch.input_ids, expected["input_ids"])
    assert torch.equal(batch.attention_mask, expected["attention_mask"])
    assert torch.equal(batch.token_type_ids, expected["token_type_ids"])
    assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64
    assert batch.labels is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_equal_those_of_transformers(processor, theirs, side):
    prompts = ["caption en", "detect cat ; the cat", ""]
    suffix = ["a cat", "<loc0001><loc0002><loc0003><loc0004><seg005> cat ; the", ""]
    answers = {} if side == "left" else {"suffix": suffix}
    images = [photo(seed=seed) for seed in range(3)]
    expected = theirs(
        text=["<image>" + prompt for prompt in prompts],
        images=images,
        padding="longest",
        padding_side=side,
        return_tensors="pt",
        **answers,
    )
    batch = processor(text=prompts, images=images, **answers)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(getattr(batch, name), expected[name]), name
    torch.testing.assert_close(batch.pixel_values, expected["pixel_values"], rtol=0, atol=1e-6)
    if side == "right":
        assert torch.equal(batch.labels, expected["labels"])
        assert (batch.labels[2] != -100).sum() == 1  # an empty answer is EOS alone


@pytest.mark.parametrize("side", ["left", "right"])
def test_several_images_of_a_prompt_equal_those_of_transformers(processor, theirs, side):
    one, two, three = (photo(seed=seed) for seed in range(3))
    answers = {} if side == "left" else {"suffix": ["no", "a cat"]}
    expected = theirs(
        text=["<image><image>answer en the same?", "<image>caption en"],
        images=[[one, two], [three]],
        padding="longest",
        padding_side=side,
        return_tensors="pt",
        **answers,
    )
    prompts = ["answer en the same?", "caption en"]
    batch = processor(text=prompts, images=[[one, two], three], **answers)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(getattr(batch, name), expected[name]), name
    torch.testing.assert_close(batch.pixel_values, expected["pixel_values"], rtol=0, atol=1e-6)


def test_a_tokenizer_of_transformers_is_unwrapped(processor, theirs):
    other = PaliGemmaProcessor(theirs.tokenizer, num_image_tokens=P, image_size=R)
    assert other.encode_prompt("detect cat") == processor.encode_prompt("detect cat")
    assert other.tokenizer is theirs.tokenizer.backend_tokenizer


def test_a_batch_is_a_mapping_of_tensors_too(processor):
    batch = processor(text=["caption en"], images=[photo()])
    assert dict(batch).keys() == {"input_ids", "attention_mask", "pixel_values", "token_type_ids"}
    assert batch["input_ids"] is batch.input_ids
    with pytest.raises(KeyError, match="labels"):
        batch["labels"]
    trained = processor(text=["caption en"], images=[photo()], suffix=["a cat"])
    assert {**trained}["labels"] is trained.labels


SIZES = {"down": (640, 480), "up": (9, 5), "thin": (3, 400), "same": (R, R), "one pixel": (1, 1)}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_pixels_equal_those_of_transformers(processor, theirs, size):
    image = photo(*size)
    pixels = processor.pixel_values([image])
    expected = theirs.image_processor(image, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, R, R) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_pixels_are_a_level_from_the_torchvision_backend(processor):
    image = photo(640, 480)
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # it resizes uint8, like this
    other = torch.nn.functional.interpolate(whole, (R, R), mode="bicubic", antialias=True)
    pixels = processor.pixel_values([image])
    assert ((pixels + 1) * 127.5 - other).abs().max() < 1.01


def test_pixels_are_minus_one_to_one(processor):
    black, white = Image.new("RGB", (5, 5)), Image.new("RGB", (5, 5), "white")
    pixels = processor.pixel_values([black, white])
    assert (pixels[0] == -1).all() and (pixels[1] == 1).all()


# ---------------------------------------------------------------------- text that spells tokens

SPELLINGS = [
    "<image>",
    "<eos>",
    "<bos>",
    "<pad>",
    "<unk>",
    "<start_of_turn>",
    "<loc0001>",
    "<loc9999>",
    "<seg000>",
    "<seg999>",
    "<",
    ">",
    " ",
    "\n",
    "a",
    "é",
    "eos>",
    "image>",
    "<loc0001",
    "猫",
]


@given(st.lists(st.sampled_from(SPELLINGS), max_size=12).map("".join))
def test_no_prompt_changes_the_sequence(processor, text):
    ids = processor.encode_prompt(text)
    control = [processor.tokenizer.token_to_id(f"<{name}>") for name in ("pad", "eos", "unk")]
    assert ids[: P + 1] == [processor.image_token_id] * P + [processor.bos_token_id]
    assert not {*control, processor.bos_token_id, processor.image_token_id} & set(ids[P + 1 :])
    runs = re.findall(r"(?:<loc0001>)+", text)
    regions = sum(len(run) == 4 * len("<loc0001>") for run in runs)
    locs = [processor.tokenizer.id_to_token(i) in LOCS for i in ids]
    segs = [processor.tokenizer.id_to_token(i) in SEGS for i in ids]
    assert sum(locs) == 4 * regions and sum(segs) == 0
    assert processor.decode(ids) == text + "\n"  # nothing is lost: it is all there, as characters


@given(st.text(st.characters(exclude_characters="\0▁", exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_the_round_trip(processor, text):
    assert processor.decode(processor.encode_prompt(text)) == text + "\n"
    assert processor.decode(processor.encode_suffix(text + ".")) == text + "."


def loc_ids(processor, ids):
    return [i for i in ids if processor.tokenizer.id_to_token(i).startswith("<loc")]


def test_locations_of_a_region_move_to_those_that_the_model_was_trained_on(processor):
    text = "caption en <loc0322><loc0000><loc0515><loc1022>"
    snapped = PaliGemmaProcessor(make_tokenizer(), P, R, loc_grid=128)
    moved = snapped.decode(snapped.encode_prompt(text))
    assert moved == "caption en <loc0320><loc0000><loc0512><loc1023>\n"
    assert processor.decode(processor.encode_prompt(text)) == text + "\n"
    assert snapped.prompt_texts(text)[-5:-1] == ["<loc0320>", "<loc0000>", "<loc0512>", "<loc1023>"]
    answer = "<loc0322><loc0000><loc0515><loc1022> cat"
    assert snapped.encode_suffix(answer) == processor.encode_suffix(answer)
    grid = [round(n / 128 * 1023) for n in range(129)]
    for loc in range(1024):
        (nearest,) = {snapped.encode_prompt(f"<loc{loc:04d}>" * 4)[n + P + 1] for n in range(4)}
        number = int(snapped.tokenizer.id_to_token(nearest)[4:8])
        assert number in grid and abs(number - loc) <= 4 and (loc not in grid or number == loc)


def test_several_images_of_a_prompt(processor):
    red, blue = (Image.new("RGB", (40, 30), color) for color in ("red", "blue"))
    batch = processor(text=["a", "a b"], images=[[red, blue], blue], suffix=["x", "x"])
    assert batch.pixel_values.shape[0] == 3 and batch.image_sizes == ((40, 30), (40, 30))
    counts = (batch.input_ids == processor.image_token_id).sum(1)
    assert counts.tolist() == [2 * P, P]
    alone = processor(text=["a"], images=[blue], suffix=["x"])
    assert torch.equal(batch.pixel_values[1:2], alone.pixel_values)
    assert (
        batch.input_ids[0, P:].tolist()[: alone.input_ids.shape[1]] == alone.input_ids[0].tolist()
    )
    assert torch.equal(
        processor(text=["a"], images=[[blue]], suffix=["x"]).input_ids, alone.input_ids
    )
    for images, count in ([[]], 0), ([[red] * 17], 17):
        with pytest.raises(ValueError, match=f"A prompt has 1 to 16 images; prompt 0 has {count}"):
            processor(text=["a"], images=images)


def test_a_region_is_exactly_four_locations(processor):
    four = "".join(LOCS[i] for i in (7, 1023, 0, 512))
    expected = [processor.tokenizer.token_to_id(LOCS[i]) for i in (7, 1023, 0, 512)]
    assert loc_ids(processor, processor.encode_prompt(f"caption en {four}")) == expected
    assert loc_ids(processor, processor.encode_prompt(f"{four} ; {four}")) == expected * 2
    for other in (
        LOCS[7] * 3,
        LOCS[7] * 5,
        LOCS[7] * 8,
        "<loc1024>" * 4,
        LOCS[7] * 3 + "<loc1024>",
    ):
        assert loc_ids(processor, processor.encode_prompt(other)) == []


def test_a_suffix_has_loc_and_seg_tokens_but_one_eos_and_no_image(processor):
    ids = processor.encode_suffix("<loc0001><seg127> cat<eos><image>")
    token = processor.tokenizer.token_to_id
    assert ids[:2] == [token("<loc0001>"), token("<seg127>")]
    assert ids[-1] == processor.eos_token_id and ids.count(processor.eos_token_id) == 1
    assert processor.image_token_id not in ids
    assert processor.decode(ids) == "<loc0001><seg127> cat<eos><image>"


def test_a_token_that_only_the_normaliser_spells_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_special_tokens([AddedToken("<end>", normalized=True, special=True)])
    strict = PaliGemmaProcessor(tokenizer, P, R)
    assert strict.decode(strict.encode_prompt("the <end>")) == "the <end>\n"
    with pytest.raises(ValueError, match="spells a control token"):
        strict.encode_prompt("the \N{FULLWIDTH LESS-THAN SIGN}end\N{FULLWIDTH GREATER-THAN SIGN}")


REFUSED_PROMPTS = {
    "None": (None, "not None"),
    "number": (3, "not int"),
    "bytes": (b"caption en", "not bytes"),
    "NUL": ("a\0b", r"U\+0000 at 1"),
    "half an emoji": ("a \ud83d", r"U\+D83D at 2"),
    "too many tokens": ("猫" * 200, rf"has 601 tokens; at most {MAX_PROMPT_TOKENS} "),
    "endless": ("a" * 10**7, f"has 10000000 characters; at most {MAX_PROMPT_CHARACTERS} "),
}


@pytest.mark.parametrize("prompt, message", REFUSED_PROMPTS.values(), ids=REFUSED_PROMPTS.keys())
def test_prompts_refused(processor, prompt, message):
    with pytest.raises(ValueError, match=message) as refusal:
        processor(text=[prompt], images=[photo()])
    assert_one_sentence(refusal.value)


def test_the_longest_prompt_is_allowed(processor):
    ids = processor.encode_prompt("z" * (MAX_PROMPT_TOKENS - 1))
    assert len(ids) == P + 1 + MAX_PROMPT_TOKENS


def test_lists_of_different_lengths_are_refused(processor):
    for arguments in (
        {"text": ["a", "b"], "images": [photo()]},
        {"text": ["a"], "images": [photo()], "suffix": ["a", "b"]},
        {"text": [], "images": []},
        {"text": "caption en", "images": [photo()]},
        {"text": ["a"], "images": photo()},
        {"text": ["a"], "images": [photo()], "suffix": "a"},
    ):
        with pytest.raises(ValueError) as refusal:
            processor(**arguments)
        assert_one_sentence(refusal.value)


# ------------------------------------------------------------------------------------- ids to text


def test_decode_keeps_loc_and_seg_and_drops_control_tokens(processor):
    token = processor.tokenizer.token_to_id
    ids = [token("<bos>"), token("<loc0003>"), token("<seg004>"), token("▁cat"), token("\n")]
    assert processor.decode([*ids, token("<eos>"), token("<pad>")]) == "<loc0003><seg004> cat\n"


def test_pieces_join_to_the_text_and_whole_characters_only(processor):
    byte = processor.tokenizer.token_to_id
    cat = [byte(f"<0x{value:02X}>") for value in "猫".encode()]
    assert processor.decode_pieces(cat) == ["", "", "猫"]
    assert processor.decode_pieces(cat[:2]) == ["", ""]  # the rest may still come
    stray = [byte("<0xFF>"), byte("a")]
    assert processor.decode_pieces(stray) == ["", "\ufffda"]
    ids = processor.encode_suffix("é the 猫\N{GRINNING FACE} <loc0001> cat")
    pieces = processor.decode_pieces(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == processor.decode(ids)
    for end in range(len(ids)):
        assert processor.decode_pieces(ids[:end]) == pieces[:end]


def test_decode_equals_transformers(processor, theirs):
    for prompt in PROMPTS.values():
        ids = processor.encode_prompt(prompt)
        assert processor.decode(ids) == theirs.tokenizer.decode(ids, skip_special_tokens=True)


# -------------------------------------------------------------------------------------- the folder


def config(image_token_index: int, vocab_size: int = 2000) -> PaliGemmaConfig:
    return PaliGemmaConfig(
        vision_config=VisionConfig(8, 8, 1, 1, image_size=R, patch_size=14),
        text_config=TextConfig(vocab_size, 8, 8, 1, 1, 1, 8),
        projection_dim=8,
        image_token_index=image_token_index,
    )


def test_from_folder(tmp_path, processor):
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=99)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = PaliGemmaProcessor.from_folder(tmp_path, config(processor.image_token_id))
    assert (loaded.num_image_tokens, loaded.image_size) == (P, R)
    assert loaded.encode_prompt("detect cat") == processor.encode_prompt("detect cat")
    ids = {loaded.pad_token_id, loaded.eos_token_id, loaded.bos_token_id}
    assert ids == {0, 1, 2}

    with pytest.raises(ValueError, match=r"<image> at id \d+, but the config says 256000"):
        PaliGemmaProcessor.from_folder(tmp_path, config(256000))
    with pytest.raises(ValueError, match=r"ids up to \d+, but the embedding table has 1000 rows"):
        PaliGemmaProcessor.from_folder(tmp_path, config(processor.image_token_id, vocab_size=1000))


@pytest.mark.parametrize("content", [None, "", "{", "[]", json.dumps({"version": "1.0"})])
def test_from_folder_refuses_what_is_no_tokenizer(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json|tokenizer file"):
        PaliGemmaProcessor.from_folder(tmp_path, config(0))


@pytest.mark.parametrize("token", ["<image>", "<loc1023>", "<seg000>"])
def test_a_tokenizer_without_a_needed_token_is_refused(token):
    with pytest.raises(ValueError, match=f"lacks 1 needed tokens: '{token}'"):
        PaliGemmaProcessor(make_tokenizer(without=token), P, R)


# ---------------------------------------------------------------------------------------- images


def assert_one_sentence(error: ValueError) -> None:
    message = str(error)
    assert message.endswith(".") and "\n" not in message and 10 < len(message) < 300, message
    assert not re.search(r"Traceback|Error\b|0x[0-9a-f]{6}", message), message


def test_there_are_enough_hostile_files(hostile):
    assert len(hostile) >= 60 and set(hostile) >= ANSWERED


def test_every_hostile_file_is_an_image_or_one_sentence(hostile):
    for name, path in hostile.items():
        sources = [path, str(path)]
        if path.is_file():
            sources += [path.read_bytes(), io.BytesIO(path.read_bytes())]
        for source in sources:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    image = open_image(source)
                except ValueError as error:
                    assert name not in ANSWERED, f"{name}: {error}"
                    assert_one_sentence(error)
                    assert str(path.parent) not in str(error), name
                else:
                    assert name in ANSWERED, name
                    assert image.mode == "RGB" and min(image.size) > 0, name


def test_pixel_limit_is_read_from_the_header(hostile, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # an app sets Pillow's own limit, too
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="12000 x 12000 pixels; at most 100 megapixels"):
        open_image(hostile["bomb_png_whole"])


def test_images_at_and_above_the_limit(monkeypatch):
    monkeypatch.setattr("paligemma.images.MAX_PIXELS", 1200)
    assert MAX_PIXELS == 100_000_000
    for make in (Image.fromarray, np.asarray, lambda a: encoded(Image.fromarray(a), format="PNG")):
        assert open_image(make(np.zeros((30, 40, 3), np.uint8))).size == (40, 30)
        with pytest.raises(ValueError, match="1201"):
            open_image(make(np.zeros((1, 1201, 3), np.uint8)))


FIRST_FRAME = [
    "animated_gif",
    "animated_webp",
    "animated_png",
    "multi_page_tiff",
    "two_image_jpeg",
    "cmyk_jpeg",
    "progressive_jpeg",
    "cmyk_tiff",
    "avif",
    "exif_rotated_jpeg",
    "exif_damaged_jpeg",
    "icc_damaged_png",
    "jpeg_named_png",
    "no_extension",
    "strange_name",
    "html_after_jpeg",
    "megapixels_24",
    "5000_wide_one_high",
]


@pytest.mark.parametrize("name", FIRST_FRAME)
def test_images_are_red_on_the_left_and_blue_on_the_right(hostile, name):
    image = open_image(hostile[name])
    left, right = (image.getpixel((image.width * n // 4, image.height // 2)) for n in (1, 3))
    assert np.abs(np.subtract(left, (220, 30, 30))).max() < 25, left
    assert np.abs(np.subtract(right, (30, 30, 220))).max() < 25, right


@pytest.mark.parametrize("name", ["gray_16_bit_png", "gray_16_bit_pgm", "float_tiff", "int32_tiff"])
def test_wide_numbers_are_scaled_not_clipped(hostile, name):
    values = np.asarray(open_image(hostile[name]))
    ramp = np.linspace(0, 255, 40 * 30).reshape(30, 40)
    assert np.abs(values - ramp[..., None]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_ends_upright(orientation):
    upright = photo(24, 16)
    # What a camera stores so that the viewer's turn (row of the EXIF table) brings it upright.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, lossless in ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}):
        opened = open_image(encoded(stored, format=kind, exif=exif, **lossless))
        assert np.array_equal(opened, upright), kind
        assert np.array_equal(open_image(opened), upright), "and is not turned once more"


def test_what_was_opened_is_not_copied_again(processor, hostile, monkeypatch):
    opened = open_image(hostile["exif_rotated_jpeg"])
    for name in ("convert", "copy", "transpose"):
        monkeypatch.setattr(Image.Image, name, lambda *given: pytest.fail("it was copied"))
    assert open_image(opened) is opened
    assert processor.pixel_values([opened]).shape == (1, 3, R, R)


def test_no_file_can_claim_to_be_opened():
    claim = PngInfo()
    claim.add_text("upright RGB", "True")
    opened = open_image(encoded(photo(), format="PNG", pnginfo=claim))
    assert np.array_equal(opened, photo()) and type(opened) is Image.Image


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    clear.putpixel((1, 0), (200, 0, 0, 128))
    assert [open_image(clear).getpixel((x, 0)) for x in (0, 1)] == [(255,) * 3, (227, 127, 127)]
    assert open_image(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == (255,) * 3
    palette = Image.new("P", (1, 1))
    palette.putpalette([9, 9, 9, 90, 90, 90])
    assert open_image(palette).getpixel((0, 0)) == (9, 9, 9)
    palette.info["transparency"] = 0
    assert open_image(palette).getpixel((0, 0)) == (255,) * 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_pil_images_are_copied_and_left_alone(mode):
    image = photo().convert("L").convert(mode) if mode in "1PIF" else photo().convert(mode)
    before = image.copy()
    opened = open_image(image)
    assert opened.mode == "RGB" and opened.size == image.size
    opened.paste("black", (0, 0, *opened.size))
    assert image.mode == mode and image.tobytes() == before.tobytes()


ARRAYS = {
    "gray": (np.full((2, 3), 51, np.uint8), 51),
    "gray with a channel": (np.full((2, 3, 1), 51, np.uint8), 51),
    "gray and alpha": (np.full((2, 3, 2), 255, np.uint8), 255),
    "RGB": (np.full((2, 3, 3), 51, np.uint8), 51),
    "RGBA": (np.full((2, 3, 4), 255, np.uint8), 255),
    "float 0..1": (np.full((2, 3, 3), 0.2, np.float32), 51),
    "float 0..255": (np.full((2, 3, 3), 51.0, np.float64), 51),
    "half": (np.full((2, 3), 0.2, np.float16), 51),
    "uint16": (np.full((2, 3), 51 * 257, np.uint16), 51),
    "int64": (np.full((2, 3), 51), 51),
    "bool": (np.full((2, 3), True), 255),
    "not a number": (np.full((2, 3), np.nan), 0),
    "flipped": (np.full((2, 3, 3), 51, np.uint8)[::-1, ::-1], 51),
}


@pytest.mark.parametrize("array, expected", ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays(array, expected):
    before = array.copy()
    image = open_image(array)
    assert image.mode == "RGB" and image.size == (3, 2)
    assert (np.asarray(image) == expected).all()
    assert np.array_equal(array, before, equal_nan=array.dtype.kind == "f")


def test_arrays_beyond_every_range_are_stretched():
    for values in ([[-1.0, 0.0, 1.0]], [[0, 10**6, 2 * 10**6]], [[-np.inf, 0.0, -3, 3]]):
        row = np.asarray(open_image(np.array(values)))[0, :, 0]
        assert row.min() == 0 and row.max() == 255 and row[1] in (127, 128)


REFUSED_SOURCES = {
    "no rows": np.zeros((0, 5, 3), np.uint8),
    "a line": np.zeros(5, np.uint8),
    "channels first": np.zeros((3, 20, 20), np.uint8),
    "five channels": np.zeros((20, 20, 5), np.uint8),
    "a video": np.zeros((2, 20, 20, 3), np.uint8),
    "words": np.array([["a", "b"]]),
    "complex": np.zeros((2, 2), complex),
    "objects": np.full((2, 2), None),
    "no width": Image.new("RGB", (0, 5)),
    "None": None,
    "number": 7,
    "list": [[0, 1]],
    "text stream": io.StringIO("hello"),
    "no bytes": b"",
    "no name": "",
    "NUL in the name": "a\0b.png",
    "very long name": "a" * 5000 + ".png",
    "a device": "/dev/null",
    "an address": "https://example.com/cat.png",
}


@pytest.mark.parametrize("source", REFUSED_SOURCES.values(), ids=REFUSED_SOURCES.keys())
def test_sources_refused(source):
    with pytest.raises(ValueError) as refusal:
        open_image(source)
    assert_one_sentence(refusal.value)


def test_a_closed_image_is_refused(hostile):
    image = Image.open(hostile["no_extension"])
    image.close()
    with pytest.raises(ValueError, match="cannot be read"):
        open_image(image)


def test_files_are_closed(hostile):
    for path in hostile.values():
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            try:
                open_image(path)
            except ValueError:
                continue
