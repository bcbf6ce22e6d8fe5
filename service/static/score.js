/** The view in which any text is coloured by how surprising it is, or by how much the networks disagree on it. */

import { addressOf, score, scoreUrl, writeQuestion } from "./api.js";
import { createCall, pythonClient, quote, shellQuote } from "./call.js";
import { percent, plural } from "./numbers.js";
import { createPassage } from "./passage.js";

const element = (id) => document.getElementById(id);
const say = (id, text) => (element(id).textContent = text);
const chosen = () => document.querySelector("[name=colour]:checked").value;

export const createScore = (studio) => {
  const root = element("score-passage");
  const passage = createPassage(root, element("score-readout"), {
    description: "The text, coloured. Use the arrow keys to move between characters.",
  });
  const call = createCall("score");
  const ownSeed = String(Math.floor(Math.random() * 2 ** 53)); // one for all texts, so that only the text changes
  let shown = null; // the name and version of the model that scores

  const clear = () => {
    passage.cut(0);
    call.clear();
    say("score-label", "–");
    say("score-detail", "");
    say("score-note", "");
    showColour();
  };

  const showColour = () => {
    const colour = document.body.classList.contains("single") ? "bits" : chosen();
    root.dataset.colour = element("score-ramp").dataset.colour = colour;
    element("score-ramp").hidden = !passage.length();
    const [most, isFull] = [passage.most(colour), passage.isFull(colour)];
    say("score-most", `${most.toFixed(colour === "bits" ? 1 : 3)} bits${isFull ? " or more" : ""}`);
  };

  element("text").addEventListener("input", studio.askSoon);
  document.querySelectorAll("[name=colour]").forEach((input) => input.addEventListener("change", showColour));

  return {
    reset: ({ name, version }) => {
      if (shown === name + version) return;
      shown = name + version;
      clear();
    },

    ask: async ({ model, size, seed }, signal) => {
      const question = { text: element("text").value, ensemble_size: size, seed: seed || ownSeed };
      if (!question.text) return clear();
      const answer = await score(model.name, question, signal);
      passage.cut(0);
      const foreign = findForeign(answer);
      answer.tokens.forEach((token, index) => passage.append({ ...token, foreign: foreign.has(index) }));
      say("score-label", answer.bits_per_character.toFixed(2));
      const detail = `bits per character: ${answer.bits.toFixed(1)} in ${plural(answer.symbols, "character")}, by ${plural(answer.members.length, "network")}`;
      say("score-detail", detail);
      say("score-note", describe(answer));
      say("summary", `${answer.bits_per_character.toFixed(2)} ${detail}`);
      showColour();
      const url = addressOf(scoreUrl(model.name));
      call.show(
        `curl --json ${shellQuote(writeQuestion(question))} \\\n${shellQuote(url)}`,
        pythonClient("score", "score", [quote(model.name), quote(question.text)], { ensemble_size: size, seed: question.seed }),
      );
    },
  };
};

/** Indices of the characters that lie in a foreign passage. */
const findForeign = ({ foreign }) => {
  const found = (foreign?.passages ?? []).filter((passage) => passage.foreign);
  return new Set(found.flatMap(({ start }) => Array.from({ length: foreign.passage }, (_, i) => start + i)));
};

const describe = ({ entropy, disagreement, members, unknown, foreign }) => {
  const parts = members.length > 1 ? `, of which ${disagreement.toFixed(3)} are disagreement` : "";
  const sentences = [`The entropy is ${entropy.toFixed(2)} bits per character on average${parts}.`];
  if (foreign?.passages.length) sentences.push(describeForeign(foreign));
  if (foreign && !foreign.passages.length) sentences.push(`From ${foreign.passage} characters on, passages can be judged as foreign.`);
  if (unknown.length) sentences.push(`Unknown to the model: ${unknown.map(nameSymbol).join(", ")}.`);
  return sentences.join(" ");
};

const describeForeign = ({ passages, passage, score: name, threshold, false_alarm_rate: rate }) => {
  const count = passages.filter(({ foreign }) => foreign).length;
  const limit = `a mean ${name} above ${threshold.toFixed(3)} bits, which ${percent(rate)} of usual passages have`;
  return `Foreign: ${count} of ${plural(passages.length, "passage")} of ${passage} characters, by ${limit}.`;
};

const nameSymbol = (symbol) => `${symbol} (U+${symbol.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")})`;
