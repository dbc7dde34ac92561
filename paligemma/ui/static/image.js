// How a picture gets into the page: pasted or dropped anywhere, remembered over a reload.
// Loaded once in the page's head, after page.js.

const MAX_TAKE_MS = 15000; // that the server takes for a picture, at most
let sentPictureAt = -Infinity;
let newest = 0; // the number of the picture that was pasted or dropped last

const shownImage = () => document.querySelector("#image img")?.src;
const isTaking = () => performance.now() < sentPictureAt + MAX_TAKE_MS;

/** Puts a file into the picture's field, in place of the picture `former` that is there, once the
 * server has taken what was sent before: its answer shows that one. A later file overtakes it. */
function putImage(file, number = ++newest, former = shownImage(), retries = 300) {
  const field = document.getElementById("image"), input = field?.querySelector("input[type=file]");
  if (number !== newest) return;
  if (isTaking()) {
    setTimeout(() => putImage(file, number, former, retries), 50);
  } else if (input) {
    const files = new DataTransfer();
    files.items.add(file);
    input.files = files.files;
    input.dispatchEvent(new Event("change", {bubbles: true}));
    if (former) confirmImage(file, number, former);
  } else if (retries) {
    if (!field) document.querySelector("#image-sources [role=tab]").click();
    field?.querySelector("button[aria-label='Remove Image']")?.click();
    setTimeout(() => putImage(file, number, former, retries - 1), 50);
  }
}

/** A late answer about the former picture shows that one again, and ends the upload. */
function confirmImage(file, number, former, checks = 100) {
  const shown = shownImage();
  if (shown === former) putImage(file, number, null);
  else if (!shown && checks) setTimeout(() => confirmImage(file, number, former, checks - 1), 50);
}

function imageFile(transfer) {
  return [...(transfer?.files ?? [])].map(withType).find((file) => file.type.startsWith("image/"));
}

/** Browsers that do not know HEIC give its files no type, and gradio refuses those. */
function withType(file) {
  const isHeic = !file.type && /\.hei[cf]$/i.test(file.name);
  return isHeic ? new File([file], file.name, {type: "image/heic"}) : file;
}

addEventListener("change", (event) => {
  const input = event.target;
  if (!input.matches?.("#image input[type=file]")) return;
  const files = new DataTransfer();
  for (const file of input.files) files.items.add(withType(file));
  input.files = files.files;
}, true);

addEventListener("paste", (event) => {
  const file = imageFile(event.clipboardData);
  // cells of a table come as text and as a picture of it: into a field goes the text
  const isText = event.target.matches?.("input, textarea") && event.clipboardData.types.includes("text/plain");
  if (!file || isText) return;
  event.preventDefault();
  event.stopImmediatePropagation(); // gradio's picture takes it only while it is empty
  putImage(file);
}, true);

/** Whether `target` belongs to a field that takes files itself: the picture's, while it is empty. */
function takesFiles(target) {
  const field = target.closest?.("#files, #image");
  return Boolean(field?.querySelector("input[type=file]"));
}

addEventListener("dragover", (event) => {
  if (event.dataTransfer.types.includes("Files") && !takesFiles(event.target)) event.preventDefault();
});

addEventListener("drop", (event) => {
  if (takesFiles(event.target) || !event.dataTransfer.types.includes("Files")) return;
  event.preventDefault(); // the browser would leave the page for the file
  const file = imageFile(event.dataTransfer);
  if (file) putImage(file);
});

/** The server has answered about a new picture. */
function endTaking() {
  sentPictureAt = -Infinity;
  return [];
}

/** The name of the visitor's own picture, so that a reload of this browser tab shows it again. */
function rememberImage(name) {
  endWait(name ?? "");
  sessionStorage.setItem("image", name ?? "");
  return [];
}

function rememberedImage() {
  return sessionStorage.getItem("image") ?? "";
}

/** Updates that disable `count` buttons until the server has taken a new picture. */
function disableButtons(count) {
  sentPictureAt = performance.now();
  return Array(count).fill({__type__: "update", interactive: false});
}

/** A point of the window as shares of an image's width and height; the image fits its element. */
function pointIn(image, x, y) {
  const area = image.getBoundingClientRect();
  const scale = Math.min(area.width / image.naturalWidth, area.height / image.naturalHeight);
  return [
    (x - area.left - area.width / 2) / (image.naturalWidth * scale) + 0.5,
    (y - area.top - area.height / 2) / (image.naturalHeight * scale) + 0.5,
  ];
}

// A box is dragged over the picture of the Region tab: it is written into its field.
const DRAG_PIXELS = 8; // less is a click
let drag = null;

addEventListener("pointerdown", (event) => {
  const image = event.target.closest?.("#region-image .image-frame")?.querySelector("img");
  if (!image || event.button || event.pointerType === "touch") return; // a finger scrolls
  const frame = Object.assign(document.createElement("div"), {className: "drag-box"});
  drag = {image, frame, x: event.clientX, y: event.clientY};
});

addEventListener("pointermove", (event) => {
  if (!drag || Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < DRAG_PIXELS) return;
  document.body.append(drag.frame);
  Object.assign(drag.frame.style, {
    left: `${Math.min(event.clientX, drag.x)}px`,
    top: `${Math.min(event.clientY, drag.y)}px`,
    width: `${Math.abs(event.clientX - drag.x)}px`,
    height: `${Math.abs(event.clientY - drag.y)}px`,
  });
});

addEventListener("pointerup", (event) => {
  if (!drag) return;
  const {image, frame, x, y} = drag, isBox = frame.isConnected;
  drag = null;
  frame.remove();
  if (!isBox) return;
  const percent = (share) => (100 * Math.min(Math.max(share, 0), 1)).toFixed(1);
  const corners = [[x, y], [event.clientX, event.clientY]].map(([left, top]) =>
    pointIn(image, left, top).map(percent).join(", "));
  writeText(document.querySelector("#box textarea, #box input"), corners.join(", "));
  const ignore = (click) => click.stopImmediatePropagation(); // the click that ends the drag
  addEventListener("click", ignore, true);
  setTimeout(() => removeEventListener("click", ignore, true), 50);
});

addEventListener("pointercancel", () => {
  drag?.frame.remove();
  drag = null;
});

addEventListener("dragstart", (event) => {
  if (event.target.closest?.("#region-image")) event.preventDefault();
});
