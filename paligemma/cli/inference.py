"""paligemma generate, explain, names"""

import json
import sys
from argparse import Namespace
from pathlib import Path

from paligemma.cli.common import add_model_options, load_pipeline, make_folder, save_image

LIST_NAMES = "paligemma names"


def add_commands(commands) -> None:
    parser = commands.add_parser("generate", help="answer one prompt about one image")
    parser.add_argument("--image", required=True, help="a file, or an http(s) address or data URL")
    parser.add_argument("--prompt", required=True, help='such as "caption en" or "detect cat"')
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the reply as JSON")
    parser.add_argument("--out", type=Path, help="write the image with boxes and masks drawn on it")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 = greedy")
    parser.add_argument("--top-k", type=int, default=0, help="0 = all tokens")
    parser.add_argument("--top-p", type=float, default=1.0, help="1 = all tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run_generate)

    parser = commands.add_parser("explain", help="answer, and draw the attention of each token")
    parser.add_argument("--image", required=True, help="a file, or an http(s) address or data URL")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--out", required=True, type=Path, help="a folder for images and values")
    add_model_options(parser)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument(
        "--gradient",
        action="store_true",
        help="also attention times its gradient: a backward pass per token",
    )
    parser.set_defaults(run=run_explain)

    parser = commands.add_parser("names", help="list the names of objects that a model knows")
    parser.add_argument("--model", help="a folder (default: the built-in model)")
    parser.set_defaults(run=run_names)


def run_generate(arguments: Namespace) -> None:
    """Answer one prompt about one image."""
    from paligemma.generation import SamplingOptions
    from paligemma.images import open_image
    from paligemma.prompts import prompt_note, unknown_names
    from paligemma.synthetic.suggestions import unknown_note

    options = SamplingOptions(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    image = open_image(arguments.image)
    pg = load_pipeline(arguments)
    if arguments.json:
        reply = pg.generate(image, arguments.prompt, options)
        print(json.dumps(reply.to_json(), ensure_ascii=False))
    else:
        reply, printed = None, 0
        for reply in pg.stream(image, arguments.prompt, options):
            print(reply.text[printed:], end="", flush=True)
            printed = len(reply.text)
        print()
        assert reply is not None
        notes = [prompt_note(arguments.prompt)]
        if reply.finish_reason == "length":
            notes.append(f"Cut off at {len(reply.tokens)} tokens: see --max-new-tokens.")
        labels = {found.label for found in reply.detections}
        unknown, browse = unknown_names(arguments.prompt, pg.known_names), LIST_NAMES
        if arguments.model:
            browse = f"{LIST_NAMES} --model {arguments.model}"
        notes.append(
            unknown_note(unknown, pg.known_names, f"List all that it knows: {browse}", labels)
        )
        for note in filter(None, notes):
            print(note, file=sys.stderr)
    if arguments.out:
        from visualize import draw_objects

        masks = pg.masks(reply.detections)
        save_image(draw_objects(image, reply.detections, masks), arguments.out)


def run_explain(arguments: Namespace) -> None:
    """Answer one prompt, and draw the attention of each token of the answer."""
    from paligemma.generation import SamplingOptions
    from paligemma.images import open_image
    from paligemma.interpret.explain import CHEAP_VIEWS, DEFAULT_VIEW, VIEWS
    from visualize import contact_sheet, to_gif, token_frames, token_matrix, token_strip

    image, out = open_image(arguments.image), arguments.out
    pg = load_pipeline(arguments)
    views = tuple(VIEWS) if arguments.gradient else CHEAP_VIEWS
    options = SamplingOptions(max_new_tokens=arguments.max_new_tokens)
    explanation = pg.explain(image, arguments.prompt, options, views)
    tokens = [token.text for token in explanation.reply.tokens]
    print(explanation.reply.text)
    if not tokens:
        raise ValueError("No text was returned: there is no token to explain.")
    for sink in explanation.sinks:
        print(f"Attention sink at {sink}: every token attends to it.")
    make_folder(out / "heads")
    for name, maps in explanation.maps.items():
        save_image(token_strip(image, maps, tokens, unit=VIEWS[name].unit), out / f"{name}.png")
    for number, heads in enumerate(explanation.heads.transpose(2, 0, 1, 3, 4), 1):
        save_image(contact_sheet(heads), out / "heads" / f"{number:03d}.png")
    matrix = token_matrix(explanation.between_tokens, explanation.positions)
    save_image(matrix, out / "tokens.png")
    frames = token_frames(image, explanation.maps[DEFAULT_VIEW], tokens)
    (out / "answer.gif").write_bytes(to_gif(frames))
    values = json.dumps(explanation.to_json(), ensure_ascii=False)
    (out / "explanation.json").write_text(values, "utf-8")
    print(f"Wrote {out}.")


def run_names(arguments: Namespace) -> None:
    """List the names of objects that a model was trained to find, one a line."""
    from paligemma.checkpoints.resolve import resolve

    checkpoint = resolve(arguments.model)
    if not checkpoint.known_names:
        raise ValueError(f"{checkpoint.name} does not list the names that it knows.")
    print(*checkpoint.known_names, sep="\n")
