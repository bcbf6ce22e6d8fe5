/** Labels of any length, which are written so small that no word of them is broken. */

const WIDE_WORD = 12; // letters, from which on a label gets a row of its own
const WIDE_LABEL = 24; // so many in all words do, too

/** Writes a label. The style sheet makes its longest word fit; words may be broken after hyphens. */
export const writeLabel = (target, label) => {
  const longest = Math.max(...label.split(/\s+|(?<=-)/).map((word) => word.length));
  target.textContent = label;
  target.style.setProperty("--longest-word", longest);
  target.classList.toggle("long", label.length > 2);
  target.classList.toggle("wide", longest > WIDE_WORD || label.length > WIDE_LABEL);
};
