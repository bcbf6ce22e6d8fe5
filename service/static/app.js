/** The page: joins the inputs (pad, files, options) to the service and to the results. */

import { ApiError, fetchImage, fetchModels, predict } from "./api.js";
import { createPad } from "./pad.js";
import { createResults } from "./results.js";

const PAUSE = 350; // milliseconds without a change before a prediction is asked for

const element = (id) => document.getElementById(id);

const results = createResults(element("results"));
const pad = createPad(element("pad-canvas"), { onStart: startDrawing, onEnd: askSoon });

let models = [];
let chosenFile = null; // a dropped, pasted or chosen image; null while the pad is in use
let running = null; // the AbortController of the work in progress
let latest = null; // the task that was started last, for another try
let timer = null;

/* Asking */

function askSoon() {
  clearTimeout(timer);
  timer = setTimeout(ask, PAUSE);
}

function ask() {
  return work(async (signal) => {
    await loadModels(signal);
    const model = currentModel();
    const image = await currentImage(model);
    if (!image || !element("options").reportValidity()) return;
    const options = { size: element("size").value, seed: element("seed").value };
    showSent(image);
    const answer = await predict(model.name, image, options, signal);
    results.show(answer, model, image);
    showWhetherKept();
  });
}

/** Run one task at a time: the newest aborts the one before it. */
async function work(task) {
  cancel();
  const controller = new AbortController();
  running = controller;
  latest = task;
  results.setBusy(true);
  try {
    await task(controller.signal);
    if (running === controller) hideAlert();
  } catch (error) {
    if (running === controller) fail(error);
  } finally {
    if (running === controller) results.setBusy(false);
  }
}

function cancel() {
  clearTimeout(timer);
  running?.abort();
  running = null;
  results.setBusy(false);
}

function fail(error) {
  resetResults();
  showAlert(error);
}

/* Models */

async function loadModels(signal) {
  if (models.length) return;
  const answer = await fetchModels(signal);
  models = answer.models.filter(({ input }) => input.kind === "image");
  if (!models.length) throw new ApiError("No model here takes images.", "This page draws images; see /docs for numbers.");
  const options = models.map(({ name }) => new Option(name, name, false, name === answer.default));
  element("model").replaceChildren(...options);
  element("model-field").hidden = models.length < 2;
  chooseModel();
}

const currentModel = () => models.find(({ name }) => name === element("model").value);

function chooseModel() {
  const { num_networks: held } = currentModel().sampler;
  for (const input of [element("size"), element("size-slider")]) {
    input.dataset.max ??= input.max;
    input.max = Math.min(input.dataset.max, held ?? Infinity);
  }
  setSize(element("size").value);
  resetResults();
}

function resetResults() {
  if (models.length) results.reset(currentModel());
}

/* Images */

const currentImage = (model) => chosenFile ?? (pad.isEmpty() ? null : pad.toFile(model.input));

function startDrawing() {
  cancel();
  if (chosenFile) forgetFile();
  element("pad").classList.add("used");
}

function useFile(file) {
  if (!file) return;
  pad.clear();
  chosenFile = file;
  showImage(element("pad-image"), file);
  element("pad").classList.add("used");
  ask();
}

function forgetFile() {
  chosenFile = null;
  hideImage(element("pad-image"));
}

const useExample = ({ src }) => work(async (signal) => useFile(await fetchImage(src, signal)));

function clear() {
  cancel();
  pad.clear();
  forgetFile();
  element("pad").classList.remove("used");
  hideSent();
  hideAlert();
  resetResults();
}

function showSent(image) {
  const url = showImage(element("sent-image"), image);
  element("sent-name").textContent = image.name;
  Object.assign(element("sent-download"), { href: url, download: image.name, hidden: false });
}

function hideSent() {
  hideImage(element("sent-image"));
  element("sent-name").textContent = "nothing yet";
  element("sent-download").hidden = true;
}

function showImage(image, file) {
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.hidden = false;
  return image.src;
}

function hideImage(image) {
  URL.revokeObjectURL(image.src);
  image.removeAttribute("src");
  image.hidden = true;
}

/** Few pixels are shown as they are, many are smoothed; what the browser cannot show is hidden. */
function fitImage(image) {
  image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth <= 64));
  image.addEventListener("error", () => (image.hidden = true));
}

/* Options */

function setSize(value) {
  const { min, max } = element("size");
  const size = Math.min(max, Math.max(min, Math.round(value) || 1));
  element("size").value = element("size-slider").value = size;
}

function drawAgain() {
  element("seed").value = "";
  showWhetherKept();
  ask();
}

function keepSeed() {
  element("seed").value = element("used-seed").textContent;
  showWhetherKept();
}

function showWhetherKept() {
  const kept = element("seed").value === element("used-seed").textContent;
  element("keep-seed").textContent = kept ? "Seed kept" : "Keep this seed";
}

async function copyCommand() {
  const button = element("copy");
  await navigator.clipboard.writeText(element("curl").textContent);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

/* Alert */

function showAlert({ message, hint = "" }) {
  element("alert-message").textContent = message;
  element("alert-hint").textContent = hint;
  element("alert-body").hidden = false;
}

function hideAlert() {
  element("alert-body").hidden = true;
}

/* Events */

const listen = (id, type, handler) => element(id).addEventListener(type, handler);

listen("clear", "click", clear);
listen("file", "change", ({ target }) => {
  useFile(target.files[0]);
  target.value = ""; // so that choosing the same file again counts as a change
});
document.querySelectorAll(".examples button").forEach((button) => {
  button.addEventListener("click", () => useExample(button.firstElementChild));
});

document.addEventListener("paste", ({ clipboardData }) => useFile(clipboardData.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("pad").classList.add("target");
});
document.addEventListener("dragleave", () => element("pad").classList.remove("target"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("pad").classList.remove("target");
  useFile(event.dataTransfer.files[0]);
});

listen("model", "change", chooseModel);
listen("size-slider", "input", ({ target }) => setSize(target.value));
listen("size", "change", ({ target }) => setSize(target.value));
listen("size", "input", ({ target }) => (element("size-slider").value = target.value));
listen("seed", "input", showWhetherKept);
listen("options", "change", askSoon);
listen("options", "submit", (event) => {
  event.preventDefault();
  ask();
});
listen("draw-again", "click", drawAgain);
listen("keep-seed", "click", keepSeed);
listen("copy", "click", copyCommand);
listen("retry", "click", () => work(latest));
listen("dismiss", "click", hideAlert);

fitImage(element("pad-image"));
fitImage(element("sent-image"));
element("copy").hidden = !navigator.clipboard; // browsers offer it to secure pages only
work(loadModels);
