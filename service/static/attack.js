/** The view of an attack: the image before and after, and what attacked and fresh networks say. */

import { attack, attackUrl, predict } from "./api.js";
import { createCall, curlUpload, pythonUpload } from "./call.js";
import { nats, percent } from "./numbers.js";
import { decodeFile, hideFile, largestDifference, magnify, readPixels, show, showFile } from "./pixels.js";

const MOST_ATTACKED = 100; // networks, by the service's limit
const NAME = "adversarial.png";

const element = (id) => document.getElementById(id);
const write = (id, text) => (element(id).textContent = text);

export const createAttack = (studio) => {
  const call = createCall("attack");
  const ownSeed = String(Math.floor(Math.random() * 2 ** 53)); // so that sliders move alone

  const writeOptions = () => {
    const [epsilon, steps] = ["epsilon", "steps"].map((id) => element(id).value);
    element("epsilon").labels[0].lastElementChild.value = `${Math.floor(255 * epsilon + 1e-9)} of 255`;
    element("steps").labels[0].lastElementChild.value = steps;
  };
  for (const id of ["epsilon", "steps"]) {
    element(id).addEventListener("input", writeOptions);
    element(id).addEventListener("change", () => studio.ask());
  }
  writeOptions();

  const showPictures = async ({ original, adversarial }, { input }) => {
    const files = [decodeFile(original, "original.png"), decodeFile(adversarial, NAME)];
    const [before, after] = await Promise.all(files.map((file) => readPixels(file, input)));
    showFile(element("original"), files[0]);
    const href = showFile(element("adversarial"), files[1]);
    Object.assign(element("adversarial-download"), { href, download: NAME, hidden: false });
    const largest = largestDifference(before, after);
    const factor = largest ? 127 / largest : 1;
    element("difference").hidden = false;
    show(element("difference"), magnify(before, after, factor));
    write("difference-caption", `Difference × ${factor.toFixed(1)}`);
    const text = `The difference, ${factor.toFixed(1)} times as large: at most ${largest} of 255`;
    element("difference").setAttribute("aria-label", text);
    return files[1];
  };

  return {
    reset: () => {
      for (const id of ["original", "adversarial"]) hideFile(element(id));
      element("adversarial-download").hidden = true;
      element("difference").hidden = true;
      element("verdicts").replaceChildren();
      write("difference-caption", "Difference");
      write("attack-note", "Draw something, or choose an example.");
      call.clear();
    },

    ask: async ({ model, image, size: wanted, seed: named }, signal) => {
      if (!image) return;
      const size = Math.min(wanted, MOST_ATTACKED);
      const [epsilon, steps] = ["epsilon", "steps"].map((id) => element(id).value);
      const options = { size, seed: named || ownSeed, epsilon, steps };
      studio.showSent(image);
      const answer = await attack(model.name, image, options, signal);
      const file = await showPictures(answer, model);
      const again = await predict(model.name, [file], { size, seed: "", members: false }, signal);
      const [fresh] = again.predictions;
      const { before, after } = answer;
      element("verdicts").replaceChildren(
        createVerdict("Original", `${size} networks of seed ${options.seed}`, before, before),
        createVerdict("Attacked", "the same networks", after, before),
        createVerdict("Attacked", `fresh networks, seed ${again.ensemble.seed}`, fresh, before),
      );
      const text = judge(before, after, fresh);
      write("attack-note", text);
      write("summary", text);
      const path = attackUrl(model.name, options);
      call.show(curlUpload(path, image.name), pythonUpload(path, image.name));
    },
  };
};

const judge = (before, after, fresh) => {
  const raised = Object.values(fresh.flags).some(({ flagged }) => flagged);
  const flags = Object.keys(fresh.flags).length ? (raised ? ", and flag the image" : ", and raise no flag") : "";
  const others = `Fresh networks say ${fresh.label}${flags}.`;
  if (after.label !== before.label) {
    return `The attacked networks say ${after.label} instead of ${before.label}. ${others}`;
  }
  const [high, low] = [before, after].map(({ probabilities }) => percent(probabilities[before.class_index]));
  return `The answer is still ${before.label}; its probability went from ${high} to ${low}. ${others}`;
};

const createVerdict = (title, networks, prediction, before) => {
  const { label, class_index: winner, probabilities, uncertainty, flags } = prediction;
  const box = document.createElement("section");
  box.className = "answer-card";
  box.classList.toggle("changed", label !== before.label);
  const add = (tag, text, className = "") => {
    box.append(Object.assign(document.createElement(tag), { textContent: text, className }));
  };
  add("h3", title);
  add("p", networks, "muted");
  add("p", label, "big");
  add("p", `${percent(probabilities[winner])}, entropy ${nats(uncertainty.predictive_entropy)} nats`);
  if (label !== before.label) add("p", `${before.label}: ${percent(probabilities[before.class_index])}`, "muted");
  for (const [name, { flagged, score, threshold }] of Object.entries(flags)) {
    const measured = `${score.toFixed(3)} ${flagged ? ">" : "≤"} ${threshold.toFixed(3)}`;
    const text = `${flagged ? "" : "not "}${name.replaceAll("_", " ")}: ${measured}`;
    add("p", text, flagged ? "flag flagged" : "flag");
  }
  return box;
};
