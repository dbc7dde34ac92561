"""Whether the app works, for its host: the address /health, and a watchdog of its queue."""

import json
import os
import sys
import time
from threading import Thread

import gradio as gr
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from paligemma.ui.model_manager import ModelManager
from paligemma.ui.queue import RequestQueue

CHECK_SECONDS = 5
MAX_FAILED_CHECKS = 3  # in a row: a server that is being closed passes no such number
EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h


def health_route(demo: gr.Blocks, models: ModelManager) -> Route:
    """GET /health: 200 while a model is loaded and the queue works, 503 otherwise."""

    async def health(_: Request) -> JSONResponse:
        model, works = models.current, is_working(demo)
        state = {
            "status": "ok" if model and works else "unavailable",
            "model": model and model.name,
            "queue": "running" if works else "stopped",
            "waiting": len(demo._queue),
        }
        return JSONResponse(state, 200 if state["status"] == "ok" else 503)

    return Route("/health", health)


def is_working(demo: gr.Blocks) -> bool:
    """Whether the queue answers the requests that join it."""
    return isinstance(demo._queue, RequestQueue) and demo._queue.is_working


def start_watchdog(demo: gr.Blocks) -> None:
    """End the process when its queue has stopped while it serves, so that its host restarts it."""
    Thread(target=watch, args=(demo,), daemon=True).start()


def watch(demo: gr.Blocks) -> None:
    """Check until the queue has failed; then end the process, with a line for the log."""
    failed = 0
    while failed < MAX_FAILED_CHECKS:
        time.sleep(CHECK_SECONDS)
        failed = failed + 1 if demo.is_running and not is_working(demo) else 0
    line = {"event": "queue stopped", "waiting": len(demo._queue), "exit": EXIT_CODE}
    print(json.dumps(line), file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)  # threads of requests may hang: they are not waited for
