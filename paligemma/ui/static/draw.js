// The canvas of the tab Draw: a brush, an eraser, and stamps that a click places. After each change
// it is uploaded, as the picture that is asked about.
// Loaded once in the page's head, after image.js.

const SIDE = 512; // pixels of the canvas, whatever its size on the screen
const STAMP_UNITS = 320; // a stamp's larger side in the units of its paths
const CELL_SIDE = 160 / 152; // of the sheet: its drawing's larger side is 1, the rest margin (atlas.py)
const SIZES = {brush: [4, 64, 16], eraser: [4, 64, 32], stamp: [64, 320, 160]}; // least, most, first
const STEP = 16; // pixels that an arrow key moves
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
const HINTS = {
  brush: "Draw, or choose a stamp and click where it is to be. Keys: the arrows move, Enter draws.",
  eraser: "Erase.",
  stamp: "click on the canvas to place it. Keys: the arrows move, Enter places.",
  text: "click on the canvas to place it. Your device draws it: the built-in model may not know it.",
};

/** What a stroke leaves on the canvas: a line through its points, or a dot. */
function strokeMark(color, width) {
  const points = [];
  return {points, paint(context) {
    const [[x, y], ...others] = points;
    Object.assign(context, {strokeStyle: color, lineWidth: width, lineCap: "round", lineJoin: "round"});
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + 0.01, y);
    for (const point of others) context.lineTo(...point);
    context.stroke();
  }};
}

/** What a stamp leaves: a cell of the sheet of stickers, a pictogram in two colors, or text as the
 * visitor's device draws it. */
function stampMark(stamp, colors, size, [x, y]) {
  return {isKnown: !stamp.text, paint(context) {
    context.translate(x, y);
    if (stamp.text) return paintText(context, stamp.text, size, colors.brush);
    if (stamp.image) {
      const {image, left, top, side} = stamp, whole = size * CELL_SIDE;
      return context.drawImage(image, left, top, side, side, -whole / 2, -whole / 2, whole, whole);
    }
    context.scale(size / STAMP_UNITS, size / STAMP_UNITS);
    context.fillStyle = colors.fill;
    context.fill(stamp.filling);
    context.fillStyle = colors.lines;
    context.fill(stamp.lines, "evenodd");
  }};
}

/** Text in the middle of the context, `size` pixels wide or high. */
function paintText(context, text, size, color) {
  Object.assign(context, {font: `${size}px sans-serif`, fillStyle: color});
  const box = context.measureText(text);
  const [left, right] = [box.actualBoundingBoxLeft, box.actualBoundingBoxRight];
  const [up, down] = [box.actualBoundingBoxAscent, box.actualBoundingBoxDescent];
  const scale = size / Math.max(left + right, up + down, 1);
  context.scale(scale, scale);
  context.fillText(text, (left - right) / 2, (up - down) / 2);
}

function paintWhite(context) {
  context.fillStyle = "white";
  context.fillRect(0, 0, SIDE, SIDE);
}

class Drawing {
  constructor(element, props, trigger, upload) {
    Object.assign(this, {element, props, trigger, upload});
    this.canvas = element.querySelector("canvas");
    this.slider = element.querySelector("input");
    this.hint = element.querySelector("#canvas-hint");
    this.picture = document.createElement("canvas"); // without what follows the pointer
    this.picture.width = this.picture.height = SIDE;
    this.marks = []; // what is drawn, in order
    this.undone = [];
    this.stroke = this.pointer = this.stamp = null;
    this.sizes = Object.fromEntries(Object.entries(SIZES).map(([tool, [, , size]]) => [tool, size]));
    this.name = ""; // of the file that was sent last, as rememberImage is given it
    this.isSending = this.isChanged = false;
    this.colors = element.querySelector(".color").dataset;
    this.listen();
    this.choose("brush");
  }

  listen() {
    const {canvas, element} = this;
    element.addEventListener("click", ({target}) => {
      const {tool, act, brush} = target.closest("button")?.dataset ?? {};
      if (tool) this.choose(tool);
      if (act) this[act]();
      if (brush) this.chooseColors(target.dataset);
    });
    this.slider.addEventListener("input", () => {
      this.sizes[this.tool] = Number(this.slider.value);
    });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.begin(this.point(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      this.pointer = this.point(event);
      this.stroke?.points.push(this.pointer);
      this.show();
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.end());
    for (const name of ["pointerleave", "blur"]) {
      canvas.addEventListener(name, () => {
        this.pointer = null;
        this.show();
      });
    }
    canvas.addEventListener("keydown", (event) => this.press(event));
  }

  point(event) {
    const area = this.canvas.getBoundingClientRect(), scale = SIDE / area.width;
    return [(event.clientX - area.left) * scale, (event.clientY - area.top) * scale];
  }

  press(event) {
    const [x, y] = this.pointer ?? [SIDE / 2, SIDE / 2], move = ARROWS[event.key];
    const isUndo = event.key === "z" && (event.ctrlKey || event.metaKey);
    if (move) {
      const into = (value) => Math.min(Math.max(value, 0), SIDE);
      this.pointer = [into(x + STEP * move[0]), into(y + STEP * move[1])];
    } else if (event.key === "Enter" || event.key === " ") {
      this.begin([x, y]);
      this.end();
    } else if (isUndo) {
      this.undo();
    } else {
      return;
    }
    event.preventDefault();
    this.show();
  }

  /** The mark that the tool leaves at a point. */
  mark(point) {
    const size = this.sizes[this.tool];
    if (this.tool === "stamp") return stampMark(this.stamp, this.colors, size, point);
    return strokeMark(this.tool === "eraser" ? "white" : this.colors.brush, size);
  }

  begin(point) {
    const mark = this.mark(point);
    this.marks.push(mark);
    this.undone = [];
    this.stroke = mark.points ? mark : null;
    this.stroke?.points.push(point);
    if (!this.stroke) this.change();
    this.show();
  }

  end() {
    if (!this.stroke) return;
    this.stroke = null;
    this.change();
  }

  choose(tool, stamp = null) {
    this.tool = tool;
    this.stamp = stamp;
    [this.slider.min, this.slider.max] = SIZES[tool];
    this.slider.value = this.sizes[tool];
    this.hint.textContent = stamp ? `${stamp.name}: ${HINTS[stamp.text ? "text" : "stamp"]}` : HINTS[tool];
    this.refresh();
  }

  chooseColors(colors) {
    this.colors = colors;
    const {style} = document.getElementById("stamps");
    style.setProperty("--filling", colors.fill);
    style.setProperty("--lines", colors.lines);
    this.refresh();
  }

  undo() {
    if (!this.marks.length) return;
    this.undone.push(this.marks.pop());
    this.change();
  }

  redo() {
    if (!this.undone.length) return;
    this.marks.push(this.undone.pop());
    this.change();
  }

  clear() {
    this.marks.push({isClear: true, paint: paintWhite});
    this.undone = [];
    this.change();
  }

  /** The buttons' states. */
  refresh() {
    const press = (selector, isPressed) => {
      for (const button of document.querySelectorAll(selector)) button.ariaPressed = isPressed(button);
    };
    press("#canvas [data-tool]", (button) => button.dataset.tool === this.tool);
    press("#canvas .color", (button) => button.dataset === this.colors);
    press("#stamps .kind", (button) => button.dataset.name === this.stamp?.name);
    const isEmpty = {undo: !this.marks.length, redo: !this.undone.length, clear: this.isBlank()};
    for (const button of this.element.querySelectorAll("[data-act]")) {
      button.disabled = isEmpty[button.dataset.act];
    }
  }

  show() {
    const context = this.canvas.getContext("2d");
    this.paint(context);
    if (!this.pointer || this.stroke) return;
    context.save();
    context.globalAlpha = 0.5;
    if (this.tool === "stamp") {
      this.mark(this.pointer).paint(context);
    } else {
      context.beginPath();
      context.arc(...this.pointer, this.sizes[this.tool] / 2, 0, 2 * Math.PI);
      context.stroke();
    }
    context.restore();
  }

  paint(context) {
    paintWhite(context);
    for (const mark of this.marks) {
      context.save();
      mark.paint(context);
      context.restore();
    }
  }

  isBlank() {
    const context = this.picture.getContext("2d", {willReadFrequently: true});
    this.paint(context);
    const pixels = new Uint32Array(context.getImageData(0, 0, SIDE, SIDE).data.buffer);
    return pixels.every((pixel) => pixel === pixels[0]);
  }

  /** Whether all that is there is drawn as the built-in model knows it. */
  isKnown() {
    return this.marks.slice(this.marks.findLastIndex((mark) => mark.isClear) + 1).every((mark) => mark.isKnown);
  }

  change() {
    this.refresh();
    this.show();
    this.send();
  }

  /** Hands the drawing to the server; what is drawn meanwhile, after it. */
  async send() {
    this.isChanged = true;
    if (this.isSending) return;
    this.isSending = true;
    this.isLost = false;
    try {
      let path = "";
      while (this.isChanged) {
        this.isChanged = false;
        path = this.isBlank() ? "" : await this.uploadPicture();
      }
      this.name = path.split(/[\\/]/).slice(-2).join("/");
      this.props.value = {path, is_known: this.isKnown()};
      sentAt = performance.now();
      this.trigger("input");
    } catch {
      this.isLost = true;
      this.hint.textContent = "The drawing could not be sent: change it to try again.";
    } finally {
      this.isSending = false;
    }
  }

  async uploadPicture() {
    const blob = await new Promise((done) => this.picture.toBlob(done, "image/png"));
    return (await this.upload(new File([blob], "drawing.png", {type: "image/png"}))).path;
  }
}

let drawing = null;

function createCanvas(element, props, trigger, upload) {
  drawing = new Drawing(element, props, trigger, upload);
}

/** The canvas was opened again: its drawing is the picture, unless it is that already. */
function returnToDrawing() {
  if (drawing && !drawing.isBlank() && !shownImage()?.includes(drawing.name)) drawing.send();
  return [];
}

// A drawing reaches the server with a delay: a run that is asked for meanwhile waits for it.
const MAX_WAIT_MS = 5000; // for the server's answer, if none comes
let sentAt = -Infinity;

/** The server has taken a picture of that name: the wait is over if it is the drawing's. */
function endWait(name) {
  if (drawing?.name === name) sentAt = -Infinity;
}

const isWaiting = () => drawing?.isSending || performance.now() < sentAt + MAX_WAIT_MS;

function clickAfterDrawing(button, retries = 1200) {
  if (drawing?.isLost) return; // the answer would be about the picture before
  if (!isWaiting() && !button.disabled) button.click();
  else if (retries) setTimeout(() => clickAfterDrawing(button, retries - 1), 50);
}

addEventListener("click", (event) => {
  const button = event.target.closest?.("[id^=run-]");
  if (!button || !isWaiting()) return;
  event.stopImmediatePropagation();
  clickAfterDrawing(button);
}, true);

let sheet = null; // the image of the sheet of stickers

/** A cell of the sheet: its image, decoded, and where the cell is in it, in pixels. */
async function sheetCell(cell) {
  const source = getComputedStyle(cell).backgroundImage.slice(5, -2); // url("…")
  if (sheet?.src !== source) sheet = Object.assign(new Image(), {src: source});
  await sheet.decode();
  const [left, top, side] = cell.dataset.at.split(" ").map(Number);
  return {image: sheet, left, top, side};
}

// The stamps beside the canvas.
addEventListener("click", async (event) => {
  const button = event.target.closest?.("#stamps .kind"), cell = button?.querySelector(".cell");
  if (!button) return;
  const [filling, lines] = [...button.querySelectorAll("path")].map((path) =>
    new Path2D(path.getAttribute("d")));
  const {name, text} = button.dataset;
  drawing.choose("stamp", {name, text, filling, lines, ...(cell && await sheetCell(cell))});
  if (event.detail) return;
  drawing.pointer = [SIDE / 2, SIDE / 2]; // a key: go on with keys
  drawing.canvas.focus();
  drawing.show();
});

/** The last character of the field as a stamp; an emoji may be of several code points. */
function chooseText(field) {
  const text = [...new Intl.Segmenter().segment(field.value.trim())].at(-1)?.segment;
  if (text) drawing.choose("stamp", {name: text, text});
}

addEventListener("focusin", ({target}) => {
  if (!target.matches?.("#stamps .emoji")) return;
  target.select(); // the next one takes its place
  chooseText(target);
});

addEventListener("input", ({target}) => {
  if (target.matches?.("#stamps .emoji")) chooseText(target);
});
