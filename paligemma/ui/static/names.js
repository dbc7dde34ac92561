// The names that the model knows: the page has one list of them, which the stamps beside the canvas
// and the names in the tabs copy when they are first seen, and which they filter.
// Loaded once in the page's head, after draw.js.

/** Fills the pickers that can be seen, unless they have the list already. */
function fillPickers() {
  const list = document.querySelector("#name-list template");
  for (const picker of document.querySelectorAll(".picker")) {
    if (!list || picker.list === list || picker.closest("details:not([open])")) continue;
    picker.list = list;
    const kinds = picker.querySelector(".kinds"), select = picker.querySelector("select");
    kinds.style.cssText = list.dataset.style ?? "";
    kinds.replaceChildren(list.content.cloneNode(true));
    const categories = new Set([...kinds.children].map((kind) => kind.dataset.category));
    const options = [...categories].map((category) => new Option(category));
    select.replaceChildren(new Option("all kinds", ""), ...options);
    filterNames(picker);
  }
}

new MutationObserver(fillPickers).observe(document, {
  childList: true, subtree: true, attributes: true, attributeFilter: ["open"],
});

/** Text without case and accents. */
function foldText(text) {
  return text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
}

/** Shows the names of the chosen category of which a word begins as the field says, in any language. */
function filterNames(picker) {
  const typed = foldText(picker.querySelector("[type=search]").value.trim());
  const category = picker.querySelector("select").value;
  const kinds = [...picker.querySelectorAll(".kind")];
  for (const kind of kinds) {
    const {name, words} = kind.dataset;
    const found = [name, ...words.split("|")].find((word) => ` ${foldText(word)}`.includes(` ${typed}`));
    kind.hidden = found === undefined || (category !== "" && kind.dataset.category !== category);
    kind.querySelector("small").textContent = typed && found !== name ? found ?? "" : "";
  }
  const shown = kinds.filter((kind) => !kind.hidden);
  reachByTab(kinds, shown[0]);
  const count = shown.length ? `${shown.length} of ${kinds.length}` : "No name begins like that.";
  picker.querySelector("[role=status]").textContent = shown.length < kinds.length ? count : "";
}

/** Lets the key Tab reach one of the names; arrows move on from there. */
function reachByTab(kinds, reached) {
  for (const kind of kinds) kind.tabIndex = kind === reached ? 0 : -1;
}

addEventListener("input", ({target}) => {
  if (target.matches?.(".picker :is([type=search], select)")) filterNames(target.closest(".picker"));
});

addEventListener("focusin", ({target}) => {
  if (target.matches?.(".picker .kind")) reachByTab(target.parentElement.children, target);
});

addEventListener("keydown", (event) => {
  const kind = event.target.closest?.(".picker .kind");
  if (!kind) return;
  const shown = [...kind.parentElement.children].filter((each) => !each.hidden);
  const columns = shown.filter((each) => each.offsetTop === shown[0].offsetTop).length;
  const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns};
  const next = shown[shown.indexOf(kind) + steps[event.key]];
  if (!next) return;
  event.preventDefault();
  next.focus();
});
