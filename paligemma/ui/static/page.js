// What the page does without the server: the address bar, clipboard, downloads, keyboard access.
// Loaded once in the page's head; event listeners of the app call these functions by name.

// Until the address has been restored, changes come from the page's own set-up and are not recorded.
window.restored = false;

/** Writes a query parameter into the address bar; a default or empty value removes it. */
function setUrlParam(name, value, defaultValue) {
  if (!window.restored) return [];
  const url = new URL(location);
  if (value === null || value === undefined || value === "" || value === defaultValue) {
    url.searchParams.delete(name);
  } else {
    url.searchParams.set(name, value);
  }
  history.replaceState(history.state, "", url);
  return [];
}

/** Clicks a tab's run button if it is visible and enabled; retries, as tabs render when first shown. */
function pressRun(key, retries = 60) {
  const button = key && document.getElementById("run-" + key);
  if (button?.offsetParent && !button.disabled) button.click();
  else if (key && retries) setTimeout(() => pressRun(key, retries - 1), 50);
  return [];
}

/** Ends the set-up of the page; runs the tab `key` unless it is empty. */
function finishRestore(key) {
  window.restored = true;
  return pressRun(key);
}

/** Names an example and its tab in the address; runs the tab `key` unless it is empty. */
function showExample(example, tab, key) {
  setUrlParam("example", example);
  setUrlParam("image", null);
  setUrlParam("tab", tab);
  return pressRun(key);
}

/** Copies text to the clipboard; `navigator.clipboard` does not exist on pages without https. */
function copyText(text) {
  const area = Object.assign(document.createElement("textarea"), {value: text});
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  return [];
}

/** Puts the uploaded image into the address and copies the address. */
function shareLink(image) {
  setUrlParam("image", image);
  copyText(location.href);
  return ["Copied: " + location.href];
}

/** Downloads a zip file that arrives in base64. */
function saveZip(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], {type: "application/zip"}));
  link.download = "objects.zip";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return [];
}

/** On a narrow screen the tabs are below the examples: scroll to them. */
function scrollToTabs() {
  if (innerWidth < 700) document.getElementById("tabs").scrollIntoView({behavior: "smooth"});
  return [];
}

/** A click or Enter on a part of the model diagram asks for its source file. */
function openSourceOnClick(element, trigger) {
  const open = (part) => part && trigger("click", {file: part.dataset.file});
  element.addEventListener("click", (event) => open(event.target.closest("[data-file]")));
  element.addEventListener("keydown", (event) => {
    if (event.key === "Enter") open(event.target.closest("[data-file]"));
  });
}

// Gradio 6.31 labels images for the eye only: give the buttons around them names for screen readers.
new MutationObserver(() => {
  for (const frame of document.querySelectorAll("button > .image-frame")) {
    const label = frame.closest(".block").querySelector("[data-testid=block-label]");
    frame.parentElement.ariaLabel ||= label?.textContent.trim() || "Image";
  }
}).observe(document, {childList: true, subtree: true});
