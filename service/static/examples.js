/** The images on offer: a model's examples, and those that were opened. */

import { showFile } from "./pixels.js";

const MOST = 6; // opened images that are on offer

/**
 * Shows images in the list of a section, and calls `onChoose` with the file of the one that is chosen. The section has
 * a heading, and lines for sources and licences.
 */
export const createExamples = (section, onChoose) => {
  const [heading, list, credits] = ["h3", "ul", ".credits"].map((part) => section.querySelector(part));
  let brought = []; // of the model: { item, image, file }
  let opened = [];
  let turn = 0;

  const offered = () => [...brought, ...opened];

  const create = (file, kind, caption) => {
    const [item, button, image, text] = ["li", "button", "img", "span"].map((tag) => document.createElement(tag));
    Object.assign(button, { type: "button", title: caption });
    Object.assign(image, { alt: `${kind}: ${caption}`, draggable: false });
    Object.assign(text, { textContent: caption, ariaHidden: "true" }); // the image says it already
    image.dataset.file = file.name;
    showFile(image, file);
    button.append(image, text);
    button.addEventListener("click", () => onChoose(file));
    item.append(button);
    return { item, image, file };
  };

  const remove = (examples) => {
    for (const { item, image } of examples) {
      URL.revokeObjectURL(image.src);
      item.remove();
    }
  };

  const refresh = () => {
    section.hidden = offered().length === 0;
    heading.textContent = brought.length ? "Try one of these" : "Opened before";
  };

  return {
    offered,
    /** Offers the examples that `find` resolves to, [{ file, caption, source, licence }] with a File each. */
    offer: async (find) => {
      const current = ++turn;
      remove(brought.splice(0));
      credits.textContent = "";
      refresh();
      list.setAttribute("aria-busy", true);
      try {
        const found = await find();
        if (turn !== current) return;
        brought = found.map(({ file, caption }) => create(file, "Example", caption));
        list.prepend(...brought.map(({ item }) => item));
        credits.textContent = giveCredit(found);
        refresh();
      } finally {
        if (turn === current) list.setAttribute("aria-busy", false);
      }
    },
    /** Offers a file, too, the latest last. */
    add: (file) => {
      if (offered().some((example) => example.file === file)) return;
      const example = create(file, "Opened before", file.name);
      list.append(example.item);
      opened.push(example);
      remove(opened.splice(0, opened.length - MOST));
      refresh();
    },
  };
};

/** Sources and licences; if they differ, with the captions of their images. */
const giveCredit = (examples) => {
  const credits = examples.map(({ source, licence }) => `Source: ${source}. Licence: ${licence}.`);
  const different = [...new Set(credits)];
  const captions = (credit) => examples.filter((_, i) => credits[i] === credit).map(({ caption }) => caption);
  return different.map((credit) => (different.length > 1 ? `${captions(credit).join("; ")}. ${credit}` : credit)).join("\n");
};
