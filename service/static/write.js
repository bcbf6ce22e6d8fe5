/** The view in which a model writes text, character by character, and people branch where they like. */

import { addressOf, generate, generateUrl, writeQuestion } from "./api.js";
import { createCall, pythonClient, quote, shellQuote } from "./call.js";
import { plural } from "./numbers.js";
import { createPassage } from "./passage.js";

const CHANGING = "hyper_lstm"; // the cell whose weights change at each step
const READ_ALOUD = 200; // characters of a text's end that a screen reader reads

const element = (id) => document.getElementById(id);
const say = (text) => (element("write-note").textContent = text);

export const createWrite = (studio) => {
  const passage = createPassage(element("write-passage"), element("write-readout"), {
    description: "The text. Use the arrow keys to move between characters, and Enter to write on from before one.",
    choose: { label: "Branch", act: branch },
    squares: true,
  });
  const call = createCall("write");
  const end = followEnd(element("write-passage"));
  let shown = null; // the name and version of the model that writes
  let running = null; // the signal of the text that is being written
  let seed = ""; // the seed of the last text

  const setRunning = (signal) => {
    running = signal;
    element("write-start").textContent = signal ? "Stop" : "Write";
    element("write-on").disabled = Boolean(signal) || !passage.length();
    element("write-copy").disabled = !passage.length();
    element("write-keep").disabled = seed === "";
  };

  /** Goes on after the prompt. What is already written and begins the same stays, with its squares. */
  function start() {
    const prompt = element("prompt").value;
    const given = [...prompt];
    if (!passage.text().startsWith(prompt)) {
      passage.cut(0);
      given.forEach((text) => passage.append({ text }));
    }
    const { model, size, seed: kept } = studio.read();
    const question = {
      prompt,
      max_tokens: Number(element("length").value),
      temperature: Number(element("temperature").value),
      ensemble_size: size,
      seed: kept,
    };
    return studio.work((signal, arrive) => write({ model, question, start: given.length }, signal, arrive));
  }

  const write = async ({ model, question, start }, signal, arrive) => {
    passage.cut(start);
    call.clear();
    seed = "";
    setRunning(signal);
    end.follow();
    say("");
    const text = { length: 0, bits: 0, unknown: [] };
    let frame = 0; // the number of the frame that will show what has come since the last one
    const refresh = () => {
      frame = 0;
      end.keep();
      say(describe(text, seed, "Writing. "));
    };
    const take = (event) => {
      if ("seed" in event) {
        seed = question.seed || String(event.seed);
        text.unknown = event.unknown;
      } else if ("index" in event) {
        passage.append(event);
        text.length++;
        text.bits += event.bits;
      }
    };
    let state = "Stopped. ";
    try {
      const { target } = await studio.describe(model, model.version, signal);
      const changes = target.size.cell === CHANGING;
      element("write-readout").classList.toggle("plain", !changes);
      for await (const events of generate(model.name, { ...question, changes }, signal)) {
        events.forEach(take);
        arrive();
        frame ||= requestAnimationFrame(refresh);
      }
      state = "";
      showCall(call, model.name, { ...question, seed, changes });
      element("summary").textContent = `Written: ${passage.text().slice(-READ_ALOUD)}`;
    } finally {
      cancelAnimationFrame(frame);
      if (running === signal) {
        setRunning(null);
        end.keep();
        say(describe(text, seed, state));
      }
    }
  };

  /** Writes on from before a character, by other draws. */
  function branch(index) {
    const { seed: kept } = studio.read();
    if (kept) studio.setSeed("", `Seed ${kept} is no longer kept.`);
    passage.cut(index);
    element("prompt").value = passage.text();
    start();
  }

  const showSettings = () => {
    for (const id of ["temperature", "length"]) {
      element(id).labels[0].lastElementChild.value = Number(element(id).value).toFixed(id === "length" ? 0 : 2);
    }
  };

  for (const id of ["temperature", "length"]) element(id).addEventListener("input", showSettings);
  element("write-start").addEventListener("click", () => (running ? studio.cancel() : start()));
  element("write-on").addEventListener("click", () => branch(passage.length()));
  element("write-keep").addEventListener("click", () => studio.setSeed(seed));
  element("write-copy").hidden = !navigator.clipboard; // for secure pages only
  element("write-copy").addEventListener("click", () => navigator.clipboard.writeText(passage.text()));
  element("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start();
  });
  showSettings();

  return {
    reset: ({ name, version }) => {
      if (shown === name + version) return;
      shown = name + version;
      passage.cut(0);
      call.clear();
      seed = "";
      setRunning(null);
      say("The text appears here. Click a character to go on from there in another way.");
    },
  };
};

const describe = ({ length, bits, unknown }, seed, state) => {
  const parts = [plural(length, "character")];
  if (length) parts.push(`${(bits / length).toFixed(2)} bits each`);
  if (seed !== "") parts.push(`seed ${seed}`);
  const strange = unknown.length ? ` The model does not know ${unknown.join(" ")} in the prompt.` : "";
  return `${state}${parts.join(", ")}.${strange}`;
};

const showCall = (call, model, question) => {
  const url = addressOf(generateUrl(model));
  call.show(
    `curl -N --json ${shellQuote(writeQuestion({ ...question, stream: true }))} \\\n${shellQuote(url)}`,
    `${pythonClient("text", "generate", [quote(model), quote(question.prompt)], toPython(question))}\n    print(text.read())`,
  );
};

const toPython = ({ prompt, changes, ...named }) => ({ ...named, changes: changes ? "True" : "" });

/** Keeps the end of a growing element in view, until one scrolls away from it. */
const followEnd = (root) => {
  let follows = false;
  for (const type of ["wheel", "touchmove"]) addEventListener(type, () => (follows = false), { passive: true });
  return {
    follow: () => (follows = true),
    keep: () => follows && root.lastElementChild?.scrollIntoView({ block: "nearest" }),
  };
};
