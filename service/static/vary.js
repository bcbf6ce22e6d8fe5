/** The view in which sliders change the image, and uncertainty moves. */

import { predict, predictUrl } from "./api.js";
import { createCall, curlUpload, pythonClient, quote } from "./call.js";
import { createChart } from "./chart.js";
import { writeLabel } from "./labels.js";
import { decimal, percent, plural } from "./numbers.js";
import { addNoise, blend, readPixels, rotate, show, toFile } from "./pixels.js";

const SWEEP = 24; // images of a sweep, about
const NAME = "varied.png";
const SLIDERS = { rotation: "°", noise: "%", blend: "%" };

const element = (id) => document.getElementById(id);
const write = (id, text) => (element(id).textContent = text);

export const createVary = (studio) => {
  const chart = createChart(element("vary-chart"));
  const call = createCall("vary");
  const ownSeed = String(Math.floor(Math.random() * 2 ** 53)); // one for all positions, so that only the image changes
  const visited = new Map(); // uncertainty by the position of the slider that moves
  let moving = "rotation";
  let curve = null; // what else the visited positions have in common
  let asked = null; // the last question
  let others = []; // images that can be blended in, <img>s

  const offerOthers = () => {
    const [select, next] = [element("blend-with"), studio.others().map(({ image }) => image)];
    if (next.length === others.length && next.every((image, i) => image === others[i])) return;
    const before = others[select.selectedIndex];
    others = next;
    select.replaceChildren(...others.map(({ alt }) => new Option(alt.replace(/^[^:]*: /, "with "))));
    const at = others.indexOf(before);
    select.selectedIndex = at >= 0 ? at : Math.min(1, others.length - 1);
    select.hidden = element("blend").disabled = others.length === 0;
    element("blend-none").hidden = others.length > 0;
    if (!others.length) element("blend").value = 0;
    writeSettings();
  };

  const position = (id) => Number(element(id).value);
  const settings = () => Object.fromEntries(Object.keys(SLIDERS).map((id) => [id, position(id)]));
  const writeSettings = () => {
    for (const [id, unit] of Object.entries(SLIDERS)) {
      element(id).labels[0].lastElementChild.value = `${position(id)}${unit}`;
    }
    write("sweep", `Sweep ${moving}`);
  };

  const change = (pixels, other, { rotation, noise, blend: share }) => {
    const turned = rotate(pixels, rotation);
    return addNoise(other ? blend(turned, other, share / 100) : turned, noise / 100);
  };

  const load = async ({ model, image }) => {
    const other = others[element("blend-with").selectedIndex];
    return { pixels: await readPixels(image, model.input), other: other && (await readPixels(other, model.input)) };
  };

  /** Forgets the positions of another curve. */
  const follow = ({ model, size, seed }, { pixels, other }, changes) => {
    const others = { ...changes, [moving]: null };
    const next = JSON.stringify([moving, model.name, size, seed, others, String(pixels.data), String(other?.data)]);
    if (next !== curve) visited.clear();
    curve = next;
  };

  const showCurve = (flag, classes) => {
    const [low, high, unit] = [Number(element(moving).min), Number(element(moving).max), SLIDERS[moving]];
    const sorted = [...visited].sort(([a], [b]) => a - b);
    const line = (name) => sorted.map(([at, uncertainty]) => [at, uncertainty[name]]);
    const scale = { predictive_entropy: "muted", mutual_information: "disagreement" }[flag?.score_name];
    const threshold = scale ? flag.threshold : null;
    const most = Math.max(...sorted.map(([, uncertainty]) => uncertainty.predictive_entropy));
    const top = Math.min(1.05 * Math.log(classes), Math.max(0.2, 1.3 * (threshold ?? 0), 1.1 * most));
    const limit = threshold === null ? [] : [[low, threshold], [high, threshold]];
    const only = asked.model.sampler.num_networks === 1;
    const [at, now] = [position(moving), visited.get(position(moving))];
    const summary = now
      ? `At ${moving} ${at}${unit}: predictive entropy ${decimal(now.predictive_entropy)} nats` +
        (only ? "." : `, of it ${decimal(now.mutual_information)} mutual information.`)
      : "";
    chart.show(
      {
        x: {
          min: low,
          max: high,
          label: moving,
          format: (value) => `${value}${unit}`,
          ticks: [0, 1, 2, 3, 4].map((i) => low + (i * (high - low)) / 4),
        },
        y: { min: 0, max: top },
        lines: [
          { points: limit, color: scale ?? "muted", width: 1, dash: [4, 4] },
          { points: only ? [] : line("mutual_information"), color: "disagreement", dots: 3 },
          { points: line("predictive_entropy"), color: "ambiguity", dots: 3 },
        ],
        marks: [{ x: at, color: "muted", dash: [1, 3] }],
      },
      `Predictive entropy ${only ? "" : "and mutual information "}against ${moving}, at ${sorted.length} positions. ${summary}`,
    );
    write("vary-caption", `Uncertainty against ${moving}, in nats`);
    if (summary) write("summary", summary);
  };

  const sweep = async (signal) => {
    const loaded = await load(asked);
    const { min, max, step } = element(moving);
    const stride = Math.max(1, Math.round((max - min) / SWEEP / step)) * step;
    const length = Math.floor((max - min) / stride + 1e-9) + 1;
    const positions = Array.from({ length }, (_, i) => Number(min) + i * stride);
    const changes = settings();
    const files = await Promise.all(
      positions.map((at) => toFile(change(loaded.pixels, loaded.other, { ...changes, [moving]: at }), NAME)),
    );
    follow(asked, loaded, changes);
    const answer = await predict(asked.model.name, files, { ...asked, members: false }, signal);
    answer.predictions.forEach(({ uncertainty }, i) => visited.set(positions[i], uncertainty));
    showCurve(answer.predictions[0].flags.out_of_distribution, asked.model.task.classes.length);
  };

  for (const id of Object.keys(SLIDERS)) {
    element(id).addEventListener("input", () => {
      moving = id;
      writeSettings();
      studio.askLive();
    });
  }
  element("blend-with").addEventListener("change", () => studio.ask());
  element("sweep").addEventListener("click", () => studio.work(sweep));
  element("straighten").addEventListener("click", () => {
    Object.keys(SLIDERS).forEach((id) => (element(id).value = 0));
    writeSettings();
    studio.ask();
  });
  writeSettings();

  return {
    reset: () => {
      visited.clear();
      curve = asked = null;
      element("sweep").disabled = true;
      chart.clear();
      call.clear();
      writeLabel(element("varied-label"), "–");
      write("varied-probability", "–");
      write("vary-note", "Draw something, or choose an image. Then move a slider.");
      element("varied-image").hidden = true;
      offerOthers();
    },

    ask: async (question, signal) => {
      if (!question.image) return;
      asked = { ...question, seed: question.seed || ownSeed };
      const { model, size, seed } = asked;
      offerOthers();
      const loaded = await load(asked);
      const [changes, slider] = [settings(), moving]; // which may move on before there is an answer
      const changed = change(loaded.pixels, loaded.other, changes);
      element("varied-image").hidden = false;
      show(element("varied-image"), changed);
      const file = await toFile(changed, NAME);
      const { predictions } = await predict(model.name, [file], { size, seed, members: false }, signal);
      studio.showSent(file);
      const [{ label, class_index: winner, probabilities, uncertainty, flags }] = predictions;
      if (slider !== moving) return;
      follow(asked, loaded, changes);
      visited.set(changes[slider], uncertainty);
      element("sweep").disabled = false;
      writeLabel(element("varied-label"), label);
      const flag = flags.out_of_distribution;
      const said = flag ? `, out of distribution: ${flag.flagged ? "flagged" : "no flag"}` : "";
      write("varied-probability", `${percent(probabilities[winner])}${said}`);
      write("vary-note", `The same ${plural(size, "network")} of seed ${seed} answered at every position.`);
      showCurve(flags.out_of_distribution, model.task.classes.length);
      call.show(
        curlUpload(predictUrl(model.name, { size, seed, members: false }), NAME),
        pythonClient("answer", "predict", [quote(NAME)], { model: quote(model.name), ensemble_size: size, seed }),
      );
    },
  };
};
