"""Explanations while decoding, of a given answer, and in every view; tiny and built-in models."""

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


def image(seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def pg(tmp_path_factory):
    return PaliGemma.load(tiny.write(tmp_path_factory.mktemp("models") / "tiny"), dtype="float32")


@pytest.fixture(scope="module")
def explanation(pg):
    return pg.explain(image(), PROMPT, TEN, tuple(VIEWS))


def test_the_reply_is_that_of_generate(pg, explanation):
    reply = pg.generate(image(), PROMPT, TEN)
    assert (explanation.reply.text, explanation.reply.tokens) == (reply.text, reply.tokens)


def test_shapes(pg, explanation):
    for name in VIEWS:
        layers = 1 if name in ("similarity", "middle") else LAYERS
        assert explanation.layers[name].shape == (layers, 10, GRID, GRID)
        assert explanation.maps[name].shape == (10, GRID, GRID)
        assert explanation.maps[name].min() >= 0 and np.isfinite(explanation.maps[name]).all()
    assert explanation.heads.shape == (LAYERS, HEADS, 10, GRID, GRID)
    prompt = len(pg.processor.encode_prompt(PROMPT)) - P
    assert (
        explanation.prompt_maps.shape == (prompt, GRID, GRID) and len(explanation.prompt) == prompt
    )
    assert explanation.prompt[0] == "<bos>" and explanation.prompt[-1] == "\n"
    assert "".join(explanation.prompt[1:]).strip() == PROMPT
    assert len(explanation.positions) == len(explanation.between_tokens) == prompt + 9
    assert explanation.positions[prompt:] == tuple(
        token.text for token in explanation.reply.tokens[:9]
    )


def test_no_array_is_a_part_of_a_larger_one(explanation):
    """The weights of a long prompt would stay in memory, and not be counted."""
    arrays = [explanation.heads, explanation.between_tokens, explanation.prompt_maps]
    arrays += [*explanation.layers.values(), *explanation.maps.values()]
    assert all(array.base is None and array.dtype == np.float32 for array in arrays)
    assert explanation.num_bytes == sum(array.nbytes for array in arrays)


def test_a_token_has_the_map_of_the_position_before_it(pg, explanation):
    with capture_attention(pg.model) as maps:
        pg.generate(image(), PROMPT, TEN)
    first = len(explanation.prompt) - 1
    rows = {
        "mean": views.mean_attention(maps[0]),
        "middle": views.middle(maps[0]),
        "rollout": views.rollout(maps[0])[-1],
    }
    for name, values in rows.items():
        expected = values[first : first + 10].reshape(10, GRID, GRID)
        assert explanation.maps[name] == pytest.approx(expected, abs=1e-6)
    for name in ("rollout", "gradient"):
        assert explanation.layers[name][-1] == pytest.approx(explanation.maps[name])
    assert explanation.layers["mean"].mean(0) == pytest.approx(explanation.maps["mean"], abs=1e-6)
    assert explanation.heads.mean(1) == pytest.approx(explanation.layers["mean"], abs=1e-6)


def test_relative_is_one_for_the_neutral_prompt(pg):
    explanation = pg.explain(image(), "", SamplingOptions(max_new_tokens=1))
    assert explanation.maps["relative"] == pytest.approx(1, abs=1e-4)
    assert np.ptp(pg.explain(image(), PROMPT, TEN).maps["relative"][0]) > 0.1


def test_a_given_answer_has_the_same_maps(pg, explanation):
    again = pg.explain_reply(image(), PROMPT, explanation.reply, tuple(VIEWS))
    for name in VIEWS:
        assert again.maps[name] == pytest.approx(explanation.maps[name], rel=1e-3, abs=1e-5)
    assert len(again.positions) == len(again.between_tokens) == len(explanation.prompt) + 10


def test_an_answer_that_ends_by_itself(pg, monkeypatch):
    """Its last token is an input too: EOS was predicted there."""
    last = pg.generate(image(), PROMPT, TEN).tokens[3].id
    monkeypatch.setattr(pg.processor, "eos_token_id", last)
    explanation = pg.explain(image(), PROMPT, TEN)
    count = len(explanation.reply.tokens)
    assert 0 < count <= 3 and explanation.maps["mean"].shape[0] == count
    assert (
        len(explanation.positions)
        == len(explanation.between_tokens)
        == len(explanation.prompt) + count
    )


def test_no_answer_at_all(pg, monkeypatch):
    first = pg.generate(image(), PROMPT, TEN).tokens[0].id
    monkeypatch.setattr(pg.processor, "eos_token_id", first)
    explanation = pg.explain(image(), PROMPT, TEN, tuple(VIEWS))
    assert explanation.reply.tokens == ()
    assert all(maps.shape == (0, GRID, GRID) for maps in explanation.maps.values())
    json.dumps(explanation.to_json(), allow_nan=False)


def test_to_json(explanation):
    values = json.loads(json.dumps(explanation.to_json(), allow_nan=False))
    assert values["text"] == explanation.reply.text and set(values["maps"]) == set(VIEWS)
    assert np.array(values["maps"]["mean"]) == pytest.approx(explanation.maps["mean"], abs=1e-6)
    assert np.array(values["between_tokens"]).shape == (len(explanation.positions),) * 2


def test_tokens_are_ranked_at_a_patch(explanation):
    found = explanation.rank_tokens("mean", 1, 3)
    assert sorted(token for token, _ in found) == [*range(10)]
    assert [value for _, value in found] == sorted(explanation.maps["mean"][:, 1, 3], reverse=True)
    assert found[0][0] == explanation.maps["mean"][:, 1, 3].argmax()
    with pytest.raises(ValueError, match="'gaze' was not computed; there is middle, mean"):
        explanation.rank_tokens("gaze", 0, 0)
    with pytest.raises(ValueError, match="not -1, 0"):
        explanation.rank_tokens("mean", -1, 0)


def test_unknown_view(pg, explanation):
    with pytest.raises(ValueError, match="'x-ray' is no view; choose middle, mean, rollout"):
        pg.explain_reply(image(), PROMPT, explanation.reply, ("mean", "x-ray"))
    assert DEFAULT_VIEW in VIEWS and set(CHEAP_VIEWS) == set(VIEWS) - {"gradient"}


def test_word_similarity(pg):
    ids = pg.processor.encode_suffix(" cat")[:-1]
    features = pg.model.embed_image(pg.processor.pixel_values([image()]))[0]
    word = pg.model.language_model.embed_tokens.weight[ids].mean(0)
    expected = torch.cosine_similarity(features, word, dim=-1).detach().reshape(GRID, GRID)
    assert pg.similarity(image(), " cat ") == pytest.approx(expected.numpy(), abs=1e-5)
    with pytest.raises(ValueError, match="no word"):
        pg.similarity(image(), "  ")


def test_tower(pg):
    maps = pg.tower_attention(image(), 1, 3)
    assert maps.shape == (2, 4, GRID, GRID)
    assert maps.sum((2, 3)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match=f"rows and columns 0 to {GRID - 1}, not 0, {GRID}"):
        pg.tower_attention(image(), 0, GRID)


def test_a_binary_file_is_read_once(pg, tmp_path):
    path = tmp_path / "image.png"
    image().save(path)
    with open(path, "rb") as file:
        from_file = pg.explain(file, PROMPT, TEN)
    assert from_file.maps["mean"] == pytest.approx(pg.explain(path, PROMPT, TEN).maps["mean"])


def test_the_peak_of_the_built_in_model_is_in_the_box():
    pg = PaliGemma.load(BUILT_IN_FOLDER)
    explanation = pg.explain("examples/harbour.png", "detect anchor", views=tuple(VIEWS))
    (found,) = explanation.reply.detections
    x1, y1, x2, y2 = found.box
    grid = pg.config.vision_config.grid
    row, column = divmod(int(explanation.maps[DEFAULT_VIEW][-1].argmax()), grid)
    assert y1 - 1 / grid < (row + 0.5) / grid < y2 + 1 / grid
    assert x1 - 1 / grid < (column + 0.5) / grid < x2 + 1 / grid
