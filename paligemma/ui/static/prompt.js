// Names that are pressed: those that a model knows, and those of the objects that it found, in the
// table or as boxes in the drawing.
// Loaded once in the page's head, after page.js.

/** Writes into a text field as a person would. */
function writeText(field, text) {
  field.value = text;
  field.dispatchEvent(new Event("input", {bubbles: true}));
}

/** The text field of the tab `key`. */
function textField(key) {
  return document.querySelector(`#text-${key} textarea, #text-${key} input`);
}

/** Adds a name to the text of its tab, or takes it out again. */
function toggleName(key, name) {
  const field = textField(key);
  const names = field.value.split(/[;,]/).map((each) => each.trim()).filter(Boolean);
  const others = names.filter((each) => each !== name);
  writeText(field, (others.length < names.length ? others : [...names, name]).join(" ; "));
}

/** Opens the Segment tab and outlines the objects of that name. */
function segmentName(name, retries = 60) {
  const field = textField("segment");
  if (field?.offsetParent) {
    writeText(field, name);
    setTimeout(() => pressRun("segment"), 100); // once the field has its text
  } else if (retries) {
    const tabs = [...document.querySelectorAll("#tabs [role=tab]")];
    if (retries === 60) tabs.find((tab) => tab.textContent.trim() === "Segment").click();
    setTimeout(() => segmentName(name, retries - 1), 50);
  }
}

/** The table's button of the object at the pointer in a drawing: that of the smallest box there. */
function objectAt(event) {
  const drawing = event.target.closest?.(".result"), image = drawing?.querySelector(".base-image");
  if (!image) return null;
  const [x, y] = pointIn(image, event.clientX, event.clientY);
  let found = null, smallest = Infinity;
  for (const button of drawing.closest("[role=tabpanel]").querySelectorAll("button[data-box]")) {
    const [x1, y1, x2, y2] = button.dataset.box.split(" ").map(Number);
    const area = (x2 - x1) * (y2 - y1);
    if (x1 <= x && x <= x2 && y1 <= y && y <= y2 && area < smallest) {
      [found, smallest] = [button, area];
    }
  }
  return found;
}

// What a click in a drawing does is shown before it; keys have the buttons of the table.
addEventListener("pointermove", (event) => {
  const drawing = event.target.closest?.(".result");
  if (!drawing) return;
  const name = objectAt(event)?.dataset.name;
  drawing.style.cursor = name ? "pointer" : "";
  drawing.title = name ? `Segment ${name}` : "";
});

addEventListener("click", (event) => {
  objectAt(event)?.click();
  const button = event.target.closest?.("button[data-name]");
  if (button?.matches(".names .kind")) toggleName(button.closest("details").dataset.tab, button.dataset.name);
  else if (button?.matches(".segment")) segmentName(button.dataset.name);
});
