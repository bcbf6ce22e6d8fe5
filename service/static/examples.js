/** The images on offer: those of digits, which come with the page, and those that were opened. */

import { ApiError } from "./api.js";
import { readImage, showFile } from "./pixels.js";

const MOST = 6; // opened images that are on offer

export const createExamples = (list, onChoose) => {
  const shipped = [...list.children].map((item) => ({ item, image: item.querySelector("img"), file: null }));
  let opened = [];
  let ofDigits = true;
  const copies = new WeakSet(); // files of what is shipped

  const listen = (example) => {
    example.item.firstElementChild.addEventListener("click", () => onChoose(() => open(example)));
  };

  /** Without the server, which need not be there any more. */
  const open = async ({ image, file }) => {
    if (file) return file;
    await image.decode().catch(() => {
      throw new ApiError("The example could not be loaded.", "Reload the page.", { status: 404 });
    });
    const copy = await readImage(image, image.src.split("/").pop());
    copies.add(copy);
    return copy;
  };

  shipped.forEach(listen);

  return {
    /** Offers the images of digits, or not. */
    offer: (digits) => {
      ofDigits = digits;
      shipped.forEach(({ item }) => (item.hidden = !digits));
    },
    /** Offers a file, too, the latest first. */
    add: (file) => {
      if (copies.has(file) || opened.some((example) => example.file === file)) return;
      const [item, button, image] = ["li", "button", "img"].map((tag) => document.createElement(tag));
      button.type = "button";
      Object.assign(image, { alt: `Opened before: ${file.name}`, draggable: false });
      showFile(image, file);
      button.append(image);
      item.append(button);
      list.append(item);
      const example = { item, image, file };
      listen(example);
      opened.unshift(example);
      opened.splice(MOST).forEach((old) => {
        URL.revokeObjectURL(old.image.src);
        old.item.remove();
      });
    },
    /** What is offered: { image, file }; the file only of what was opened. */
    offered: () => [...(ofDigits ? shipped : []), ...opened],
  };
};
