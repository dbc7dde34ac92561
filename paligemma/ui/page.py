"""The parts of the page that all tabs use, what a tab is, and how its run button works."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import ref

import gradio as gr
from gradio.components import Component

from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply
from paligemma.ui.common import (
    PRIVATE,
    UNQUEUED,
    WAITING,
    Upload,
    in_model_queue,
    open_for_page,
)
from paligemma.ui.inputs import read_text
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.model_run import ModelRun
from paligemma.ui.queue import PRIVATE_LIMITS, Limits

Updates = dict[Any, Any]  # a component, and its new value or a component with new options
DECORATION = zip("☀☂⚓❀♜☎☘", (48, 275, 220, 325, 25, 3, 125), strict=True)  # symbol, hue
SKIP_LINK = '<a class="skip" href="#tabs">Skip to the tabs</a>'
SYMBOLS = "".join(f'<i style="--hue:{hue}">{symbol}\ufe0e</i>' for symbol, hue in DECORATION)


class LastRequest(NamedTuple):
    """A visitor's last request, for the How it works tab."""

    prompt: str
    tokens: list[str]  # the texts of the answer's tokens

    @classmethod
    def of(cls, reply: Reply) -> "LastRequest":
        return cls(reply.prompt or "", [token.text for token in reply.tokens])


@dataclass(frozen=True)
class ShownAnswer:
    """The answer that a tab shows: the path of its image, its reply, and its model."""

    path: str
    reply: Reply
    model: ref[PaliGemma]

    @property
    def prompt(self) -> str:
        return self.reply.prompt or ""

    @property
    def is_cut_off(self) -> bool:
        return self.reply.is_cut_off

    @property
    def upload(self) -> Upload:
        """Its image, decoded now."""
        return Upload(self.path, open_for_page(self.path))


Answer = TypeVar("Answer", bound=ShownAnswer)


class RunControls(NamedTuple):
    """A tab's run and stop button, and its status line."""

    run: gr.Button
    stop: gr.Button
    status: gr.Markdown


class ContinueButton(NamedTuple):
    """A button that continues a tab's answer where that was cut off.

    `answer` is the State of a `ShownAnswer`, None while there is no finished one.
    """

    button: gr.Button
    answer: gr.State

    @property
    def outputs(self) -> list[Component]:
        return [self.button, self.answer]

    def show(self, answer: ShownAnswer) -> Updates:
        """The outputs for a finished answer."""
        return {self.button: gr.Button(visible=answer.is_cut_off), self.answer: answer}

    def reset(self) -> Updates:
        return {self.button: gr.Button(visible=False), self.answer: None}


class AnswerButtons(NamedTuple):
    """What can be done with a tab's answer.

    `resume` continues one that was cut off; `attend` shows its attention maps; `copy` copies its
    text.
    """

    resume: ContinueButton
    attend: gr.Button
    copy: gr.Button

    @property
    def answer(self) -> gr.State:
        """The State of a `ShownAnswer`, None while there is no finished one."""
        return self.resume.answer

    @property
    def buttons(self) -> list[Component]:
        return [self.resume.button, self.attend, self.copy]

    @property
    def outputs(self) -> list[Component]:
        return [*self.buttons, self.answer]

    def wire_copy(self, raw: gr.Textbox) -> None:
        self.copy.click(None, raw, None, js="(text) => copyText(text)", **PRIVATE)

    def show(self, path: str, reply: Reply, model: PaliGemma) -> Updates:
        """The buttons for the last reply about the image at `path`."""
        return self.resume.show(ShownAnswer(path, reply, ref(model))) | {
            self.attend: gr.Button(visible=bool(reply.tokens)),
            self.copy: gr.Button(visible=bool(reply.text.strip())),
        }

    def reset(self) -> Updates:
        hidden = gr.Button(visible=False)
        return self.resume.reset() | {self.attend: hidden, self.copy: hidden}


class Tab(Protocol):
    """A tab of the page. Its components are created by its constructor, its events by `wire`."""

    key: str  # its name in the address and in element ids
    container: gr.Tab

    @property
    def url_params(self) -> dict[str, Component]:
        """The components that the address keeps, by their names there."""
        ...

    @property
    def outputs(self) -> list[Component]:
        """The components that show an answer."""
        ...

    def reset(self) -> Updates:
        """The outputs' values without an answer: for a new image, or another model."""
        ...

    def wire(self, page: "Page") -> None:
        """Connect the events, once all tabs exist."""
        ...


@dataclass
class Page:
    """The shared components, and the buttons and events of all runs: one run at a time.

    `last_request` is the State of a `LastRequest`, None while there is none; `last_prompt` has its
    prompt, once the run has ended, where the browser can read it.
    """

    models: ModelManager
    header: gr.HTML
    image: gr.Image
    last_request: gr.State
    last_prompt: gr.Textbox
    settings: dict[str, Component]
    limits: Limits = PRIVATE_LIMITS
    run_buttons: list[gr.Button] = field(default_factory=list)
    stop_buttons: list[gr.Button] = field(default_factory=list)
    run_events: list = field(default_factory=list)

    @property
    def model(self) -> PaliGemma:
        """The current model, for handlers in its queue: no switch is under way meanwhile.

        Raises ValueError in a handler elsewhere, while another model is being loaded.
        """
        return self.models.loaded

    @property
    def request_outputs(self) -> list[Component]:
        return [self.last_request, self.last_prompt]

    def show_request(self, request: LastRequest | None) -> Updates:
        """The outputs for a visitor's last request."""
        return {self.last_request: request, self.last_prompt: request.prompt if request else ""}

    def start_run(self) -> ModelRun:
        """The use of the model by the request that begins now."""
        return ModelRun(self.limits.max_seconds)

    def run_controls(self, label: str, key: str) -> RunControls:
        """Create a tab's buttons and status line; `key` is the tab's."""
        with gr.Row():
            run = gr.Button(label, variant="primary", scale=3, min_width=120, elem_id=f"run-{key}")
            stop = gr.Button("Stop", variant="stop", scale=1, min_width=80, interactive=False)
        status = gr.Markdown(elem_classes="status", label="Status")
        self.run_buttons.append(run)
        self.stop_buttons.append(stop)
        return RunControls(run, stop, status)

    def continue_button(self, key: str) -> ContinueButton:
        """Create it, below the answer: its coming would move what is under it."""
        button = gr.Button("Continue", size="sm", visible=False, elem_id=f"continue-{key}")
        self.run_buttons.append(button)
        return ContinueButton(button, gr.State())

    def answer_buttons(self, key: str) -> AnswerButtons:
        """Create them, below the answer: their coming would move what is under them."""
        with gr.Row(elem_classes="hints"):
            resume = self.continue_button(key)
            attend = gr.Button(
                "Where did it attend?", size="sm", visible=False, elem_id=f"attend-{key}"
            )
            copy = gr.Button("Copy answer", size="sm", visible=False)
        return AnswerButtons(resume, attend, copy)

    def on_run(
        self,
        key: str,
        controls: RunControls,
        handler: Callable,
        inputs: Mapping[str, Component],
        outputs: list[Component],
        prepare: tuple[Callable, list[Component], list[Component]] | None = None,
        button: gr.Button | None = None,
    ):
        """Call the model when `button`, by default the tab's run button, is pressed.

        Returns the event.

        `handler` gets `inputs` and the settings by name, and the raw value of files. `prepare`:
        handler, inputs and outputs of a step before, outside the queue of the model. All buttons
        must exist by now.
        """
        status = controls.status
        buttons = [*self.run_buttons, *self.stop_buttons]
        settle = {
            "fn": self._settle,
            "inputs": [status, self.last_request],
            "outputs": [self.header, status, self.last_prompt, *buttons],
        }
        event = (button or controls.run).click(self._start, None, [status, *buttons], **UNQUEUED)
        if prepare:
            event = event.then(*prepare, preprocess=False, concurrency_limit=4, **PRIVATE)
            event.failure(**settle, **UNQUEUED)
            self.run_events.append(event)
        event = (event.success if prepare else event.then)(
            **in_model_queue(handler),
            inputs_kwargs={**inputs, **self.settings},
            outputs=outputs,
            preprocess=False,
            show_progress="minimal",
            show_progress_on=status,
            api_visibility="undocumented",
            api_name=f"tab_{key}",
        )
        for ended in event.success, event.failure:  # gradio 6.31: .then skips failed events
            ended(**settle, **UNQUEUED)
        self.run_events.append(event)
        return event

    def on_continue(
        self,
        key: str,
        controls: RunControls,
        resume: ContinueButton,
        handler: Callable,
        inputs: Mapping[str, Component],
        outputs: list[Component],
    ):
        """Call the model when `resume` is pressed, as `on_run`.

        `handler` gets what is to be continued as `cut`, before `inputs`.
        """
        inputs = {"cut": resume.answer, **inputs}
        key = f"{key}_continue"
        return self.on_run(key, controls, handler, inputs, outputs, button=resume.button)

    def hold_runs(self, event: Callable) -> None:
        """Cancel all runs when `event` happens, and disable their buttons until `allow_runs`.

        To be called before the event's other handlers are added: they run in order.
        """
        buttons = self.run_buttons
        js = f"() => disableButtons({len(buttons)})"
        event(None, None, buttons, js=js, cancels=self.run_events, **PRIVATE)

    def allow_runs(self) -> Updates:
        return {button: gr.Button(interactive=True) for button in self.run_buttons}

    def same_model(self, model: ref[PaliGemma], advice: str) -> PaliGemma:
        """The current model; raises ValueError, with `advice`, if it is not `model`."""
        if model() is not self.model:
            raise ValueError(f"Another model was loaded since: {advice}.")
        return self.model

    def answer_to_continue(self, cut: Answer | None, advice: str) -> Answer:
        """The answer to continue; raises ValueError for none, and for another model's."""
        if not (isinstance(cut, ShownAnswer) and cut.is_cut_off):
            raise ValueError(f"There is no answer to continue here: {advice}.")
        self.same_model(cut.model, advice)
        return cut

    def run_on_enter(self, text: gr.Textbox, key: str) -> None:
        """Let Enter press the tab's run button, unless that is disabled."""
        text.submit(None, js=f'() => pressRun("{key}", 0)', **PRIVATE)

    def wire_stop_buttons(self) -> None:
        for button in self.stop_buttons:
            button.click(None, cancels=self.run_events, **PRIVATE)

    def _start(self) -> list:
        return [WAITING, *self._button_states(running=True)]

    def _settle(self, status: str | None, last: LastRequest | None) -> list:
        """After every run: a status that still ends in … is of a run that was stopped."""
        status = read_text(status, "The status").removeprefix(WAITING)
        status = f"Stopped. {status[:-1]}" if status.endswith("…") else status
        header, buttons = header_html(self.models), self._button_states(running=False)
        return [header, status, last.prompt if last else "", *buttons]

    def _button_states(self, running: bool) -> list[gr.Button]:
        run, stop = gr.Button(interactive=not running), gr.Button(interactive=running)
        return [run] * len(self.run_buttons) + [stop] * len(self.stop_buttons)


def header_html(models: ModelManager) -> str:
    """What the app does, and which model is loaded."""
    if (model := models.current) is None:
        return f"{SKIP_LINK}<h1>PaliGemma</h1><p>Another model is being loaded.</p>"
    button = "Use it on photographs" if model.is_built_in else "Change the model"
    return (
        f'{SKIP_LINK}<div class="symbols" aria-hidden="true">{SYMBOLS}</div>'
        f"<h1>PaliGemma</h1><small>{escape(model.facts)}</small>"
        "<p>Choose a picture, then ask about it or find objects in it."
        + f' <button class="open-models">{button}</button>' * models.can_switch
        + f"<br>Loaded: <b>{escape(model.name)}</b>. {escape(model.description)}</p>"
    )
