"""The demo in a real browser: examples, boxes, masks, stopping and uploads."""

import json
import re
import shutil
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import tiny
from PIL import Image
from scripted import Scripted

from paligemma.detections import Detection
from paligemma.detections import format as write
from paligemma.pipeline import PaliGemma
from paligemma.tasks import TASKS
from paligemma.ui.image_input import load_examples
from paligemma.ui.layout import EXAMPLES, build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.theme import LAUNCH_OPTIONS

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # gradio's use of pandas
]
EVIL = "<img src=x onerror=alert(1)>"
CODES = tuple(range(16))
THINGS = [Detection("cat", (0.1, 0.1, 0.4, 0.5)), Detection(EVIL, (0.5, 0.5, 0.9, 0.9))]
ANSWERS = {  # by prompt; "how many?" takes half a minute unless it is stopped
    "detect cat ; dog": write(THINGS),
    "segment cat": write([Detection("cat", (0.1, 0.1, 0.4, 0.5), CODES)]),
    "answer en how many?": "0123456789" * 50,
    "caption en": "two things",
    "caption en <loc0000><loc0000><loc1023><loc1023>": "all of it " * 50,
    "ocr": "",
}
GALLERY = [
    ("detect", "cat ; dog"),
    ("segment", "cat"),
    ("ask", "how many?"),
    ("caption", ""),
    ("read", ""),
]
PATIENCE = 20_000  # milliseconds
sync_api.expect.set_options(timeout=PATIENCE)
expect = sync_api.expect


@pytest.fixture(scope="module")
def pg():
    scripts = {prompt: re.findall("<[a-z0-9]+>|.", text) for prompt, text in ANSWERS.items()}
    return Scripted(scripts, pause=0.05, pauses={"answer en how many?": 0.25})


@pytest.fixture(scope="module")
def url(pg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    rows = []
    for n, (task, text) in enumerate(GALLERY):
        Image.new("RGB", (200, 150), (40 * n, 120, 90)).save(folder / f"{n}.png")
        rows.append({"image": f"{n}.png", "task": task, "text": text})
    (folder / "prompts.json").write_text(json.dumps(rows))
    demo = build_app(ModelManager(pg), examples=folder)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    yield url
    demo.close()


@pytest.fixture(params=[1440, 390])
def page(request, browser, url):
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.set_default_timeout(PATIENCE)
    wrong, hosts = [], set()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("request", lambda call: hosts.add(urlsplit(call.url).hostname))
    page.goto(url)
    page.wait_for_function("window.restored")
    yield page
    page.close()
    assert not wrong
    assert hosts - {None} == {"127.0.0.1"}, "nothing comes from outside"


def panel(page):
    return page.locator("#tabs").get_by_role("tabpanel").filter(visible=True)


def tab(page, name=None):
    """The tab of that name, or the one that is selected."""
    chosen = {"selected": True} if name is None else {"name": name, "exact": True}
    return page.locator("#tabs").get_by_role("tab", **chosen)


def line(page):
    return panel(page).locator(".prose.status")


def press(page, name):
    panel(page).get_by_role("button", name=name, exact=True).click()


def loaded_area(page, picture):
    """Where a picture is, once it can be clicked: Gradio ignores clicks before it has loaded."""
    picture.scroll_into_view_if_needed()
    page.wait_for_function(
        "image => image.complete && image.naturalWidth", arg=picture.element_handle()
    )
    return picture.bounding_box()


def example(page, name):
    page.locator("#examples").get_by_role("button", name=name).click()
    expect(tab(page)).to_have_text(name.split(":")[0])


def at_rest(page):
    expect(panel(page).locator("button.primary")).to_be_enabled()
    expect(panel(page).get_by_role("button", name="Stop")).to_be_disabled()


def until(true):
    deadline = time.monotonic() + PATIENCE / 1000
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_visit(page, pg):
    example(page, "Detect: cat ; dog")
    expect(line(page)).to_contain_text("Found 2 objects.")
    expect(panel(page).locator("img.mask")).to_have_count(2)
    legend = panel(page).locator(".legend-item")
    assert legend.all_inner_texts() == ["cat", EVIL]
    assert page.locator('img[src="x"]').count() == 0, "a label is text"
    at_rest(page)

    tab(page, "Segment").click()
    names = panel(page).get_by_label("Objects to outline")
    expect(names).to_have_value("cat ; dog")  # as in the other tab
    names.fill("cat")
    press(page, "Segment")
    expect(line(page)).to_contain_text("Found 1 object.")
    expect(panel(page).locator("img.mask")).to_have_count(1)
    assert panel(page).locator("img.mask").evaluate("mask => mask.naturalWidth") == 640

    tab(page, "Ask").click()
    panel(page).get_by_role("textbox").first.fill("how many?")
    panel(page).get_by_role("textbox").first.press("Enter")
    expect(line(page)).to_contain_text("tokens/s")
    press(page, "Stop")
    expect(line(page)).to_contain_text("Stopped.")
    at_rest(page)
    words = panel(page).get_by_label("Raw output")
    shown = words.input_value()
    assert 0 < len(shown) < 128
    time.sleep(0.5)
    assert words.input_value() == shown, "nothing comes after the stop"
    prompt, given, end = pg.log[-1]
    assert (prompt, end) == ("answer en how many?", "closed")
    assert given < 128

    example(page, "Read")
    expect(line(page)).to_contain_text("The model returned no text.")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0, "the page is as wide as the screen"


def test_attention(page):
    tab(page, "Attention").click()
    panel(page).get_by_label("Raw prompt").fill("caption en")
    press(page, "Show attention")
    expect(line(page)).to_contain_text("Done.")
    expect(panel(page)).to_contain_text("36% of this token's attention is on the picture")
    named = panel(page).get_by_role("button", name="Attention map. Click a patch", exact=True)
    expect(named).to_be_visible()
    drawing = panel(page).locator("#attention-map img")
    before = drawing.get_attribute("src")
    panel(page).get_by_label("3 o", exact=True).check()
    expect(drawing).not_to_have_attribute("src", before)
    at_rest(page)


def test_objects_are_highlighted_and_downloaded(page, tmp_path):
    example(page, "Detect: cat ; dog")
    expect(line(page)).to_contain_text("Found 2 objects.")
    rows = panel(page).locator("table.objects tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_have_text(re.compile("cat *20 *15 *80 *75"))
    masks, legend = panel(page).locator(".result .mask"), panel(page).locator(".legend-item")
    expect(masks.nth(1)).to_have_css("opacity", "1")
    legend.first.hover()
    expect(masks.nth(1)).to_have_css("opacity", "0")
    expect(masks.first).to_have_css("opacity", "1")
    with page.expect_download() as coming:
        press(page, "Download")
    coming.value.save_as(tmp_path / "objects.zip")
    with zipfile.ZipFile(tmp_path / "objects.zip") as archive:
        assert set(archive.namelist()) == {"coco.json", "objects.csv", "image.png", "drawing.png"}
        assert len(json.loads(archive.read("coco.json"))["annotations"]) == 2
        assert Image.open(archive.open("drawing.png")).size == (200, 150)


def test_switching_the_model(browser, tmp_path):
    folder = tiny.write(tmp_path / "little")
    demo = build_app(ModelManager(PaliGemma.load()))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.wait_for_function("window.restored")
    expect(page.locator("#header")).to_contain_text("the built-in model")
    expect(line(page)).to_contain_text("Saved example answer")
    example(page, "Detect: plane")
    expect(panel(page).locator("table.objects")).to_contain_text("plane")
    tab(page, "Attention").click()
    panel(page).get_by_label("Raw prompt").fill("detect plane")
    press(page, "Show attention")
    expect(panel(page).get_by_text("Answer, token by token")).to_be_visible()
    at_rest(page)
    page.get_by_role("button", name="Another model").click()
    models = page.locator("#models")
    for source, words in ("nowhere", "There is no checkpoint 'nowhere'"), (str(folder), "Loaded"):
        models.get_by_label("Model", exact=True).fill(source)
        models.get_by_label("Model", exact=True).press("Enter")
        models.get_by_role("button", name="Load").click()
        toast, line_of = page.locator(".toast-body").first, models.locator(".prose.status")
        expect(line_of if words == "Loaded" else toast).to_contain_text(words)
    expect(page.locator("#header")).to_contain_text("little")
    expect(page.locator("#header")).to_contain_text("32 × 32 pixels")
    expect(panel(page).get_by_text("Answer, token by token")).to_be_hidden()
    tab(page, "Detect").click()
    expect(panel(page).get_by_label("Raw output")).to_have_value("")
    expect(panel(page).locator("table.objects tr")).to_have_count(0)
    expect(panel(page).get_by_role("button", name="Copy table")).to_be_disabled()
    page.close()
    demo.close()


def test_uploads(page, tmp_path):
    files = page.locator("input[type=file]").first
    page.get_by_label("Remove Image").click()
    tab(page, "Caption").click()
    press(page, "Caption")
    expect(page.locator(".toast-body").first).to_contain_text("There is no picture yet")
    page.get_by_label("Close").first.click()
    at_rest(page)
    expect(line(page)).to_have_text("")

    (tmp_path / "note.png").write_text("not a picture")
    files.set_input_files(tmp_path / "note.png")
    expect(page.locator(".toast-body").first).to_contain_text("'note.png' is not an image")
    expect(page.locator("#image img")).to_have_count(0)
    page.get_by_label("Close").first.click()

    Image.new("RGB", (30, 20), "teal").save(tmp_path / "page.tif")
    files.set_input_files(tmp_path / "page.tif")
    shown = page.locator("#image img")
    expect(shown).to_have_js_property("naturalWidth", 30)
    press(page, "Caption")
    expect(line(page)).to_contain_text("Done.")
    expect(panel(page).get_by_label("Raw output")).to_have_value("two things")


def test_the_shipped_examples_from_another_folder(browser, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pg = Scripted({})
    demo = build_app(ModelManager(pg))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    page = browser.new_page()
    page.goto(url)
    page.wait_for_function("window.restored")
    for n, shipped in enumerate(load_examples(EXAMPLES)):
        page.locator("#examples button").nth(n).click()
        expect(tab(page)).to_have_text(TASKS[shipped.task].label)
        until(lambda: len(pg.log) == n + 1)  # noqa: B023
        expect(line(page)).to_contain_text("0 tokens")
        at_rest(page)
        name = Path(shipped.image).name
        expect(page.locator("#image img")).to_have_attribute("src", re.compile(f"{name}$"))
        expect(page.locator("#image img")).not_to_have_js_property("naturalWidth", 0)
        if TASKS[shipped.task].needs:
            expect(panel(page).get_by_role("textbox").first).to_have_value(shipped.text)
    page.close()
    demo.close()


def test_leaving_stops_the_model(browser, url, pg):
    page = browser.new_page()
    page.goto(url)
    page.wait_for_function("window.restored")
    example(page, "Ask: how many?")
    expect(line(page)).to_contain_text("tokens/s")
    runs = len(pg.log)
    page.close()
    until(lambda: len(pg.log) > runs)
    assert pg.log[-1][2] == "closed"


def opened(browser, demo, address="", **launch):
    """A page of its own app at that address, and the app."""
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS, **launch)
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}{address}")
    return page


@pytest.fixture(scope="module")
def built_in(browser):
    demo = build_app(ModelManager(PaliGemma.load()))
    page = opened(browser, demo)
    page.wait_for_function("window.restored")
    expect(line(page)).to_contain_text("Saved example answer")
    yield page
    page.close()
    demo.close()


def test_the_first_paint_has_a_result(built_in):
    expect(panel(built_in).locator("img.mask")).to_have_count(2)
    expect(panel(built_in).locator("table.objects tr")).to_have_count(3)


def test_a_dragged_slider_ends_at_its_last_value(built_in):
    built_in.goto(built_in.url.split("?")[0])
    rows = panel(built_in).locator("table.objects tr")
    expect(rows).to_have_count(3)
    least = panel(built_in).get_by_label("range slider for Minimum confidence")
    for values, left in ("1 2 5 10 20 50 80 100", 0), ("80 50 20 10 5 2 1", 3):
        least.evaluate(
            """async (slider, values) => {
              for (const value of values.split(" ")) {
                slider.value = value / 100;
                slider.dispatchEvent(new Event("input", {bubbles: true}));
                await new Promise((done) => setTimeout(done, 8));
              }
            }""",
            values,
        )
        expect(rows).to_have_count(left)


def test_an_address_is_restored_and_run(browser, url, pg):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}?tab=segment&segment=cat&example=1&max_new_tokens=77&model=owner/model")
    expect(tab(page)).to_have_text("Segment")
    expect(line(page)).to_contain_text("Found 1 object.")
    expect(page.locator("#image img")).to_have_attribute("src", re.compile("1.png$"))
    expect(panel(page).get_by_role("textbox").first).to_have_value("cat")
    expect(panel(page).locator(".cutouts img")).to_have_count(1)
    assert pg.log[-1][0] == "segment cat"
    page.get_by_role("button", name="Settings").first.click()
    expect(page.get_by_label("number input for Max new tokens")).to_have_value("77")
    tab(page, "Ask").click()
    panel(page).get_by_role("textbox").first.fill("who?")
    page.wait_for_function("location.search.includes('tab=ask')")
    page.wait_for_function("location.search.includes('ask=who')")
    assert "max_new_tokens=77" in page.url and "example=1" in page.url
    page.close()


def test_attention_and_region_are_restored_from_an_address(built_in):
    start = built_in.url.split("?")[0]
    built_in.goto(f"{start}?tab=attention&attention=detect+wheel&attention.view=rollout")
    expect(line(built_in)).to_contain_text("Done.")
    expect(panel(built_in).get_by_label("Rollout", exact=True)).to_be_checked()
    tab(built_in, "Region").click()
    panel(built_in).get_by_label("Box: left, top").fill("10, 10, 45, 55")
    built_in.wait_for_function("location.search.includes('region=10')")
    built_in.reload()
    expect(panel(built_in).get_by_label("Raw output")).to_have_value("a red anchor")
    expect(panel(built_in).get_by_label("Box: left, top")).to_have_value("10, 10, 45, 55")
    built_in.goto(f"{start}?tab=ask")
    expect(tab(built_in)).to_have_text("Ask")
    built_in.wait_for_function("window.restored")
    expect(built_in.locator(".toast-body")).to_have_count(0)


def test_a_shared_link_shows_the_uploaded_image(browser, url, pg, tmp_path):
    Image.new("RGB", (37, 20), "teal").save(tmp_path / "own.png")
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.wait_for_function("window.restored")
    page.get_by_label("Remove Image").click()
    page.locator("#image input[type=file]").set_input_files(tmp_path / "own.png")
    expect(page.locator("#image img")).to_have_js_property("naturalWidth", 37)
    tab(page, "Segment").click()
    panel(page).get_by_role("textbox").first.fill("cat")
    page.get_by_role("button", name="Share").click()
    page.get_by_role("button", name="Copy a link").click()
    page.wait_for_function("location.search.includes('image=')")
    link = page.url
    page.close()
    other = browser.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(link)
    expect(other.locator("#image img")).to_have_js_property("naturalWidth", 37)
    expect(line(other)).to_contain_text("Found 1 object.")
    other.close()


def test_a_region(built_in):
    tab(built_in, "Region").click()
    picture = built_in.locator("#region-image img")
    for x, y in (0.1, 0.1), (0.45, 0.55):  # around the anchor
        area = loaded_area(built_in, picture)
        before = picture.get_attribute("src")
        built_in.mouse.click(area["x"] + x * area["width"], area["y"] + y * area["height"])
        expect(picture).not_to_have_attribute("src", before)
    press(built_in, "Run")
    expect(panel(built_in).get_by_label("Raw output")).to_have_value("a red anchor")
    written = panel(built_in).get_by_label("Box: left, top")
    expect(written).to_have_value(re.compile(r"\d+\.\d, \d+\.\d, 4\d\.\d, 5\d\.\d"))
    before = picture.get_attribute("src")
    written.fill("")
    written.press_sequentially("55, 50, 95, 90")  # around the wheel
    expect(picture).not_to_have_attribute("src", before)
    written.press("Enter")
    expect(panel(built_in).get_by_label("Raw output")).to_have_value("a brown wheel")
    before = picture.get_attribute("src")
    written.fill("10, 10, 45, 55")
    expect(picture).not_to_have_attribute("src", before)
    expect(panel(built_in).get_by_label("Raw output")).to_have_value("")
    area = loaded_area(built_in, picture)
    built_in.mouse.move(area["x"] + 0.54 * area["width"], area["y"] + 0.5 * area["height"])
    built_in.mouse.down()
    for share in (0.7, 0.95):
        left, top = area["x"] + share * area["width"], area["y"] + share * area["height"]
        built_in.mouse.move(left, top)
    expect(built_in.locator(".drag-box")).to_be_visible()
    built_in.mouse.up()
    expect(built_in.locator(".drag-box")).to_have_count(0)
    expect(written).to_have_value(re.compile(r"5[34]\.\d, (49|50)\.\d, 9[45]\.\d, 9[45]\.\d"))
    press(built_in, "Run")
    expect(panel(built_in).get_by_label("Raw output")).to_have_value("a brown wheel")
    panel(built_in).get_by_label("Find the question to an answer").check()
    expect(panel(built_in)).to_contain_text("was not trained for this")
    expect(panel(built_in).get_by_label("Raw output")).to_have_value("")


def test_names_are_pressed(built_in):
    built_in.goto(f"{built_in.url.split('?')[0]}?tab=detect&example=harbour")
    built_in.wait_for_function("window.restored")
    panel(built_in).get_by_text("Names it knows (191)").click()
    for name in ("wheel", "anchor", "wheel"):
        panel(built_in).get_by_role("button", name=name, exact=True).first.click()
    expect(panel(built_in).get_by_label("Objects to find")).to_have_value("anchor")
    press(built_in, "Detect")
    expect(line(built_in)).to_contain_text("Found 1 object.")
    panel(built_in).get_by_role("button", name="Where did it attend?").click()
    expect(tab(built_in)).to_have_text("Attention")
    expect(line(built_in)).to_contain_text("Done.")
    expect(panel(built_in).get_by_label("Raw prompt")).to_have_value("detect anchor")
    at_rest(built_in)
    built_in.route("**/gradio_api/**", lambda _: None)  # the browser writes it, at once
    tab(built_in, "Compare").click()
    prompt = panel(built_in).get_by_label("Raw prompt")
    expect(prompt).to_have_value("detect anchor")
    prompt.fill("ocr")
    tab(built_in, "Batch").click()
    tab(built_in, "Compare").click()
    expect(prompt).to_have_value("ocr")
    built_in.unroute("**/gradio_api/**")
    tab(built_in, "Detect").click()
    panel(built_in).locator("table.objects button").click()
    expect(tab(built_in)).to_have_text("Segment")
    expect(line(built_in)).to_contain_text("Found 1 object.")
    expect(panel(built_in).locator(".cutouts img")).to_have_count(1)


def test_an_object_is_clicked_in_the_drawing(built_in):
    built_in.goto(built_in.url.split("?")[0])
    expect(line(built_in)).to_contain_text("Saved example answer")
    detect, middle = panel(built_in), {}
    drawing, picture = detect.locator(".result"), detect.locator(".image-container")
    for button in detect.locator("table.objects button").all():
        x1, y1, x2, y2 = map(float, button.get_attribute("data-box").split())
        middle[button.inner_text()] = (x1 + x2) / 2, (y1 + y2) / 2
    size = picture.bounding_box()
    side = min(size["width"], size["height"])  # of the square example

    def point(x, y):
        return {
            "x": size["width"] / 2 + (x - 0.5) * side,
            "y": size["height"] / 2 + (y - 0.5) * side,
        }

    picture.hover(position=point(*middle["wheel"]))
    expect(drawing).to_have_attribute("title", "Segment wheel")
    picture.click(position=point(0.02, 0.97))
    expect(drawing).to_have_attribute("title", "")
    expect(tab(built_in)).to_have_text("Detect")
    picture.click(position=point(*middle["anchor"]))
    expect(tab(built_in)).to_have_text("Segment")
    expect(panel(built_in).get_by_label("Objects to outline")).to_have_value("anchor")
    expect(line(built_in)).to_contain_text("Found 1 object.")


@pytest.fixture
def three_tokens(built_in):
    """The caption of the harbor, cut off at three tokens; afterwards the page is as before."""
    start = built_in.url.split("?")[0]
    built_in.goto(f"{start}?tab=caption&example=harbour&max_new_tokens=3")
    expect(line(built_in)).to_contain_text("Not complete.")
    yield
    built_in.goto(start)
    built_in.wait_for_function("window.restored")


@pytest.mark.usefixtures("three_tokens")
def test_a_cut_answer_is_continued_on_the_page(built_in):
    whole = "a red anchor and a brown wheel on a teal background"
    output = panel(built_in).get_by_label("Raw output")
    while (cut := output.input_value()) != whole:
        assert whole.startswith(cut)
        press(built_in, "Continue")
        expect(output).not_to_have_value(cut)
        at_rest(built_in)
    expect(line(built_in)).to_contain_text("Done.")
    for name, button in ("Attention", "Show attention"), ("Compare", "Compare"):
        tab(built_in, name).click()
        expect(panel(built_in).get_by_label("Raw prompt")).to_have_value("caption en")
        press(built_in, button)
        expect(panel(built_in).get_by_role("button", name="Continue")).to_be_enabled()
        expect(panel(built_in)).to_contain_text("cut off at 3 tokens")
        press(built_in, "Continue")
        expect(panel(built_in)).to_contain_text("cut off at 6 tokens")
        at_rest(built_in)


def test_a_comparison(built_in):
    tab(built_in, "Compare").click()
    panel(built_in).get_by_label("Raw prompt").fill("detect anchor")
    press(built_in, "Compare")
    expect(line(built_in)).to_have_text(re.compile("Same answer|Different answers"))
    expect(panel(built_in).locator("table.comparison tr").first.locator("td")).to_have_count(2)
    expect(built_in.locator("#comparison img")).to_have_count(2)


def test_a_batch(built_in, tmp_path):
    tab(built_in, "Batch").click()
    (tmp_path / "broken.png").write_text("no picture")
    files = [EXAMPLES / "castle.png", EXAMPLES / "tea.png", tmp_path / "broken.png"]
    built_in.locator("#files input[type=file]").set_input_files(files)
    expect(built_in.locator("#files")).to_contain_text("broken")
    panel(built_in).get_by_label("Raw prompt for each picture").fill("ocr")
    press(built_in, "Run on all images")
    expect(line(built_in)).to_have_text("Done: 2 answered, 1 not readable.")
    rows = panel(built_in).locator("table.batch tr")
    expect(rows.nth(0)).to_contain_text("KING")
    expect(rows.nth(2)).to_contain_text("is not an image")
    with built_in.expect_download() as coming:
        built_in.locator("#download-batch").click()
    coming.value.save_as(tmp_path / "answers.zip")
    with zipfile.ZipFile(tmp_path / "answers.zip") as archive:
        assert len(archive.read("answers.jsonl").splitlines()) == 3


def test_how_it_works(built_in):
    tab(built_in, "How it works").click()
    expect(panel(built_in).locator("svg.anatomy")).to_contain_text("12 × 12 patches of 16 pixels")
    expect(panel(built_in).locator("#sequence")).to_contain_text("144 in all")
    panel(built_in).locator("[data-file='models/gemma.py']").click()
    expect(built_in.locator("#source")).to_contain_text("paligemma/models/gemma.py")


def test_every_view_of_attention(built_in, tmp_path):
    built_in.goto(built_in.url.split("?")[0])
    built_in.wait_for_function("window.restored")
    expect(line(built_in)).to_contain_text("Saved example answer")
    tab(built_in, "Attention").click()
    panel(built_in).get_by_label("Raw prompt").fill("detect wheel")
    press(built_in, "Show attention")
    expect(line(built_in)).to_contain_text("Done.")
    drawing = panel(built_in).locator("#attention-map img")

    def changes(act):
        before = drawing.get_attribute("src")
        act()
        expect(drawing).not_to_have_attribute("src", before)

    changes(panel(built_in).get_by_label("5 wheel", exact=True).check)
    for view in "All layers", "Rollout", "Relative to an empty prompt", "Attention × gradient":
        changes(panel(built_in).get_by_label(view, exact=True).check)
    layer = panel(built_in).get_by_label("number input for Layer (0 = all)")
    changes(lambda: (layer.fill("3"), layer.press("Enter")))
    expect(panel(built_in)).to_contain_text("layer 3 alone")

    panel(built_in).get_by_role("button", name="All layers and heads").click()
    heads = panel(built_in).locator("#heads img")
    heads.scroll_into_view_if_needed()
    changes(lambda: heads.click())
    expect(panel(built_in)).to_contain_text(re.compile(r"Layer \d, head \d alone"))

    panel(built_in).get_by_role("button", name="Attention of the clicked patch").click()
    drawing.scroll_into_view_if_needed()
    drawing.click()
    expect(panel(built_in).locator("#patch li")).to_have_count(5)
    expect(panel(built_in).locator("#tower img")).to_be_visible()

    word = panel(built_in).get_by_label("Or compare the patches with a word")
    changes(lambda: (word.fill("anchor"), word.press("Enter")))
    expect(panel(built_in)).to_contain_text("each patch and “anchor”")

    panel(built_in).get_by_role("button", name="The whole answer").click()
    panel(built_in).get_by_role("button", name="Draw").click()
    for part in "#animation", "#token-strip", "#token-matrix":
        expect(panel(built_in).locator(f"{part} img")).to_be_visible()
    animation = panel(built_in).locator("#animation img").get_attribute("src")
    assert animation.endswith(".gif")
    with built_in.expect_download() as coming:
        panel(built_in).locator("#animation").get_by_label("Download").click()
    assert Image.open(coming.value.path()).n_frames == 5


def draw_a_line(page, height=0.5):
    box = page.locator("#canvas canvas").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * height)
    page.mouse.down()
    for step in range(10):
        left = box["x"] + box["width"] * (0.4 + 0.02 * step)
        page.mouse.move(left, box["y"] + box["height"] * height)
    page.mouse.up()


def test_what_is_on_the_canvas_is_what_is_asked_about(built_in):
    tab(built_in, "Ask").click()
    built_in.get_by_role("tab", name="Draw", exact=True).click()
    expect(built_in.locator("#canvas canvas").first).to_be_visible()
    draw_a_line(built_in)
    expect(built_in.get_by_text("knows drawn scenes only, such as")).to_be_visible()
    built_in.get_by_role("button", name="what color is the background?").click()
    expect(panel(built_in).get_by_label("Raw output")).to_have_value("white")
    draw_a_line(built_in, 0.7)
    expect(panel(built_in).get_by_label("Raw output")).to_have_value("")
    built_in.get_by_role("tab", name="Picture", exact=True).click()
    expect(built_in.locator("#image img")).to_have_js_property("naturalWidth", 512)
    built_in.reload()
    expect(built_in.locator("#image img")).to_have_js_property("naturalWidth", 512)
    built_in.get_by_role("tab", name="Draw", exact=True).click()
    draw_a_line(built_in)
    expect(built_in.locator("#image img")).not_to_have_count(0)
    built_in.locator("#canvas").get_by_role("button", name="Clear canvas").click()
    press(built_in, "Ask")
    expect(built_in.locator(".toast-body").first).to_contain_text("There is no picture yet")
    built_in.get_by_label("Close").first.click()


def test_a_run_right_after_an_upload_is_answered(page, tmp_path):
    tab(page, "Caption").click()
    for n in range(3):
        path = tmp_path / f"{n}.png"
        Image.effect_noise((1500, 1500 + n), 90).save(path)
        page.get_by_label("Remove Image").click()
        page.locator("#image input[type=file]").set_input_files(path)
        expect(page.locator("#image img")).to_be_visible()
        press(page, "Caption")
        expect(line(page)).to_contain_text("Done.")
        at_rest(page)
        page.wait_for_timeout(300)
        expect(panel(page).get_by_label("Raw output")).to_have_value("two things")


def test_an_own_picture_survives_a_reload(browser, url, tmp_path):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.wait_for_function("window.restored")
    Image.new("RGB", (37, 20), "teal").save(tmp_path / "own.png")
    page.get_by_label("Remove Image").click()
    page.locator("#image input[type=file]").set_input_files(tmp_path / "own.png")
    shown = page.locator("#image img")
    expect(shown).to_have_js_property("naturalWidth", 37)
    page.wait_for_function("rememberedImage()")
    page.reload()
    expect(shown).to_have_js_property("naturalWidth", 37)
    page.evaluate("rememberImage('0f/gone.png')")
    page.goto(f"{url}?tab=caption")
    expect(page.get_by_text("The picture that was here is gone")).to_be_visible()
    expect(shown).to_have_count(0)
    expect(line(page)).to_have_text("")
    page.locator("#examples button").first.click()
    expect(page.get_by_text("The picture that was here is gone")).to_have_count(0)
    page.goto(url)
    expect(shown).to_have_attribute("src", re.compile("0.png$"))
    page.close()


PUT = """async ([address, event, where]) => {
    const blob = await (await fetch(address)).blob(), data = new DataTransfer();
    data.items.add(new File([blob], 'own.png', {type: 'image/png'}));
    const options = {bubbles: true, cancelable: true, clipboardData: data, dataTransfer: data};
    const kind = event === 'paste' ? ClipboardEvent : DragEvent, made = new kind(event, options);
    document.querySelector(where).dispatchEvent(made);
}"""


def test_a_picture_is_pasted_or_dropped_anywhere(page):
    for event, where, example in (
        ("paste", "body", 1),
        ("drop", "#header", 2),
        ("paste", "#tabs textarea", 3),
    ):
        address = page.locator("#examples img").nth(example).get_attribute("src")
        before = page.locator("#image img").get_attribute("src")
        page.evaluate(PUT, [address, event, where])
        expect(page.locator("#image img")).not_to_have_attribute("src", before)
        expect(page.locator("#image img")).to_have_attribute("src", re.compile("own.png$"))
        expect(page.locator("#tabs button.primary:visible").first).to_be_enabled()  # it is taken
    tab(page, "Caption").click()
    press(page, "Caption")
    expect(line(page)).to_contain_text("Done.")


def test_of_pictures_pasted_one_after_another_the_last_stays(page):
    def paste(address):
        page.evaluate(PUT, [address, "paste", "body"])

    shown, addresses = page.locator("#image img"), {}
    for card in page.locator("#examples img").all()[1:3]:
        before, address = shown.get_attribute("src"), card.get_attribute("src")
        paste(address)
        expect(shown).not_to_have_attribute("src", before)
        page.wait_for_function("!isTaking()")
        digest = shown.get_attribute("src").split("/")[-2]  # of the file, in the path of its copy
        addresses[digest] = address
    first, last = addresses
    for pause in 0, 100, 300:  # milliseconds
        for digest in first, last, first, last:
            paste(addresses[digest])
            page.wait_for_timeout(pause)
        expect(shown).to_have_attribute("src", re.compile(last))
        page.wait_for_timeout(1000)  # for late answers
        page.wait_for_function("!isTaking()")
        expect(shown).to_have_attribute("src", re.compile(last))
        first, last = last, first


def test_reloading_shows_the_same_page(built_in):
    built_in.goto(built_in.url.split("?")[0])
    expect(line(built_in)).to_contain_text("Saved example answer")
    built_in.wait_for_timeout(1000)  # for what the address then remembers, if anything
    built_in.reload()
    expect(line(built_in)).to_contain_text("Saved example answer")
    expect(panel(built_in).locator(".result .mask")).to_have_count(2)


def test_text_is_pasted_into_a_field_though_a_picture_of_it_comes_with_it(page):
    tab(page, "Detect").click()
    before = page.locator("#image img").get_attribute("src")
    taken = page.evaluate("""() => {
        const data = new DataTransfer();
        data.setData('text/plain', 'cat');
        data.items.add(new File(['x'], 'cells.png', {type: 'image/png'}));
        const options = {bubbles: true, cancelable: true, clipboardData: data};
        const event = new ClipboardEvent('paste', options);
        document.querySelector('#text-detect textarea').dispatchEvent(event);
        return event.defaultPrevented;
    }""")
    assert not taken
    expect(page.locator("#image img")).to_have_attribute("src", before)


def test_copying_says_so_and_keeps_the_focus(page):
    tab(page, "Caption").click()
    press(page, "Caption")
    copy = panel(page).get_by_role("button", name="Copy answer")
    copy.click()
    expect(copy).to_have_attribute("data-copied", re.compile("✓|✗"))
    assert copy.evaluate("button => button === document.activeElement")
    expect(copy).not_to_have_attribute("data-copied", re.compile("."))


def test_another_box_stops_the_run(page, pg):
    tab(page, "Region").click()
    box = panel(page).get_by_label("Box: left, top")
    box.fill("0, 0, 100, 100")
    press(page, "Run")
    expect(panel(page).get_by_label("Raw output")).to_have_value(re.compile("all of it"))
    box.press_sequentially(" ")
    at_rest(page)
    until(lambda: pg.log and pg.log[-1][2] == "closed")
    expect(panel(page).get_by_label("Raw output")).to_have_value("")


def test_an_example_stops_a_run(page, pg):
    tab(page, "Ask").click()
    panel(page).get_by_role("textbox").first.fill("how many?")
    press(page, "Ask")
    expect(panel(page).get_by_label("Raw output")).not_to_have_value("")
    example(page, "Detect: cat ; dog")
    expect(line(page)).to_contain_text("Found 2 objects.")
    tab(page, "Ask").click()
    expect(panel(page).get_by_label("Raw output")).to_have_value("")
    assert pg.log[-2][0] == "answer en how many?" and pg.log[-2][2] == "closed"


def test_one_run_at_a_time(page):
    tab(page, "Attention").click()
    panel(page).get_by_label("Raw prompt").fill("caption en")
    tab(page, "Ask").click()
    panel(page).get_by_role("textbox").first.fill("how many?")
    panel(page).get_by_role("textbox").first.press("Enter")
    expect(panel(page).get_by_label("Raw output")).not_to_have_value("")
    tab(page, "Attention").click()
    panel(page).get_by_label("Raw prompt").press("Enter")
    tab(page, "Ask").click()
    press(page, "Stop")
    expect(line(page)).to_contain_text("Stopped.")
    tab(page, "Attention").click()
    expect(line(page)).to_have_text("")


def test_a_new_image_resets_the_tabs(built_in, tmp_path):
    built_in.goto(f"{built_in.url.split('?')[0]}?tab=attention&attention=detect+wheel")
    expect(line(built_in)).to_contain_text("Done.")
    example(built_in, "Detect: plane")
    expect(panel(built_in).locator("table.objects")).to_contain_text("plane")
    tab(built_in, "Attention").click()
    expect(panel(built_in).locator("#attention-map img")).to_have_count(0)
    tab(built_in, "Detect").click()
    Image.new("RGB", (37, 20), "teal").save(tmp_path / "own.png")
    built_in.get_by_label("Remove Image").click()
    expect(panel(built_in).locator("table.objects")).to_have_count(0)
    built_in.locator("#image input[type=file]").set_input_files(tmp_path / "own.png")
    expect(built_in.locator("#image img")).to_have_js_property("naturalWidth", 37)
    expect(panel(built_in).get_by_role("button", name="Download")).to_be_disabled()
    built_in.get_by_role("button", name="Share").click()
    built_in.get_by_role("button", name="Copy a link").click()
    built_in.wait_for_function("location.search.includes('image=')")
    built_in.locator("#examples button").nth(2).click()
    built_in.wait_for_function("location.search.includes('example=')")
    assert "image=" not in built_in.url


def test_two_visitors_at_once(browser, url, tmp_path):
    pages = []
    for n, width in enumerate((31, 47)):
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.wait_for_function("window.restored")
        Image.new("RGB", (width, 20), "teal").save(tmp_path / f"{n}.png")
        page.get_by_label("Remove Image").click()
        page.locator("#image input[type=file]").set_input_files(tmp_path / f"{n}.png")
        expect(page.locator("#image img")).to_have_js_property("naturalWidth", width)
        pages.append(page)
    for page, key, text in zip(pages, ("Detect", "Segment"), ("cat ; dog", "cat"), strict=True):
        tab(page, key).click()
        panel(page).get_by_role("textbox").first.fill(text)
        press(page, key)
    for page, found in zip(pages, ("Found 2 objects.", "Found 1 object."), strict=True):
        expect(line(page)).to_contain_text(found)
    shown = [panel(page).locator(".result img").first for page in pages]
    for image in shown:
        expect(image).not_to_have_js_property("naturalWidth", 0)
    ratios = [image.evaluate("i => i.naturalWidth / i.naturalHeight") for image in shown]
    assert ratios == pytest.approx([31 / 20, 47 / 20], abs=0.01)
    for page in pages:
        page.close()


def test_the_queue_position_is_shown(browser, url, pg):
    pages = [browser.new_page() for _ in range(2)]
    for page in pages:
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.wait_for_function("window.restored")
    example(pages[0], "Ask: how many?")
    expect(line(pages[0])).to_contain_text("tokens/s")
    example(pages[1], "Caption")
    place = panel(pages[1]).locator(".status .progress-text")
    expect(place).to_contain_text("queue: 1/1")
    expect(place).to_be_visible()
    press(pages[0], "Stop")
    expect(line(pages[1])).to_contain_text("Done.")
    for page in pages:
        page.close()
