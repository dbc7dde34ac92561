"""How the page looks: theme, style sheet, and what `launch` is given."""

import gradio as gr

from paligemma.ui.url_state import SCRIPT

PAPER = gr.themes.Color("#fffdf8", "#fbf6ec", "#efe5d2", "#e2d4bb", "#b9a994", "#78685a",
                        "#6a5c4e", "#4a4034", "#332b23", "#27211b", "#1c1814")  # fmt: skip
STICKER = {
    "button_primary_background_fill": "#ffb95f", "button_primary_background_fill_hover": "#ffc87f",
    "button_primary_border_color": "#e15f00", "button_primary_text_color": "#4a1f00",
    "checkbox_label_background_fill_selected": "#ffb95f",
    "checkbox_label_text_color_selected": "#4a1f00",
}  # fmt: skip
THEME = gr.themes.Base(
    primary_hue="orange", secondary_hue="amber", neutral_hue=PAPER, radius_size="lg",
    font=("ui-rounded", "Nunito", "Segoe UI", "system-ui", "sans-serif"),
    font_mono=("ui-monospace", "DejaVu Sans Mono", "monospace"),
).set(
    body_text_color_subdued="*neutral_500", input_placeholder_color="*neutral_500",
    body_background_fill="*neutral_100", block_background_fill="*neutral_50",
    input_background_fill="*neutral_100", input_background_fill_dark="*neutral_950",
    block_border_width="2px", block_border_width_dark="2px", button_border_width="2px",
    button_secondary_background_fill="*neutral_50",
    button_secondary_background_fill_dark="*neutral_900",
    **STICKER, **{f"{name}_dark": color for name, color in STICKER.items()},
)  # fmt: skip
CSS = """
.gradio-container { min-height: 100vh; background-size: 22px 22px !important;
  background-image: radial-gradient(#8a6d4a22 1.5px, transparent 1.5px) !important; }
.gradio-container .app { padding: 8px clamp(12px, 3vw, 32px) !important;
  max-width: 1400px !important; }
#header { padding: .5rem 0; overflow: visible; }
#header h1 { margin: 0; font-size: 2.1rem; font-weight: 800; }
#header p { margin: .25rem 0 0; max-width: 56rem; }
.glyphs { float: right; font-size: 2.2rem; line-height: 1.5; }
.glyphs i { display: inline-block; margin: 0 .3rem; font-style: normal; paint-order: stroke;
  color: hsl(var(--hue) 80% 38%); -webkit-text-stroke: 7px hsl(var(--hue) 95% 78%); }
.glyphs i:nth-child(odd) { rotate: -12deg; }
.glyphs i:nth-child(even) { rotate: 9deg; }
#tabs .tab-container button { padding-inline: .7rem; }
button.primary, button.stop { border-radius: 999px !important; }
#examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr));
  gap: 10px; align-items: stretch; contain: inline-size; }
#examples button { flex-direction: column; justify-content: flex-start; gap: 6px; min-width: 0;
  padding: 6px; font-size: .78rem; font-weight: 500; line-height: 1.25; }
#examples img { width: 100%; max-width: none; height: auto; aspect-ratio: 1; margin: 0;
  object-fit: cover; border-radius: 8px; }
#models { margin-top: -.5rem; }
#models button:is(.primary, .stop) { align-self: center; max-height: 3rem; }
.line progress { vertical-align: middle; accent-color: #e15f00; width: 12rem; max-width: 40%; }
.line > .wrap.minimal { overflow: visible; }
.line .progress-text { inset: 0 0 auto auto !important; transform: none !important;
  font-size: .85rem; }
.line { min-height: 1.6rem; font-variant-numeric: tabular-nums; }
.raw.boxes textarea, .raw.masks textarea { font-family: var(--font-mono); font-size: .8rem; }
.raw.text textarea { font-size: 1.15rem; }
.seen .mask:not(.inactive) { opacity: 1 !important; }
.seen .legend-item { color: #1c1814; background-image: linear-gradient(#fff6, #fff6); }
.prose table.found { width: auto; font-size: .85rem; font-variant-numeric: tabular-nums; }
.prose table.found, .prose table.found tr { border: 0; }
.prose table.found :is(td, th) { border: 0; padding: .15rem .5rem; text-align: right; }
.prose table.found :is(td, th):first-child { text-align: left; white-space: nowrap; }
.found i { display: inline-block; width: .8em; height: .8em; margin-right: .5em;
  border-radius: 3px; }
:is(#heat, #mask):not(.fullscreen) img { max-height: 480px; }
:is(#heat, #mask) img { object-fit: contain; }
:is(input, textarea, button):focus-visible { outline: 2px solid #e15f00 !important;
  outline-offset: 1px; }
.note { color: var(--body-text-color-subdued); }
.hints { gap: 6px !important; flex-wrap: wrap; }
.hints button { flex: 0 1 auto; font-weight: 500; }
.told ul { margin: .25rem 0 0; padding-left: 1.1rem; }
.told p { margin: 0; color: var(--body-text-color-subdued); }
.prose table.sides, .prose table.batch { font-size: .85rem; width: 100%; table-layout: fixed; }
.prose table:is(.sides, .batch), .prose table:is(.sides, .batch) :is(tr, td, th) {
  border-color: var(--border-color-primary); }
:is(.cuts, #drawings) .grid-wrap { min-height: 0; }
.prose table.sides th { width: 4rem; text-align: left; }
.prose table:is(.sides, .batch) td { overflow-wrap: anywhere; vertical-align: top; }
.prose table.batch td:first-child { width: 30%; }
svg.anatomy { width: 100%; max-width: 520px; height: auto; }
svg.anatomy rect { fill: var(--block-background-fill); stroke: var(--border-color-primary);
  stroke-width: 2; }
svg.anatomy g { cursor: pointer; outline: none; }
svg.anatomy g:is(:hover, :focus) rect { stroke: #e15f00; }
svg.anatomy text { fill: var(--body-text-color); font-size: 14px; }
svg.anatomy .title { font-weight: 700; font-size: 15px; }
svg.anatomy .small { fill: var(--body-text-color-subdued); font-size: 13px; }
svg.anatomy .file { text-anchor: end; font: 12px var(--font-mono);
  fill: var(--body-text-color-subdued); }
svg.anatomy .arrow { fill: none; stroke: var(--body-text-color-subdued); stroke-width: 2; }
.strip i { display: inline-block; margin: 2px; padding: 0 6px; border-radius: 6px;
  font: .82rem/1.7 var(--font-mono); color: #1c1814; white-space: pre;
  background: color-mix(in srgb, var(--kind) 45%, white); }
ul.strip { list-style: none; padding: 0; margin: .5rem 0 0; display: flex; flex-wrap: wrap;
  gap: .2rem 1rem; font-size: .85rem; }
#mask img { image-rendering: pixelated; }
#area img { cursor: crosshair; }
@media (max-width: 700px) {
  #header { position: relative; padding: 0; }
  .glyphs { position: absolute; right: 0; top: .4rem; font-size: 1.1rem; }
  .glyphs i { margin: 0 .1rem; -webkit-text-stroke-width: 4px; }
  #header p { font-size: .85rem; line-height: 1.35; }
  #header h1 { font-size: 1.7rem; }
  #picture { height: 270px !important; }
  #examples { display: flex; flex-wrap: nowrap; overflow-x: auto; }
  #examples button { flex: 0 0 92px; padding: 4px; }
  #examples img { aspect-ratio: 3/2; }
  footer .divider { display: none; }
}
"""
LABELS = """<script>
new MutationObserver(() => {  // gradio 6.31 names pictures for the eye only
  for (const frame of document.querySelectorAll("button > .image-frame")) {
    const label = frame.closest(".block").querySelector("[data-testid=block-label]");
    frame.parentElement.ariaLabel ||= label?.textContent.trim() || "Picture";
  }
}).observe(document, {childList: true, subtree: true});
</script>"""
SHOW_TABS = """() => {
  if (innerWidth < 700) document.getElementById("tabs").scrollIntoView({behavior: "smooth"});
  return [];
}"""
LOOK = {
    "theme": THEME, "css": CSS, "head": SCRIPT + LABELS,
    "footer_links": ["api", "settings"], "run_history": False,
    "ssr_mode": False, "state_session_capacity": 100, "show_error": True, "max_file_size": "50mb",
}  # fmt: skip
