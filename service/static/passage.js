/**
 * A text of which each character is a cell, which shows what the networks said of it before they knew it: how much the
 * weights of the four gates changed, as squares under it, or a measure, as its colour. Cells are plain spans, and what
 * they show is scaled by custom properties of the text, so a growing maximum costs one change.
 */

import { percent } from "./numbers.js";

const GATES = ["input", "forget", "output", "candidate"]; // in the order of the service's answer
const MEASURES = { bits: 8, disagreement: Infinity }; // from which on colours are full, lest outliers take them all
const LEAST = 1e-9; // of a maximum, which divides

const NAMES = { " ": "space", "\n": "line end", "\t": "tab" };

/**
 * A text in an element, with a readout of the character at which one points.
 *
 * A symbol is { text, probability, bits, entropy, disagreement, changes, unknown, foreign }, of which a prompt has
 * only the text. `choose`, if there is one, is { label, act }, and `act` gets the index of the character that was chosen.
 */
export const createPassage = (root, readoutRoot, { description, choose = null, squares = false }) => {
  const readout = createReadout(readoutRoot, choose?.label, squares);
  const cells = []; // spans, each with its `symbol` and `index`
  let lit = null;
  let pointer = null; // where it was last
  let most = {};

  const scaleTo = (name, value) => {
    if (value <= (most[name] ?? LEAST)) return;
    most[name] = value;
    root.style.setProperty(`--most-${name}`, value);
  };

  const append = (symbol) => {
    const cell = document.createElement("span");
    Object.assign(cell, { symbol, index: cells.length, className: classOf(symbol) });
    if (symbol.text !== "\n") cell.textContent = symbol.text;
    for (const [name, value] of quantities(symbol)) {
      cell.style.setProperty(`--own-${name}`, value);
      scaleTo(name, value);
    }
    if (!cells.length || cells.at(-1).symbol.text === "\n") root.append(document.createElement("div"));
    const line = root.lastElementChild;
    if (symbol.changes) line.className = "woven";
    line.append(cell);
    cells.push(cell);
  };

  const cut = (length) => {
    if (lit?.index >= length) light(null);
    while (cells.length > length) {
      const cell = cells.pop();
      const line = cell.parentElement;
      cell.remove();
      if (!line.firstChild) line.remove();
    }
    most = {};
    root.removeAttribute("style");
    for (const { symbol } of cells) for (const [name, value] of quantities(symbol)) scaleTo(name, value);
  };

  const light = (cell) => {
    lit?.classList.remove("lit");
    lit = cell;
    lit?.classList.add("lit");
    readout.show(cell?.symbol);
  };

  const act = () => lit && choose?.act(lit.index);

  root.setAttribute("aria-label", description);
  root.addEventListener("pointermove", ({ target, screenX, screenY }) => {
    const at = `${screenX} ${screenY}`;
    if (at === pointer) return; // the text has moved, by scrolling
    pointer = at;
    if (target.symbol && target !== lit) light(target);
  });
  root.addEventListener("click", ({ target, pointerType }) => {
    if (!target.symbol || !getSelection().isCollapsed) return;
    light(target);
    if (pointerType !== "touch" && pointerType !== "pen") act(); // a finger has a button, and may have missed
  });
  root.addEventListener("keydown", (event) => {
    const next = event.key === "Enter" ? null : findNext(cells, lit, event.key);
    if (next === undefined) return;
    event.preventDefault();
    if (!next) return act();
    light(next);
    next.scrollIntoView({ block: "nearest" });
  });
  readout.button?.addEventListener("click", act);

  return {
    append,
    /** Forgets all characters from an index on. */
    cut,
    length: () => cells.length,
    text: () => cells.map(({ symbol }) => symbol.text).join(""),
    /** The measure whose colour is full, and whether it stands for larger ones, too. */
    most: (name) => most[name] ?? 0,
    isFull: (name) => most[name] === MEASURES[name],
  };
};

const classOf = ({ text, bits, changes, unknown, foreign }) => {
  const is = { given: bits === undefined, changed: changes, unknown, foreign, space: text === " ", end: text === "\n" };
  return ["cell", ...Object.keys(is).filter((name) => is[name])].join(" ");
};

const quantities = (symbol) => [
  ...Object.entries(MEASURES).filter(([name]) => symbol[name] !== undefined).map(([name, full]) => [name, Math.min(full, symbol[name])]),
  ...(symbol.changes ?? []).map((change, gate) => [`gate-${gate}`, change]),
];

/** Where a key leads from a cell; undefined for other keys. */
const findNext = (cells, from, key) => {
  const index = from?.index ?? -1;
  const last = cells.length - 1;
  if (last < 0) return undefined;
  const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: last }[key];
  if (to !== undefined) return cells[Math.max(0, Math.min(to, last))];
  const step = { ArrowDown: 1, ArrowUp: -1 }[key];
  if (!step) return undefined;
  return from ? findBeside(cells, from, step) : cells[0];
};

/** The cell above or below. */
const findBeside = (cells, from, step) => {
  const { offsetTop: top, offsetLeft: left } = from;
  let found = from;
  for (let i = from.index + step; cells[i]; i += step) {
    const cell = cells[i];
    if (cell.offsetTop === top) continue;
    if (found !== from && cell.offsetTop !== found.offsetTop) break;
    if (found === from || Math.abs(cell.offsetLeft - left) < Math.abs(found.offsetLeft - left)) found = cell;
  }
  return found;
};

/** The numbers of one character, and a button for what a click on it does. */
const createReadout = (root, label, squares) => {
  const [line, symbol, detail] = ["p", "strong", "span"].map((tag) => document.createElement(tag));
  line.setAttribute("role", "status");
  detail.className = "number";
  line.append(symbol, detail);
  const gates = document.createElement("p");
  gates.className = "key number";
  const values = (squares ? GATES : []).map((name, gate) => {
    const [item, square, value] = ["span", "i", "span"].map((tag) => document.createElement(tag));
    square.className = `swatch gate-${gate}`;
    item.append(square, `${name} `, value);
    gates.append(item);
    return value;
  });
  root.append(line, gates);
  let button = null;
  if (label) {
    button = Object.assign(document.createElement("button"), { type: "button", textContent: label, disabled: true });
    root.append(button);
  }

  const show = (shown) => {
    symbol.textContent = shown ? (NAMES[shown.text] ?? shown.text) : "";
    detail.textContent = describe(shown);
    values.forEach((value, gate) => (value.textContent = shown?.changes?.[gate].toPrecision(2) ?? ""));
    if (button) button.disabled = !shown;
  };

  show(null);
  return { button, show };
};

const describe = (symbol) => {
  if (!symbol) return "Point at a character, or tap it, for its numbers.";
  if (symbol.bits === undefined) return "of the prompt";
  const { probability, bits, entropy, disagreement, unknown } = symbol;
  const numbers = `${percent(probability)} · ${bits.toFixed(2)} bits · entropy ${entropy.toFixed(2)} · disagreement ${disagreement.toFixed(3)}`;
  return unknown ? `${numbers} · unknown to the model` : numbers;
};
