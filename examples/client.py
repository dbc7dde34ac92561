"""Call a running app from a program: python examples/client.py [URL] (start `python app.py` first).

The same functions are MCP tools at URL/gradio_api/mcp/ when the app runs with --mcp.
"""

import sys
from pathlib import Path

import httpx
from gradio_client import Client, handle_file

PICTURE = Path(__file__).parent / "harbour.png"


def main(url: str) -> None:
    app = Client(url, verbose=False)
    picture = handle_file(PICTURE)
    print(app.predict(picture, style="caption", api_name="/caption")["text"])
    print(app.predict(picture, question="what color is the wheel?", api_name="/ask")["text"])
    for found in app.predict(picture, objects="anchor ; wheel", api_name="/detect")["detections"]:
        print(found["label"], [round(edge) for edge in found["box"]], f"{found['score']:.0%}")
    [mask] = app.predict(picture, objects="anchor", api_name="/segment")["detections"]
    print("COCO run lengths of", mask["label"], mask["mask"]["size"])


if __name__ == "__main__":
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7860"
    try:
        main(url)
    except httpx.ConnectError:
        sys.exit(f"No app answers at {url}: start one with python app.py.")
