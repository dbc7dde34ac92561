"""Drawing on images: an image and values in, a new image out, the input unchanged."""

from .attention import (
    attention_legend,
    contact_sheet,
    draw_attention,
    sheet_cell,
    to_gif,
    token_frames,
    token_matrix,
    token_strip,
    visible,
)
from .boxes import draw_boxes
from .colors import color_map, color_of
from .masks import draw_masks, draw_objects, object_layers, paste_mask

__all__ = [
    "attention_legend",
    "color_map",
    "color_of",
    "contact_sheet",
    "draw_attention",
    "draw_boxes",
    "draw_masks",
    "draw_objects",
    "object_layers",
    "paste_mask",
    "sheet_cell",
    "to_gif",
    "token_frames",
    "token_matrix",
    "token_strip",
    "visible",
]
