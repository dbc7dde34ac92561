"""Colours, fonts, style sheet and script of the page: the options that `launch` is given."""

from pathlib import Path
from typing import Any

from gradio import themes

STATIC = Path(__file__).parent / "static"
SCRIPTS = "page.js", "image.js", "draw.js", "names.js", "prompt.js", "accessibility.js"
NEUTRAL = themes.Color(
    *("#fffdf8", "#fbf6ec", "#efe5d2", "#e2d4bb", "#b9a994", "#78685a"),
    *("#6a5c4e", "#4a4034", "#332b23", "#27211b", "#1c1814"),
)
ACCENT = {
    "button_primary_background_fill": "#ffb95f",
    "button_primary_background_fill_hover": "#ffc87f",
    "button_primary_border_color": "#e15f00",
    "button_primary_text_color": "#4a1f00",
    "checkbox_label_background_fill_selected": "#ffb95f",
    "checkbox_label_text_color_selected": "#4a1f00",
}
THEME = themes.Base(
    primary_hue="orange",
    secondary_hue="amber",
    neutral_hue=NEUTRAL,
    radius_size="lg",
    font=("ui-rounded", "Nunito", "Segoe UI", "system-ui", "sans-serif"),
    font_mono=("ui-monospace", "DejaVu Sans Mono", "monospace"),
).set(
    body_text_color_subdued="*neutral_500",
    input_placeholder_color="*neutral_500",
    body_background_fill="*neutral_100",
    block_background_fill="*neutral_50",
    input_background_fill="*neutral_100",
    input_background_fill_dark="*neutral_950",
    block_border_width="2px",
    block_border_width_dark="2px",
    link_text_color="*primary_800",
    link_text_color_hover="*primary_900",
    link_text_color_dark="*primary_300",
    link_text_color_hover_dark="*primary_200",
    button_border_width="2px",
    button_secondary_background_fill="*neutral_50",
    button_secondary_background_fill_dark="*neutral_900",
    **ACCENT,
    **{f"{name}_dark": color for name, color in ACCENT.items()},
)
LAUNCH_OPTIONS: dict[str, Any] = {
    "theme": THEME,
    "css_paths": [STATIC / "style.css"],
    "head": "".join(f"<script>\n{(STATIC / name).read_text('utf-8')}</script>" for name in SCRIPTS),
    "footer_links": ["api", "settings"],
    "run_history": False,
    "ssr_mode": False,
    "state_session_capacity": 100,
    "show_error": True,
    "max_file_size": "50mb",
    "enable_monitoring": False,
    # Gradio would end an app that is slow to answer itself: one that clients load as it starts.
    "_frontend": False,
}
