// Names that are pressed: those that a model knows, and those of the objects that it found.
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

addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-name]");
  if (button?.matches(".name")) toggleName(button.dataset.tab, button.dataset.name);
  else if (button?.matches(".segment")) segmentName(button.dataset.name);
});
