"""Explanations: as the model wrote, read again, and in every view; on tiny and built-in models."""

import json

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny import GRID, P

from paligemma.checkpoints.resolve import BUILT_IN_FOLDER
from paligemma.generation import SamplingOptions
from paligemma.interpret import views
from paligemma.interpret.capture import capture_attention
from paligemma.interpret.explain import CHEAP_VIEWS, DEFAULT_VIEW, VIEWS
from paligemma.pipeline import PaliGemma

PROMPT = "detect cat ; dog"
TEN = SamplingOptions(max_new_tokens=10)
LAYERS, HEADS = 2, 4


def picture(seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def pg(tmp_path_factory):
    return PaliGemma.load(tiny.write(tmp_path_factory.mktemp("models") / "tiny"), dtype="float32")


@pytest.fixture(scope="module")
def seen(pg):
    return pg.explain(picture(), PROMPT, TEN, tuple(VIEWS))


def test_the_reply_is_what_generate_says(pg, seen):
    reply = pg.generate(picture(), PROMPT, TEN)
    assert (seen.reply.text, seen.reply.tokens) == (reply.text, reply.tokens)


def test_shapes(pg, seen):
    for name in VIEWS:
        layers = 1 if name in ("similarity", "middle") else LAYERS
        assert seen.layers[name].shape == (layers, 10, GRID, GRID)
        assert seen.maps[name].shape == (10, GRID, GRID)
        assert seen.maps[name].min() >= 0 and np.isfinite(seen.maps[name]).all()
    assert seen.heads.shape == (LAYERS, HEADS, 10, GRID, GRID)
    prompt = len(pg.processor.encode_prompt(PROMPT)) - P
    assert seen.prompt_map.shape == (prompt, GRID, GRID) and len(seen.prompt) == prompt
    assert seen.prompt[0] == "<bos>" and seen.prompt[-1] == "\n"
    assert "".join(seen.prompt[1:]).strip() == PROMPT
    assert len(seen.columns) == len(seen.between_tokens) == prompt + 9
    assert seen.columns[prompt:] == tuple(token.text for token in seen.reply.tokens[:9])


def test_a_token_has_the_map_of_the_column_that_wrote_it(pg, seen):
    with capture_attention(pg.model) as maps:
        pg.generate(picture(), PROMPT, TEN)
    first = len(seen.prompt) - 1
    rows = {
        "mean": views.mean(maps[0]),
        "middle": views.middle(maps[0]),
        "rollout": views.rollout(maps[0])[-1],
    }
    for name, values in rows.items():
        expected = values[first : first + 10].reshape(10, GRID, GRID)
        assert seen.maps[name] == pytest.approx(expected, abs=1e-6)
    for name in ("rollout", "gradient"):
        assert seen.layers[name][-1] == pytest.approx(seen.maps[name])
    assert seen.layers["mean"].mean(0) == pytest.approx(seen.maps["mean"], abs=1e-6)
    assert seen.heads.mean(1) == pytest.approx(seen.layers["mean"], abs=1e-6)


def test_relative_is_one_where_nothing_else_is_asked(pg):
    seen = pg.explain(picture(), "", SamplingOptions(max_new_tokens=1))
    assert seen.maps["relative"] == pytest.approx(1, abs=1e-4)
    assert np.ptp(pg.explain(picture(), PROMPT, TEN).maps["relative"][0]) > 0.1


def test_an_answer_read_again_is_explained_alike(pg, seen):
    again = pg.explain_reply(picture(), PROMPT, seen.reply, tuple(VIEWS))
    for name in VIEWS:
        assert again.maps[name] == pytest.approx(seen.maps[name], rel=1e-3, abs=1e-5)
    assert len(again.columns) == len(again.between_tokens) == len(seen.prompt) + 10


def test_an_answer_that_ends_by_itself(pg, monkeypatch):
    """The column of its last token is read too, and wrote the end."""
    last = pg.generate(picture(), PROMPT, TEN).tokens[3].id
    monkeypatch.setattr(pg.processor, "eos_token_id", last)
    seen = pg.explain(picture(), PROMPT, TEN)
    count = len(seen.reply.tokens)
    assert 0 < count <= 3 and seen.maps["mean"].shape[0] == count
    assert len(seen.columns) == len(seen.between_tokens) == len(seen.prompt) + count


def test_no_answer_at_all(pg, monkeypatch):
    first = pg.generate(picture(), PROMPT, TEN).tokens[0].id
    monkeypatch.setattr(pg.processor, "eos_token_id", first)
    seen = pg.explain(picture(), PROMPT, TEN, tuple(VIEWS))
    assert seen.reply.tokens == ()
    assert all(maps.shape == (0, GRID, GRID) for maps in seen.maps.values())
    json.dumps(seen.values(), allow_nan=False)


def test_values_are_json(seen):
    values = json.loads(json.dumps(seen.values(), allow_nan=False))
    assert values["text"] == seen.reply.text and set(values["maps"]) == set(VIEWS)
    assert np.array(values["maps"]["mean"]) == pytest.approx(seen.maps["mean"], abs=1e-6)
    assert np.array(values["between_tokens"]).shape == (len(seen.columns),) * 2


def test_a_patch_knows_who_looked_at_it(seen):
    found = seen.lookers("mean", 1, 3)
    assert sorted(token for token, _ in found) == [*range(10)]
    assert [value for _, value in found] == sorted(seen.maps["mean"][:, 1, 3], reverse=True)
    assert found[0][0] == seen.maps["mean"][:, 1, 3].argmax()
    with pytest.raises(ValueError, match="'gaze' was not asked for; there is middle, mean"):
        seen.lookers("gaze", 0, 0)
    with pytest.raises(ValueError, match="not -1, 0"):
        seen.lookers("mean", -1, 0)


def test_unknown_view(pg, seen):
    with pytest.raises(ValueError, match="'x-ray' is no view; choose middle, mean, rollout"):
        pg.explain_reply(picture(), PROMPT, seen.reply, ("mean", "x-ray"))
    assert DEFAULT_VIEW in VIEWS and set(CHEAP_VIEWS) == set(VIEWS) - {"gradient"}


def test_similarity_to_a_word(pg):
    ids = pg.processor.encode_suffix(" cat")[:-1]
    features = pg.model.embed_image(pg.processor.pixel_values([picture()]))[0]
    word = pg.model.language_model.embed_tokens.weight[ids].mean(0)
    expected = torch.cosine_similarity(features, word, dim=-1).detach().reshape(GRID, GRID)
    assert pg.similarity(picture(), " cat ") == pytest.approx(expected.numpy(), abs=1e-5)
    with pytest.raises(ValueError, match="no word"):
        pg.similarity(picture(), "  ")


def test_tower(pg):
    maps = pg.tower_attention(picture(), 1, 3)
    assert maps.shape == (2, 4, GRID, GRID)
    assert maps.sum((2, 3)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match=f"rows and columns 0 to {GRID - 1}, not 0, {GRID}"):
        pg.tower_attention(picture(), 0, GRID)


def test_a_binary_file_is_read_once(pg, tmp_path):
    path = tmp_path / "picture.png"
    picture().save(path)
    with open(path, "rb") as file:
        from_file = pg.explain(file, PROMPT, TEN)
    assert from_file.maps["mean"] == pytest.approx(pg.explain(path, PROMPT, TEN).maps["mean"])


def test_the_built_in_model_looks_at_what_it_finds():
    pg = PaliGemma.load(BUILT_IN_FOLDER)
    seen = pg.explain("examples/harbour.png", "detect anchor", views=tuple(VIEWS))
    (found,) = seen.reply.detections
    x1, y1, x2, y2 = found.box
    row, column = divmod(int(seen.maps[DEFAULT_VIEW][-1].argmax()), 8)
    assert (
        y1 - 1 / 8 < (row + 0.5) / 8 < y2 + 1 / 8 and x1 - 1 / 8 < (column + 0.5) / 8 < x2 + 1 / 8
    )
