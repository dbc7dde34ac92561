// What gradio 6.31 leaves out for keyboards and screen readers. Loaded once in the page's head.

const STATUS_PAUSE = 300; // milliseconds without a change before it is spoken

/** The panel of the open tab. */
function openPanel() {
  return [...document.querySelectorAll("#tabs [role=tabpanel]")].find((panel) => panel.offsetParent);
}

/** The tabs of a list that can be seen, in order. */
function visibleTabs(list) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  return tabs.filter((tab) => tab.offsetParent && !tab.closest(".visually-hidden"));
}

// Arrow keys, Home and End move to another tab.
document.addEventListener("keydown", (event) => {
  const tab = event.target.closest?.("[role=tab]");
  if (!tab || event.altKey || event.ctrlKey || event.metaKey) return;
  const tabs = visibleTabs(tab.closest("[role=tablist]"));
  const last = tabs.length - 1, at = tabs.indexOf(tab);
  const targets = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last};
  if (!(event.key in targets)) return;
  event.preventDefault();
  const next = tabs[(targets[event.key] + tabs.length) % tabs.length];
  next.focus();
  next.click();
});

// The skip link moves the focus past the picture and the examples, to the open tab.
document.addEventListener("click", (event) => {
  if (!event.target.closest?.(".skip")) return;
  event.preventDefault();
  document.querySelector("#tabs [role=tab][aria-selected=true]").focus();
});

/** What a panel's answer says, in words. */
function answerText(panel) {
  const objects = [...panel.querySelectorAll(".legend-item")].map((item) => item.textContent.trim());
  return objects.join(", ") || panel.querySelector(".raw.text textarea")?.value || "";
}

/** Speaks the open tab's status and answer once a run has ended; texts that grow are not spoken. */
function speakStatus() {
  const panel = openPanel(), status = panel?.querySelector(".status")?.textContent.trim() ?? "";
  if (status.endsWith("…")) return;
  let spoken = document.getElementById("spoken");
  if (!spoken) {
    const page = document.querySelector(".contain");
    if (!page) return; // gradio has not built it yet
    spoken = Object.assign(document.createElement("div"), {id: "spoken", className: "unseen"});
    spoken.setAttribute("role", "status");
    page.append(spoken);
  }
  const text = status && `${status} ${answerText(panel)}`.trim();
  if (spoken.textContent !== text) spoken.textContent = text;
}

/** Names for images and the buttons around them: what they show, by their label and the answer. */
function describeImages() {
  for (const image of document.querySelectorAll("#image-sources img, #tabs .block img")) {
    const block = image.closest(".block"), label = block?.querySelector("[data-testid=block-label]");
    const name = label?.textContent.trim() || block?.getAttribute("aria-label");
    if (block?.classList.contains("result")) {
      const objects = [...block.querySelectorAll(".legend-item")].map((item) => item.innerText);
      image.alt = image.classList.contains("mask") ? "" : `Result: ${objects.join(", ") || "nothing"}`;
    } else if (name && image.closest(".image-frame")) {
      const detail = block.id === "region-image" ? document.querySelector("#box textarea, #box input")?.value
        : block.id === "attention-map" ? document.querySelector("#tokens input:checked")?.parentElement.innerText
        : "";
      image.alt = detail ? `${name}: ${detail.trim()}` : name;
    }
    const button = image.closest("button:not([aria-label])");
    if (button && button.querySelector(".image-frame")) button.ariaLabel = name || "Image";
  }
}

/** Repairs of single components. */
function repairComponents() {
  for (const outer of document.querySelectorAll("button.icon-button:has(button)")) {
    outer.setAttribute("role", "group"); // a button within a button
    outer.setAttribute("tabindex", "-1");
    outer.ariaLabel = outer.title = "Add more pictures";
  }
  for (const empty of document.querySelectorAll(".empty[aria-label]:not([role])")) {
    empty.setAttribute("role", "img"); // what has no role can have no label
  }
  for (const inner of document.querySelectorAll(".download-link > button")) {
    inner.setAttribute("tabindex", "-1"); // a button within a link
  }
  for (const code of document.querySelectorAll("#source .cm-scroller")) {
    code.setAttribute("tabindex", "0"); // else no key scrolls it
    code.setAttribute("role", "region");
    code.ariaLabel = "Source code";
  }
  for (const dot of document.querySelectorAll("footer > div")) {
    dot.hidden = !dot.previousElementSibling?.offsetParent; // it separates two links
  }
  strengthenCode();
}

const strengthened = new Set(); // classes of the highlighted code, whose names gradio makes up

/** The colours of highlighted code, with contrast enough to be read. */
function strengthenCode() {
  const ink = document.body.classList.contains("dark") ? "white" : "black";
  for (const part of document.querySelectorAll("#source .cm-line span[class]")) {
    if (strengthened.has(part.className)) continue;
    strengthened.add(part.className);
    const selector = part.className.split(" ").map((name) => "." + CSS.escape(name)).join("");
    const color = `color-mix(in srgb, ${getComputedStyle(part).color} 50%, ${ink})`;
    const style = document.createElement("style");
    style.textContent = `#source ${selector} { color: ${color}; }`;
    document.head.append(style);
  }
}

let pause;
new MutationObserver(() => {
  describeImages();
  repairComponents();
  clearTimeout(pause);
  pause = setTimeout(speakStatus, STATUS_PAUSE);
}).observe(document, {childList: true, subtree: true, characterData: true});
