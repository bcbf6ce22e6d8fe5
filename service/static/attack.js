/** The view of an attack: the image before and after, and what attacked and fresh networks say. */

import { attack, attackUrl, predict } from "./api.js";
import { createCall, curlUpload, pythonUpload } from "./call.js";
import { writeLabel } from "./labels.js";
import { decimal, percent, plural } from "./numbers.js";
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
    const text = `The difference, magnified ${factor.toFixed(1)} times. Pixels differ by at most ${largest} of 255.`;
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
      write("attack-note", "Draw something, or choose an image.");
      call.clear();
    },

    ask: async ({ model, image, size: wanted, seed: named }, signal) => {
      if (!image) return;
      const size = Math.min(wanted, MOST_ATTACKED);
      const [epsilon, steps] = ["epsilon", "steps"].map((id) => element(id).value);
      const options = { size, seed: named || ownSeed, epsilon, steps };
      const answer = await attack(model.name, image, options, signal);
      studio.showSent(image);
      const file = await showPictures(answer, model);
      const { before, after } = answer;
      const only = model.sampler.num_networks === 1;
      const verdicts = [
        createVerdict("Original", only ? "the network" : `${plural(size, "network")} of seed ${options.seed}`, before, before),
        createVerdict("Attacked", only ? "the same network" : "the same networks", after, before),
      ];
      let text = judge(before, after);
      if (!only) {
        const again = await predict(model.name, [file], { size, seed: "", members: false }, signal);
        const [fresh] = again.predictions;
        verdicts.push(createVerdict("Attacked", `fresh networks, seed ${again.ensemble.seed}`, fresh, before));
        text += ` ${judgeFresh(fresh)}`;
      }
      if (size < wanted) text += ` Only ${size} of the ${wanted} networks are attacked, the most that the service allows.`;
      element("verdicts").replaceChildren(...verdicts);
      write("attack-note", text);
      write("summary", text);
      const path = attackUrl(model.name, options);
      call.show(curlUpload(path, image.name), pythonUpload(path, image.name));
    },
  };
};

const judge = (before, after) => {
  if (after.label !== before.label) return `The attacked networks say ${after.label} instead of ${before.label}.`;
  const [high, low] = [before, after].map(({ probabilities }) => percent(probabilities[before.class_index]));
  return `The answer is still ${before.label}; its probability went from ${high} to ${low}.`;
};

const judgeFresh = ({ label, flags }) => {
  const raised = Object.values(flags).some(({ flagged }) => flagged);
  const said = Object.keys(flags).length ? (raised ? ", and flag the image" : ", and raise no flag") : "";
  return `Fresh networks say ${label}${said}.`;
};

const createVerdict = (title, networks, prediction, before) => {
  const { label, class_index: winner, probabilities, uncertainty, flags } = prediction;
  const box = document.createElement("section");
  box.className = "answer-card";
  box.classList.toggle("changed", label !== before.label);
  const add = (tag, text, className = "") => {
    const part = Object.assign(document.createElement(tag), { textContent: text, className });
    box.append(part);
    return part;
  };
  add("h3", title);
  add("p", networks, "muted");
  writeLabel(add("p", label, "big"), label);
  add("p", `${percent(probabilities[winner])}, entropy ${decimal(uncertainty.predictive_entropy)} nats`);
  if (label !== before.label) add("p", `${before.label}: ${percent(probabilities[before.class_index])}`, "muted");
  for (const [name, { flagged, score, threshold }] of Object.entries(flags)) {
    const measured = `${decimal(score)} ${flagged ? ">" : "≤"} ${decimal(threshold)}`;
    const text = `${name.replaceAll("_", " ")}: ${flagged ? "flagged" : "no flag"}, ${measured}`;
    add("p", text, flagged ? "flag flagged" : "flag");
  }
  return box;
};
