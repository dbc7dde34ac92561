"""The demo: one picture, a tab for each task of `paligemma.tasks`, and the inside of the model.

    python app.py [--model M] [--dtype D] [--device D] [--host 127.0.0.1] [--port 7860] [--share] [--mcp]

`build_app(ModelManager(pg))` is the whole page; `pg` is a `paligemma.pipeline.PaliGemma`, and the seat lets
a visitor change it for another, for everybody. The parts of the page are in `paligemma/page`.
Nothing is kept between calls except in the visitor's own page. On a hosted Space this file runs as
it is.
"""  # noqa: E501

import argparse
import os
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when imported: stay offline

import gradio as gr

from paligemma.pipeline import PaliGemma
from paligemma.tasks import TASKS
from paligemma.ui.api import add_endpoints
from paligemma.ui.common import ASIDE, INNER, QUICK, Page, header, settings_panel
from paligemma.ui.image_input import PictureColumn, load_examples
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.model_picker import ModelPicker
from paligemma.ui.tabs.attention import AttentionTab
from paligemma.ui.tabs.batch import BatchTab
from paligemma.ui.tabs.compare import CompareTab
from paligemma.ui.tabs.how_it_works import InsideTab
from paligemma.ui.tabs.region import RegionTab
from paligemma.ui.tabs.task import task_tab
from paligemma.ui.temp_files import keep_tidy, own_files
from paligemma.ui.theme import LOOK
from paligemma.ui.url_state import PICTURES, Address, picture_of, share

EXAMPLES = Path(__file__).parent / "examples"
ON_SPACE = "SPACE_ID" in os.environ
A_DAY = 24 * 3600  # by then `keep_tidy` has deleted it: gradio deletes what is left at the end
LONGEST_LINE = 64  # visitors' requests that may wait
SHARE_NOTE = (
    "The address above keeps tab, prompt, example and settings for good. The button adds your own "
    "picture to it: whoever has the link can see it until it is deleted, two hours after upload, "
    "sooner if the server is full, or when the server restarts."
)


def build_app(seat: ModelManager | PaliGemma, own: bool = True) -> gr.Blocks:
    """The page over a loaded model; launch it with `**LOOK`.

    `own`: visitors may load what is not in the list of published models, from this machine too.
    """
    seat = seat if isinstance(seat, ModelManager) else ModelManager(seat)
    gr.set_static_paths([EXAMPLES])  # served from where they lie, whatever the working directory
    examples = load_examples(EXAMPLES)
    with gr.Blocks(title="PaliGemma", delete_cache=(A_DAY, A_DAY)) as demo:
        top = gr.HTML(header(seat), elem_id="header")
        last, press = gr.State(), gr.Textbox(visible=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                column = PictureColumn(examples)
            page = Page(seat, top, column.picture, last)
            with gr.Column(scale=3, min_width=300):
                tabs = gr.Tabs(
                    selected=examples[0]["task"] if examples else None,
                    overflow_behavior="wrap", elem_id="tabs",
                )  # fmt: skip
                with tabs:
                    task_tabs = [task_tab(page, task) for task in TASKS.values()]
                    region, attention = RegionTab(page), AttentionTab(page)
                    compare, batch = CompareTab(page, own), BatchTab(page)
                    asking = [*task_tabs, region, attention, compare, batch]
                    inside = InsideTab(page)
                page.settings = settings_panel()
                picker = ModelPicker(page, own)
                with gr.Accordion("Share", open=False):
                    gr.Markdown(SHARE_NOTE)
                    shared, copied = gr.Textbox(visible=False), gr.Markdown()
                    sharing = gr.Button("Copy a link to this page with its picture")
                    gr.DuplicateButton(visible=ON_SPACE)
        by_key = {tab.id: tab for tab in tabs.children if isinstance(tab, gr.Tab)}
        parts = {name: part for tab in asking for name, part in tab.in_address.items()}
        address = Address(by_key, parts, page.settings, picker.source)
        by_task = {tab.task.key: tab for tab in task_tabs}
        # what an address can run, and what must be written for it, if anything
        runs = {key: [key] if tab.text else [] for key, tab in by_task.items()}
        runs |= {"region": ["region", "region.reply"], "attention": ["attention"]}
        for tab in *asking, inside:
            tab.wire(page)
        page.wire_stops()
        column.wire(seat)
        address.wire(column.changed)
        filled = dict.fromkeys([
            column.picture, column.note, tabs, press, picker.source, *address.parts.values(),
            *page.said, *(part for tab in task_tabs for part in tab.kept_outputs),
        ])  # fmt: skip

        def emptied() -> dict:
            """What becomes of all that was said, about another picture or by another model."""
            updates = dict(page.said)
            for tab in *task_tabs, attention:
                updates |= tab.nothing()
            return updates

        def choose(row: dict) -> dict:
            """An example: picture, tab, text, and the kept answer or a press of the button."""
            tab = by_task[row["task"]]
            updates = emptied() | {column.picture: row["image"], column.note: ""}
            updates |= {tabs: gr.Tabs(selected=row["task"]), press: row["task"]}
            updates |= {tab.text: row["text"]} if tab.text else {}
            if seat.current is not None and seat.current.is_built_in and row.get("tokens"):
                updates |= tab.kept(seat.current, row)
                prompt = tab.task.prompt(row["text"])
                updates |= {last: (prompt, [text for text, _ in row["tokens"]]), press: ""}
            return updates

        def restore(request: gr.Request) -> dict:
            """The page as its address says; with nothing said, the first example."""
            query, row = dict(request.query_params), examples[0] if examples else None
            said = {name: query[name] for name in {"tab", *PICTURES, *address.parts} & set(query)}
            if row and said.items() <= {row["task"]: row["text"]}.items():
                first = choose(row)
                first.pop(tabs, None)  # it is open already; a visitor may have gone on
                return first | {press: ""} | address.restore(query)
            image = picture_of(query, examples, own_files(demo)) or (row and row["image"])
            updates = {column.picture: image, press: ""} | address.restore(query)
            if (tab := query.get("tab")) in by_key:
                updates[tabs] = gr.Tabs(selected=tab)
                ready = tab in runs and (not runs[tab] or any(map(query.get, runs[tab])))
                updates[press] = tab if ready and image else ""
            return updates

        for event in column.changed:
            event(emptied, None, list(page.said), cancels=page.runs, **QUICK)
        sharing.click(
            lambda picture: share(picture, own_files(demo)), column.picture, shared,
            preprocess=False, **ASIDE,
        ).success(None, shared, copied, js="(name) => shareLink(name)", **INNER)  # fmt: skip
        for card, row in zip(column.cards, examples, strict=True):
            named = f'"{Path(row["image"]).stem}"'
            stopped = card.click(None, js="() => scrollToTabs()", cancels=page.runs, **INNER)
            stopped.then(lambda row=row: choose(row), None, list(filled), **QUICK).then(
                None, press, None, js=f'(key) => {{ setUrlParam("example", {named}); '
                f'setUrlParam("picture", null); setUrlParam("tab", "{row["task"]}"); '
                "return pressRun(key); }", **INNER,
            )  # fmt: skip

        def forget() -> dict:
            """What another model said is gone from the page."""
            return emptied() | {top: header(seat)}

        picker.wire(page, forget, [top, *page.said])
        demo.load(lambda: header(seat), None, top, **QUICK)  # another may have changed the model
        demo.load(restore, None, list(filled), **QUICK).then(
            None, press, None, js="(key) => finishRestore(key)", **INNER
        )
        add_endpoints(page)
    demo.queue(max_size=LONGEST_LINE)
    return demo


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the PaliGemma demo.")
    wish = lambda name: os.environ.get(f"PALIGEMMA_{name}") or None
    parser.add_argument(
        "--model", default=wish("MODEL"),
        help="a folder, an .npz or owner/model of the hub (default: the built-in model)",
    )  # fmt: skip
    parser.add_argument("--dtype", default=wish("DTYPE"), help="float32, bfloat16 or float16")
    parser.add_argument("--device", default=wish("DEVICE"), help="cpu, cuda, cuda:1, mps or auto")
    parser.add_argument("--tokenizer", help="a tokenizer.json, where the weights have none")
    parser.add_argument("--mask-codec", help="an .npz, where the weights have none beside them")
    parser.add_argument(
        "--host", default=os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1",
        help="0.0.0.0 lets other machines in",
    )  # fmt: skip
    port = int(os.environ.get("GRADIO_SERVER_PORT") or 7860)
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--share", action="store_true", help="a public link through gradio.live")
    parser.add_argument("--mcp", action="store_true", help="the tasks as MCP tools, too")
    args = parser.parse_args()
    try:
        pg = PaliGemma.load(args.model, args.device, args.dtype, args.tokenizer, args.mask_codec)
    except ValueError as error:
        parser.exit(2, f"app.py: {error}\n")
    private = args.host in ("127.0.0.1", "localhost") and not args.share and not ON_SPACE
    demo = build_app(ModelManager(pg, args.device, args.dtype, args.mask_codec), own=private)
    keep_tidy(demo)
    demo.launch(
        server_name=args.host, server_port=args.port, share=args.share, mcp_server=args.mcp, **LOOK
    )


if __name__ == "__main__":
    main()
