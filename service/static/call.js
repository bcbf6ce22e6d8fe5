/** The calls that made an answer: as curl, and as Python. */

import { addressOf } from "./api.js";

export const shellQuote = (text) => (/^[\w@=.-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** curl reads commas and semicolons in a bare file name as syntax; quotes keep them literal. */
const formFile = (name) =>
  /^[\w.-]+$/.test(name) ? `images=@${name}` : `images=@"${name.replace(/["\\]/g, "\\$&")}"`;

/** Upload of a file to a path. */
export const curlUpload = (path, name) =>
  `curl -F ${shellQuote(formFile(name))} \\\n${shellQuote(addressOf(path))}`;

export const curlDownload = (path, name) => `curl -o ${name} ${shellQuote(addressOf(path))}`;

/** A call of hyperdraw's client; arguments are named, and left out where they are undefined or empty. */
export const pythonClient = (name, method, positional, named) => {
  const values = Object.entries(named).filter(([, value]) => value !== undefined && value !== "");
  const written = [...positional, ...values.map(([key, value]) => `${key}=${value}`)].join(", ");
  return [
    "import hyperdraw",
    "",
    `with hyperdraw.Client(${quote(addressOf())}) as client:`,
    `    ${name} = client.${method}(${written})`,
  ].join("\n");
};

/** The same for a route that the client has no method for, with httpx, which comes with it. */
export const pythonUpload = (path, name) =>
  [
    "import httpx",
    "",
    `with open(${quote(name)}, "rb") as file:`,
    "    answer = httpx.post(",
    `        ${quote(addressOf(path))},`,
    '        files={"images": file},',
    "        timeout=60,",
    "    ).json()",
  ].join("\n");

/** The same for a question of numbers and lists, as JSON; its seed is text. */
export const pythonPost = (path, question) => {
  const fields = Object.entries(question).filter(([, value]) => value !== "" && value !== undefined);
  return [
    "import httpx",
    "",
    "answer = httpx.post(",
    `    ${quote(addressOf(path))},`,
    "    json={",
    ...fields.map(([name, value]) => `        ${quote(name)}: ${toPython(value)},`),
    "    },",
    "    timeout=60,",
    ").json()",
  ].join("\n");
};

const toPython = (value) => ({ true: "True", false: "False" })[value] ?? (Array.isArray(value) ? JSON.stringify(value) : String(value));

export const quote = (text) => JSON.stringify(text);

/** A place on the page for a call; it is empty until there is one. */
export const createCall = (name) => {
  const root = document.querySelector(`[data-call="${name}"]`);
  const kinds = ["curl", "Python"].map((kind) => createKind(name, kind));
  const choices = document.createElement("div");
  choices.className = "kinds";
  choices.setAttribute("role", "group");
  choices.setAttribute("aria-label", "The call that made this");
  const title = document.createElement("span");
  title.textContent = "The call that made this";
  choices.append(title, ...kinds.map(({ choice }) => choice));
  root.append(choices, ...kinds.map(({ box }) => box));

  const choose = (chosen) =>
    kinds.forEach(({ choice, box }, index) => {
      choice.setAttribute("aria-pressed", index === chosen);
      box.hidden = index !== chosen;
    });
  kinds.forEach(({ choice }, index) => choice.addEventListener("click", () => choose(index)));
  choose(0);

  return {
    show: (...texts) => {
      root.hidden = false;
      kinds.forEach(({ code }, index) => (code.textContent = texts[index]));
    },
    clear: () => (root.hidden = true),
  };
};

const createKind = (name, kind) => {
  const choice = document.createElement("button");
  Object.assign(choice, { type: "button", textContent: kind });
  const box = document.createElement("div");
  box.className = "command";
  const text = document.createElement("pre");
  text.tabIndex = 0;
  text.setAttribute("aria-label", `As ${kind}`);
  const code = document.createElement("code");
  code.id = `${name}-${kind.toLowerCase()}`;
  text.append(code);
  const copy = document.createElement("button");
  Object.assign(copy, { type: "button", textContent: "Copy", hidden: !navigator.clipboard }); // for secure pages only
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  box.append(text, copy);
  return { choice, box, code };
};
