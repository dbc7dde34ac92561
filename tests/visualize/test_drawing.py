"""Drawing, pixel by pixel: the right pixels change, and the input image never does."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from paligemma.detections import Detection
from visualize import (
    attention_legend,
    color_map,
    color_of,
    contact_sheet,
    draw_attention,
    draw_boxes,
    draw_masks,
    draw_objects,
    object_layers,
    paste_mask,
    sheet_cell,
    to_gif,
    token_frames,
    token_matrix,
    token_strip,
)
from visualize.attention import CELL, COLORS, LINE, MARGIN, visible
from visualize.boxes import draw_chips
from visualize.colors import PALETTE, text_color_on
from visualize.masks import BOX_OPACITY, MASK_OPACITY

FULL = np.ones((64, 64), np.float32)
LEFT_HALF = np.where(np.arange(64) < 32, 1.0, -1.0) * FULL
INNER = (0.25, 0.25, 0.75, 0.75)
SIZES = [(1, 1), (1, 400), (400, 1), (7, 5), (33, 17), (128, 128), (640, 480), (4500, 3000)]


def photo(width, height, mode="RGB"):
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 3 % 256, y * 5 % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def black(width, height):
    return Image.new("RGB", (width, height))


def changed(before, after):
    return (np.array(before.convert("RGB")) != np.array(after)).any(axis=-1)


DRAWINGS = {
    "boxes": lambda p: draw_boxes(p, [Detection("cat", INNER, score=0.9)]),
    "masks": lambda p: draw_masks(p, [Detection("cat", INNER)] * 2, [LEFT_HALF, None]),
    "attention": lambda p: draw_attention(p, np.eye(8)),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_input_is_unchanged_and_output_is_rgb(draw, mode):
    image = photo(90, 60, mode)
    before = image.tobytes()
    drawn = draw(image)
    assert image.tobytes() == before and image.mode == mode
    assert (drawn.mode, drawn.size) == ("RGB", image.size)
    assert changed(image, drawn).any()


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size(draw, size):
    assert draw(photo(*size)).size == size


@pytest.mark.parametrize("draw", [draw_boxes, lambda p, d: draw_masks(p, d, [])])
def test_without_detections_the_image_is_unchanged(draw):
    image = photo(50, 40)
    drawn = draw(image, [])
    assert drawn is not image and drawn.tobytes() == image.tobytes()


def test_box_edges_are_at_the_right_pixels():
    drawn = np.array(draw_boxes(black(40, 20), [Detection("", INNER)]))
    edge = np.zeros((20, 40), bool)
    edge[5:15, 10:30] = True
    edge[6:14, 11:29] = False
    assert (drawn[edge] == color_of("")).all() and not drawn[~edge].any()


def test_a_box_around_the_whole_image_lies_on_its_border():
    drawn = np.array(draw_boxes(black(30, 30), [Detection("", (0, 0, 1, 1))])).any(axis=-1)
    assert drawn[0].all() and drawn[-1].all() and drawn[:, 0].all() and drawn[:, -1].all()
    assert not drawn[1:-1, 1:-1].any()


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (1, 1, 1, 1), (0.5, 0, 0.5, 1), (0, 1, 1, 1)])
@pytest.mark.parametrize("size", [(1, 1), (64, 48), (640, 480)])
def test_box_without_size_is_still_drawn(box, size):
    assert np.array(draw_boxes(black(*size), [Detection("", box)])).any()


def test_line_width_grows_with_the_image():
    def line(side):
        column = np.array(draw_boxes(black(side, side), [Detection("", INNER)]))[:, side // 2]
        return int(column.any(axis=-1).sum()) / 2

    assert [line(side) for side in (64, 320, 1600)] == [1, 2, 10]


@pytest.mark.parametrize("box", [(0, 0, 0.1, 0.1), (0.9, 0.9, 1, 1), (0.9, 0, 1, 0.1), INNER])
@pytest.mark.parametrize("label", ["cat", "a label much too long for its image " * 9])
def test_chips_lie_whole_inside_the_image(box, label):
    """The chip is a rectangle with all four sides, and nothing is drawn outside of it."""
    drawn = np.array(draw_chips_on(black(300, 200), [Detection(label, box)]))
    chip = np.argwhere((drawn == color_of(label)).all(axis=-1))
    (top, left), (bottom, right) = chip.min(axis=0), chip.max(axis=0)
    frame = [drawn[top, left : right + 1], drawn[bottom, left : right + 1]]
    frame += [drawn[top : bottom + 1, left], drawn[top : bottom + 1, right]]
    assert all((side == color_of(label)).all() for side in frame)
    outside = drawn.copy()
    outside[top : bottom + 1, left : right + 1] = 0
    assert not outside.any()


def draw_chips_on(canvas, detections):
    draw_chips(canvas, detections)
    return canvas


def test_repeated_boxes_show_each_label():
    one, two = [Detection("cat", INNER)], [Detection("cat", INNER)] * 2
    chip = np.array(draw_chips_on(black(300, 200), one)).any(axis=-1).sum()
    assert np.array(draw_chips_on(black(300, 200), two)).any(axis=-1).sum() == 2 * chip


def test_score_is_written():
    plain, scored = (
        draw_chips_on(black(300, 200), [Detection("cat", INNER, score=s)]) for s in (None, 0.9)
    )
    assert scored.getbbox()[2] > plain.getbbox()[2]


@pytest.mark.parametrize("label", ["\ud800", "\0", "a\nb", "猫", "🐈", "x" * 100_000, "مرحبا"])
def test_any_label_is_drawn(label):
    draw_boxes(black(200, 100), [Detection(label, INNER)])


def test_colors_are_stable_and_apart():
    assert color_map(["cat"]) == {"cat": "#d55e00"}
    labels = ["cat", "dog", "bird", "tree", "car", "hat", "cat", "cup"]
    colors = color_map(labels)
    assert list(colors) == list(dict.fromkeys(labels)) and len(set(colors.values())) == 7
    assert all(color_map(labels[:n]).items() <= colors.items() for n in range(len(labels)))
    assert color_of("cat") == ImageColor.getrgb(colors["cat"])
    assert max(map(list(color_map(map(str, range(70))).values()).count, PALETTE)) == 10


def luminance(color):
    c = np.array(ImageColor.getrgb(color)) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


@pytest.mark.parametrize("color", PALETTE)
def test_ink_is_readable(color):
    low, high = sorted([luminance(color), luminance(text_color_on(color))])
    assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.parametrize("size", [(64, 64), (200, 130), (1000, 700)])
def test_mask_is_stretched_bilinearly_as_torch_does(size):
    width, height = size
    mask = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    soft = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None], (height, width), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    pasted = paste_mask(mask, (0, 0, 1, 1), width, height)
    assert pasted.shape == (height, width) and pasted.dtype == bool
    sure = np.abs(soft) > 1e-5
    assert (pasted == (soft > 0))[sure].all() and sure.mean() > 0.99


def test_mask_lies_in_its_box():
    pasted = paste_mask(LEFT_HALF, (0.2, 0.5, 0.6, 0.9), 100, 50)
    expected = np.zeros((50, 100), bool)
    expected[25:45, 20:40] = True
    assert (pasted == expected).all()


@pytest.mark.parametrize(
    "box", [(0.5, 0, 0.5, 1), (0, 0.5, 1, 0.5), (1, 1, 1, 1), (0, 0, 0.004, 1)]
)
def test_mask_in_a_box_without_size_is_empty(box):
    assert not paste_mask(FULL, box, 100, 50).any()
    image = photo(100, 50)
    assert not changed(image, draw_masks(image, [Detection("", box)], [FULL])).any()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mask_on_any_size(size):
    width, height = size
    assert paste_mask(FULL, (0, 0, 1, 1), width, height).all()
    assert not paste_mask(-FULL, (0, 0, 1, 1), width, height).any()


def test_mask_fill_and_outline():
    grey = Image.new("RGB", (80, 80), (100, 100, 100))
    drawn = np.array(draw_masks(grey, [Detection("", INNER)], [LEFT_HALF]))
    color = np.array(color_of(""))
    outline, fill = np.zeros((2, 80, 80), bool)
    outline[20:60, 20:40] = True
    fill[21:59, 21:39] = True
    outline &= ~fill
    assert (drawn[outline] == color).all()
    assert (drawn[fill] == np.rint(0.55 * 100 + 0.45 * color)).all()
    assert (drawn[~outline & ~fill] == 100).all()


def test_object_without_a_mask_keeps_its_box():
    image, found = photo(80, 80), [Detection("cat", INNER)]
    assert draw_masks(image, found, [None]).tobytes() == draw_boxes(image, found).tobytes()


@pytest.mark.parametrize("draw", [draw_masks, draw_objects])
def test_masks_must_match_detections(draw):
    with pytest.raises(ValueError, match="got 0 for 1"):
        draw(photo(8, 8), [Detection("", INNER)], [])


@pytest.mark.parametrize("style", [(), (0.8, False), (0.25, True)])
def test_objects_are_drawn_as_their_layers_say(style):
    grey = Image.new("RGB", (80, 80), (100, 100, 100))
    detections = [Detection("", INNER), Detection("", (0, 0, 0.2, 0.1))]
    mask_layer, box_layer = object_layers(grey.size, detections, [LEFT_HALF, None], *style)
    drawn = np.array(draw_objects(grey, detections, [LEFT_HALF, None], *style))
    color = np.array(color_of(""))
    alpha = np.maximum(mask_layer, box_layer)[:, :, None]  # they do not overlap
    assert (drawn == np.rint((1 - alpha) * 100 + alpha * color)).all()
    opacity, outline = style or (MASK_OPACITY, True)
    assert set(np.unique(mask_layer)) == {0, np.float32(opacity), *([1] if outline else [])}
    assert set(np.unique(box_layer)) == {0, np.float32(BOX_OPACITY), 1}
    assert box_layer[1:7, 1:15].max() < 1 and (box_layer[0, :16] == 1).all()
    assert not box_layer[8:].any() and not mask_layer[:20].any()


def test_objects_with_labels_get_chips():
    grey, found = Image.new("RGB", (300, 200)), [Detection("cat", INNER)]
    plain = draw_objects(grey, [Detection("", INNER)], [None])
    assert changed(plain, draw_objects(grey, found, [None])).any()


def test_attention_colours_follow_the_scale():
    heat = np.zeros((8, 8))
    heat[2, 5] = 0.03
    drawn = np.array(draw_attention(photo(80, 80), heat, opacity=1.0)).astype(int)
    assert (drawn[70, 5] == COLORS[0]).all()
    assert np.abs(drawn[25, 55] - COLORS[255]).max() <= 12
    brightest = np.unravel_index(drawn.sum(axis=-1).argmax(), (80, 80))
    assert 23 <= brightest[0] <= 26 and 53 <= brightest[1] <= 56


def test_attention_of_nothing_and_opacity():
    image = photo(30, 20)
    assert draw_attention(image, np.eye(4), opacity=0).tobytes() == image.tobytes()
    assert (np.array(draw_attention(image, np.zeros((4, 4)), opacity=1)) == COLORS[0]).all()
    doubled = draw_attention(image, 2 * np.eye(4))
    assert doubled.tobytes() == draw_attention(image, np.eye(4)).tobytes()


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_attention_refuses_other_opacities(opacity):
    with pytest.raises(ValueError, match="Opacity"):
        draw_attention(photo(8, 8), np.eye(4), opacity)


@pytest.mark.parametrize(
    "heat", [np.ones(4), np.ones((2, 4, 4)), np.full((4, 4), np.nan), -np.eye(4)]
)
def test_attention_refuses_other_maps(heat):
    with pytest.raises(ValueError, match="map"):
        draw_attention(photo(8, 8), heat)


def test_attention_legend_runs_over_the_colours():
    legend = np.array(attention_legend(0.25, width=256))
    assert (legend[0] == COLORS).all() and (legend[13:] < 128).any()


def test_a_legend_names_its_unit():
    plain, named = (np.array(attention_legend(0.25, 256, unit)) for unit in ("", "of attention"))
    assert (plain[:12] == named[:12]).all() and (named < 128).sum() > (plain < 128).sum()


def test_a_shared_scale_makes_maps_comparable():
    image, heat = photo(40, 40), np.eye(4)
    alone = np.array(draw_attention(image, heat / 2, 1.0))
    shared = np.array(draw_attention(image, heat / 2, 1.0, largest=1.0))
    assert (alone == np.array(draw_attention(image, heat, 1.0))).all()
    assert shared.astype(int).sum() < alone.astype(int).sum()
    assert np.abs(shared[5, 5].astype(int) - COLORS[128]).max() < 40


# --- Many maps in one image ---------------------------------------------------------------------


def test_the_contact_sheet_has_every_head_in_its_place():
    heads = np.zeros((3, 2, 4, 4))
    heads[2, 1, 0, 3] = 0.02  # the only one that is not 0: its top right
    sheet = np.array(contact_sheet(heads))
    assert sheet.shape[:2] == (MARGIN + 3 * (CELL + LINE), MARGIN + 2 * CELL)
    bright = np.argwhere((sheet == COLORS[255]).all(-1))
    assert len(bright) == ((CELL - 4) // 4) ** 2
    for y, x in bright:
        assert sheet_cell(x, y, 3, 2) == (2, 1)
    assert (bright[:, 1] - MARGIN - CELL).min() > CELL / 2
    assert (bright[:, 0] - MARGIN - 2 * (CELL + LINE)).max() < CELL / 2


@pytest.mark.parametrize(
    "x, y, cell",
    [
        (MARGIN, MARGIN, (0, 0)),
        (MARGIN - 1, MARGIN, None),
        (MARGIN, MARGIN - 1, None),
        (MARGIN + CELL, MARGIN + CELL + LINE, (1, 1)),
        (MARGIN + 2 * CELL, MARGIN, None),
        (MARGIN, MARGIN + 3 * (CELL + LINE), None),
    ],
)
def test_a_click_on_the_sheet(x, y, cell):
    assert sheet_cell(x, y, layers=3, heads=2) == cell


HEATS = np.stack([np.eye(4) * n for n in range(1, 11)])
TEXTS = ["<loc0001>", " cat", "\n", " ", "é", "a" * 99, "b", "c", "d", "e"]


def test_a_strip_has_a_cell_for_each_token_on_one_scale():
    image = photo(80, 40)
    before = image.tobytes()
    strip = token_strip(image, HEATS, TEXTS, opacity=1.0, unit="of attention", side=80)
    cells = token_frames(image, HEATS, TEXTS, opacity=1.0, side=80)
    width, height = cells[0].size
    assert strip.size == (8 * width, 2 * height + 30) and image.tobytes() == before
    eighth, ninth = strip.crop((7 * width, 0, 8 * width, height)), (0, height, width, 2 * height)
    assert eighth.tobytes() == cells[7].tobytes()
    assert strip.crop(ninth).tobytes() == cells[8].tobytes()
    light = [np.array(cell)[:40].astype(int).sum() for cell in cells]
    assert light == sorted(light) and light[0] < light[-1] / 2
    assert len({cell.crop((0, 40, *cell.size)).tobytes() for cell in cells}) == 10  # their texts


@pytest.mark.parametrize("heats, texts", [(HEATS, TEXTS[:3]), (HEATS[:0], [])])
def test_a_strip_needs_a_text_for_each_map(heats, texts):
    with pytest.raises(ValueError, match="Each map needs its token"):
        token_strip(photo(8, 8), heats, texts)


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (640, 480)], ids=str)
def test_frames_of_any_image(size):
    frames = token_frames(photo(*size), HEATS[:2], TEXTS[:2], side=100)
    assert len({frame.size for frame in frames}) == 1 and frames[0].width <= 104


def test_a_gif_plays_every_token():
    frames = token_frames(photo(40, 40), HEATS, TEXTS, side=60)
    with Image.open(BytesIO(to_gif(frames, seconds=0.5))) as gif:
        assert gif.n_frames == 10 and gif.info["duration"] == 500 and gif.info["loop"] == 0
        for number in (0, 4, 9):
            gif.seek(number)
            shown = np.array(gif.convert("RGB")).astype(int)
            assert np.abs(shown - np.array(frames[number])).mean() < 12
    with pytest.raises(ValueError, match="at least one frame"):
        to_gif([])


def test_the_token_matrix_has_rows_and_columns():
    weights = np.zeros((3, 3))
    weights[2, 0] = 0.4
    drawn = np.array(token_matrix(weights, ["<bos>", " cat", "\n"]))
    bright = np.argwhere((drawn == COLORS[255]).all(-1) & (np.arange(len(drawn)) < 200)[:, None])
    dark = np.argwhere((drawn == COLORS[0]).all(-1))
    bright = bright[bright[:, 0] < dark[:, 0].min() + 3 * 28]  # without the bar below
    assert len(bright) == 28 * 28
    assert (bright.min(0) - dark.min(0)).tolist() == [56, 0]
    assert token_matrix(np.ones((200, 200)), ["word"] * 200).width > 200 * 14


@pytest.mark.parametrize("weights, texts", [(np.ones((2, 3)), "ab"), (np.ones((2, 2)), "abc")])
def test_the_token_matrix_is_square(weights, texts):
    with pytest.raises(ValueError, match="make a square"):
        token_matrix(weights, texts)


def test_whitespace_has_symbols():
    assert [visible(text) for text in (" cat", "\n", " ", "", "\0", "a b")] == [
        "cat",
        "⏎",
        "␣",
        "␣",
        "␣",
        "a b",
    ]
