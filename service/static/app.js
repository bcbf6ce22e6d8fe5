/** The page: joins the inputs (pad, files, options) to the service and to the views of what it answers. */

import { ApiError, fetchExamples, fetchModel, fetchModels, fetchPageExamples, predict } from "./api.js";
import { createAttack } from "./attack.js";
import { createCertify } from "./certify.js";
import { createCurve } from "./curve.js";
import { createDraw } from "./draw.js";
import { createExamples } from "./examples.js";
import { createFlags } from "./flags.js";
import { createMonitor } from "./monitor.js";
import { createPad } from "./pad.js";
import { hideFile, openImage, showFile } from "./pixels.js";
import { createResults } from "./results.js";
import { createRow } from "./row.js";
import { createScore } from "./score.js";
import { createSettings } from "./settings.js";
import { createTabs } from "./tabs.js";
import { createVary } from "./vary.js";
import { createWeights } from "./weights.js";
import { createWrite } from "./write.js";

const PAUSE = 350; // milliseconds without a change before a prediction is asked for
const LIVE_PAUSE = 60; // between two questions while a slider moves, so that some are answered on the way
const PATIENCE = 3000; // milliseconds until the page says that it still waits

const element = (id) => document.getElementById(id);

let models = [];
let candidate = null; // an image that the service has not taken yet, and what the pad held before: { file, before }
let opening = 0; // counts the images that were chosen, of which the last one counts
let running = null; // the AbortController of the work in progress
let latest = null; // the task that was started last, for another try
let timer = null;
let liveSince = 0; // when the last question was asked that a slider's move brought

const pad = createPad(element("pad-canvas"), { onStart: startDrawing, onEnd: askSoon });
const examples = createExamples(element("offers"), useFile);
const settings = createSettings(() => views[tabs.current()].ask && askSoon());
const studio = { ask, askLive, askSoon, cancel, describe, work, showSent, others, read, setSeed: settings.setSeed };
const results = createResults(element("answer"));
const flags = createFlags();
/**
 * Each can `reset(model)`, and `ask(question, signal)`, which shows what the service answers. One without `ask` waits
 * for its own button.
 */
const views = {
  answer: { reset: resetAnswer, ask: askAnswer },
  vary: createVary(studio),
  attack: createAttack(studio),
  certify: createCertify(studio),
  weights: createWeights(studio),
  curve: createCurve(),
  row: createRow(studio),
  monitor: createMonitor(studio),
  write: createWrite(studio),
  score: createScore(studio),
  draw: createDraw(studio),
};
const tabs = createTabs(document.querySelector(".tabs"), ask);

/* Asking */

function askSoon() {
  clearTimeout(timer);
  timer = setTimeout(ask, PAUSE);
}

function askLive() {
  clearTimeout(timer);
  const wait = liveSince + LIVE_PAUSE - performance.now();
  if (wait > 0) {
    timer = setTimeout(askLive, wait);
    return;
  }
  liveSince = performance.now();
  ask();
}

function ask() {
  return work(async (signal) => {
    await loadModels(signal);
    const model = currentModel();
    const image = isOfImages(model) ? await pad.toFile(model.input) : null;
    try {
      await views[tabs.current()].ask?.({ image, ...read() }, signal);
    } catch (error) {
      if (!error.isOfImage || !candidate) throw error;
      showPad(candidate.before);
      candidate = null;
      throw Object.assign(error, { message: error.message.replace(`image 0 (${image.name})`, image.name) });
    }
    if (image) keepCandidate();
  });
}

/** What all questions have in common. */
function read() {
  return { model: currentModel(), ...settings.read() };
}

async function askAnswer({ model, image, auto, ...options }, signal) {
  if (!image) return;
  const asked = auto ? { ...options, size: "auto", members: false } : options;
  const answer = await predict(model.name, [image], asked, signal);
  showSent(image);
  results.show(answer, model, image);
  showWhetherKept();
  if (auto) flags.reset(); // whose figure is about ensembles of one size
  else flags.show(answer.predictions[0].flags, await describe(model, answer.model.version, signal));
}

function resetAnswer(model) {
  results.reset(model);
  flags.reset();
}

/** Run one task at a time: the newest aborts the one before it. A task can say that its answer begins to arrive. */
async function work(task) {
  cancel();
  const controller = new AbortController();
  running = controller;
  latest = task;
  setBusy(true);
  const slow = { message: "The server is taking a while.", hint: "Still waiting for an answer." };
  const waiting = setTimeout(() => showAlert(slow), PATIENCE);
  controller.signal.addEventListener("abort", () => clearTimeout(waiting));
  const arrive = () => {
    clearTimeout(waiting);
    if (running !== controller) return;
    hideAlert();
    setBusy(false);
  };
  try {
    await task(controller.signal, arrive);
    if (running === controller) hideAlert();
  } catch (error) {
    if (running === controller) fail(error);
  } finally {
    clearTimeout(waiting);
    if (running === controller) setBusy(false);
  }
}

function cancel() {
  clearTimeout(timer);
  running?.abort();
  running = null;
  setBusy(false);
}

function setBusy(busy) {
  element("card").setAttribute("aria-busy", busy);
  element("card").classList.toggle("busy", busy);
}

/** An image that is refused changes nothing. */
function fail(error) {
  if (!error.isOfImage) {
    reset();
    hideSent();
  }
  showError(error);
}

function showError(error) {
  showAlert(error);
  element("alert-body").scrollIntoView({ block: "nearest" });
}

/* Models */

async function loadModels(signal) {
  if (models.length) return;
  const answer = await fetchModels(signal);
  models = answer.models.filter((model) => isOfImages(model) || isOfRows(model) || isOfText(model) || isOfStrokes(model));
  if (!models.length) throw new ApiError("This page can show none of the models.", "It shows models of images, rows, text or drawings; see /docs for others.");
  const options = models.map(({ name }) => new Option(name, name, false, name === answer.default));
  element("model").replaceChildren(...options);
  element("model-field").hidden = models.length < 2;
  chooseModel();
}

const isOfImages = ({ input, task }) => input.kind === "image" && task.kind === "classification";

const isOfRows = ({ input }) => input.kind === "vector" || input.kind === "table";

const isOfText = ({ input }) => input.kind === "text";

const isOfStrokes = ({ input }) => input.kind === "strokes";

/** One number in, one number out. */
const isOfNumbers = ({ input, task }) =>
  input.kind === "vector" && task.kind === "regression" && input.names.length === 1 && task.names.length === 1;

const currentModel = () => models.find(({ name }) => name === element("model").value);

/** One grey channel, and the digits as classes. */
const isOfDigits = ({ input, task }) => input.channels === 1 && task.classes?.join("") === "0123456789";

function chooseModel() {
  const model = currentModel();
  settings.offer(model);
  offerExamples(model);
  element("pad-hint").textContent = isOfDigits(model)
    ? "Draw a digit here, or drop or paste an image"
    : "Draw, drop, paste or photograph an image";
  element("image").hidden = element("sent").hidden = !isOfImages(model);
  const single = model.sampler.num_networks === 1;
  document.body.classList.toggle("single", single);
  element("seed-field").hidden = single && model.task.kind !== "sequence"; // which a single network draws, too
  reset();
  tabs.offer(kindOf(model), model.backbone ? ["attack", "certify"] : []); // which need the networks to see the image themselves
}

const kindOf = (model) => {
  if (isOfImages(model)) return "image";
  if (isOfText(model)) return "text";
  if (isOfStrokes(model)) return "strokes";
  return isOfNumbers(model) ? "number" : "row";
};

const VIEWS = {
  image: ["answer", "vary", "attack", "certify", "weights", "monitor"],
  number: ["curve", "monitor"],
  row: ["row", "monitor"],
  text: ["write", "score"],
  strokes: ["draw"],
};

function reset() {
  const model = currentModel();
  if (!model) return;
  VIEWS[kindOf(model)].forEach((name) => views[name].reset(model));
}

const descriptions = new Map();

async function describe({ name }, version, signal) {
  const key = `${version} ${name}`; // models of one version may have different examples
  if (!descriptions.has(key)) descriptions.set(key, await fetchModel(name, signal));
  return descriptions.get(key);
}

/* Images */

/** A model's own examples. A model of digits without any gets those of the page. */
async function offerExamples(model) {
  results.invite("Draw something, or choose an image. The answer appears here.");
  const find = async () => {
    if (!isOfImages(model)) return [];
    const { examples: own, calibration } = await describe(model, model.version);
    if (model === currentModel()) settings.offerAuto(Boolean(calibration?.stopping));
    if (own.length || !isOfDigits(model)) return fetchExamples(own, model.name);
    return fetchExamples(await fetchPageExamples());
  };
  try {
    await examples.offer(find);
  } catch (error) {
    showError(error);
  }
  if (examples.offered().length) results.invite("Choose an example, draw something, or open an image. The answer appears here.");
}

function showPad(content) {
  pad.show(content);
  showWhetherUsed();
}

function showWhetherUsed() {
  element("pad").classList.toggle("used", !pad.isEmpty());
}

function startDrawing() {
  cancel();
  showWhetherUsed();
}

/** Shows an image in place of what the pad holds, and asks about it. */
async function useFile(file) {
  if (!file) return;
  const turn = ++opening;
  try {
    const image = await openImage(file);
    if (turn !== opening) return;
    candidate = { file: image.file, before: candidate?.before ?? pad.content() };
    showPad({ ...image, strokes: [] });
    ask();
  } catch (error) {
    showError(error);
  }
}

function keepCandidate() {
  if (candidate) examples.add(candidate.file);
  candidate = null;
}

/** The images that are on offer besides the one that is shown. */
function others() {
  return examples.offered().filter(({ file }) => file !== pad.content().file);
}

function clear() {
  cancel();
  opening++;
  candidate = null;
  pad.clear();
  showWhetherUsed();
  hideSent();
  hideAlert();
  reset();
}

function showSent(image) {
  const url = showFile(element("sent-image"), image);
  element("sent-name").textContent = image.origin ?? image.name;
  Object.assign(element("sent-download"), { href: url, download: image.name, hidden: false });
}

function hideSent() {
  hideFile(element("sent-image"));
  element("sent-name").textContent = "nothing yet";
  element("sent-download").hidden = true;
}

/** Few pixels are shown as they are, many are smoothed; what the browser cannot show is hidden. */
function fitImage(image) {
  image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth <= 64));
  image.addEventListener("error", () => (image.hidden = true));
}

/* Options */

function drawAgain() {
  const { seed } = settings.read();
  settings.setSeed("", seed && `Seed ${seed} is no longer kept.`);
  showWhetherKept();
  ask();
}

function keepSeed() {
  settings.setSeed(element("used-seed").textContent);
  showWhetherKept();
}

function showWhetherKept() {
  const kept = settings.read().seed === element("used-seed").textContent;
  element("keep-seed").textContent = kept ? "Seed kept" : "Keep this seed";
}

/* Alert */

function showAlert({ message, hint = "", isFinal = false }) {
  element("alert-message").textContent = message;
  element("alert-hint").textContent = hint;
  element("retry").hidden = isFinal;
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

listen("model", "change", () => {
  chooseModel();
  ask();
});
document.addEventListener("submit", (event) => event.preventDefault());
listen("draw-again", "click", drawAgain);
listen("keep-seed", "click", keepSeed);
listen("retry", "click", () => work(latest));
listen("dismiss", "click", hideAlert);

fitImage(element("sent-image"));
work(loadModels);
