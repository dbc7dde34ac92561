// What the page does without the server: the address bar, clipboard, downloads, keyboard access.
// Loaded once in the page's head; event listeners of the app call these functions by name.

// Until the address has been restored, changes come from the page's own set-up and are not recorded.
window.restored = false;

// All parameters that differ from their defaults; the address has those of the open tab.
const params = new URLSearchParams(location.search);
let firstTab = ""; // the tab of an address that names none

/** Keeps a query parameter in the address bar; a default or empty value removes it. */
function setUrlParam(name, value, defaultValue) {
  if (!window.restored) return [];
  if (value === null || value === undefined || value === "" || value === defaultValue) {
    params.delete(name);
  } else {
    params.set(name, value);
  }
  writeAddress("replaceState");
  return [];
}

/** The same for the name of a model, if it is one of the hub: a path of the server is left out. */
function setModelParam(name, value, defaultValue) {
  return setUrlParam(name, /^\w[\w.-]*\/\w[\w.-]*$/.test(value) ? value : null, defaultValue);
}

/** Writes the address; `write` is the method of `history`. */
function writeAddress(write) {
  const url = new URL(location), tab = params.get("tab") || firstTab;
  const kept = [...params].filter(([name]) => {
    const owner = name.split(".")[0]; // detect and detect.language belong to the tab detect
    return owner === tab || !tabButton(owner);
  });
  url.search = new URLSearchParams(kept);
  if (url.href !== location.href) history[write](history.state, "", url);
}

/** The button of a tab by its key. */
function tabButton(key) {
  return document.getElementById(`tab-${key}-button`);
}

/** A tab was opened: an entry of the browser's history. */
function openTab(key) {
  if (!window.restored || key === (params.get("tab") || firstTab)) return [];
  params.set("tab", key);
  writeAddress("pushState");
  return [];
}

// Back and Forward open the tab of the address that they come to.
addEventListener("popstate", () => {
  const key = new URL(location).searchParams.get("tab") || firstTab;
  params.set("tab", key);
  tabButton(key)?.click();
});

/** Clicks a tab's run button if it is visible and enabled; retries, as tabs render when first shown. */
function pressRun(key, retries = 60) {
  const button = key && document.getElementById("run-" + key);
  if (button?.offsetParent && !button.disabled) button.click();
  else if (key && retries) setTimeout(() => pressRun(key, retries - 1), 50);
  return [];
}

/** Ends the set-up of the page; runs the tab `key` unless it is empty. */
function finishRestore(key) {
  const open = document.querySelector("#tabs [role=tab][aria-selected=true]");
  firstTab = open.id.replace(/^tab-|-button$/g, "");
  window.restored = true;
  return pressRun(key);
}

/** Names an example and its tab in the address; runs the tab `key` unless it is empty. */
function showExample(example, tab, key) {
  setUrlParam("example", example);
  setUrlParam("image", null);
  openTab(tab);
  return pressRun(key);
}

/** Resolves once no run of a tab goes on. */
async function hasEnded(key) {
  const stop = document.getElementById(`run-${key}`).parentElement.querySelector("button.stop");
  for (let wait = 0; wait < 200 && !stop.disabled; wait++) {
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** After a model was loaded: its caption of the picture. */
function captionPicture() {
  tabButton("caption").click();
  scrollToTabs();
  return pressRun("caption");
}

/** Copies text to the clipboard; `navigator.clipboard` does not exist on pages without https. */
function copyText(text) {
  const area = Object.assign(document.createElement("textarea"), {value: text});
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (!focused) return [];
  focused.focus();
  focused.dataset.copied = isCopied ? "✓" : "✗"; // style.css shows it behind the label
  setTimeout(() => delete focused.dataset.copied, 1500);
  return [];
}

/** Puts the uploaded image into the address and copies the address. */
function shareLink(image) {
  setUrlParam("image", image);
  copyText(location.href);
  return ["Copied: " + location.href];
}

/** Downloads a file of the page. */
function saveFile(url, name) {
  Object.assign(document.createElement("a"), {href: url, download: name}).click();
  return [];
}

/** On a narrow screen the tabs are below the examples: scroll to them. */
function scrollToTabs() {
  if (innerWidth < 700) document.getElementById("tabs").scrollIntoView({behavior: "smooth"});
  return [];
}

document.addEventListener("click", (event) => {
  const target = event.target.closest?.("[id^=run-], .open-models");
  if (target?.matches(".open-models")) {
    const panel = document.getElementById("models"), label = panel.querySelector("button");
    if (!label.classList.contains("open")) label.click();
    panel.scrollIntoView({behavior: "smooth"});
  } else if (target && innerWidth < 700) {
    target.scrollIntoView({behavior: "smooth"}); // the answer comes below its button
  }
});

/** A click, Enter or Space on a part of the model diagram asks for its source file. */
function openSourceOnClick(element, trigger) {
  const open = (part) => part && trigger("click", {file: part.dataset.file});
  element.addEventListener("click", (event) => open(event.target.closest("[data-file]")));
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault(); // Space would scroll
    open(event.target.closest("[data-file]"));
  });
}
