/** The view of weight space: networks side by side, as points, and on the way from one to another. */

import { download, fetchNetworks, networksUrl, walk, walkUrl, weightsUrl } from "./api.js";
import { createCall, curlDownload, curlUpload, pythonClient, pythonUpload, quote } from "./call.js";
import { createChart } from "./chart.js";
import { percent } from "./numbers.js";
import { findComponents } from "./pca.js";
import { readTensors } from "./safetensors.js";

const COUNT = 32; // networks that are shown
const FILTERS = 16; // of each, at most
const COLUMNS = 4;
const POINTS = 41; // of a walk
const REACH = 24; // CSS pixels around a point that count as it
const NAMED = 4; // classes of a walk that have a colour
const CONSIDERABLE = 0.05; // the probability from which a class of a walk is worth one

const LEAP = "This model's networks come from separate modes; no latents lie between two of them, so the path leaps midway.";

const element = (id) => document.getElementById(id);
const write = (id, text) => (element(id).textContent = text);

export const createWeights = (studio) => {
  const scatter = createChart(element("scatter"));
  const charts = { straight: createChart(element("straight")), latent: createChart(element("latent")) };
  const calls = { weights: createCall("weights"), walk: createCall("walk") };
  const ownSeed = String(Math.floor(Math.random() * 2 ** 53));
  let shown = null; // which networks: { model, seed, count, key, points, explained }
  let chosen = null;

  const tile = (member) => element("networks").children[member];

  const point = (member) => {
    const lit = member ?? chosen;
    [...element("networks").children].forEach((other, i) => other.classList.toggle("lit", i === lit));
    showScatter(lit);
    if (lit === null) return;
    write("chosen", `Network ${lit} of seed ${shown.seed}`);
    const href = weightsUrl(shown.model, shown.seed, lit);
    Object.assign(element("chosen-download"), { href, hidden: false, onclick: download });
    element("walk-from").disabled = element("walk-to").disabled = false;
  };

  const choose = (member) => {
    chosen = member;
    [...element("networks").children].forEach((other, i) => other.setAttribute("aria-pressed", i === member));
    point(member);
  };

  const showScatter = (lit) => {
    const { points, explained } = shown;
    const limit = 1.15 * Math.max(...points.flat().map(Math.abs), 1e-9);
    const ends = ["from", "to"].map((id) => Number(element(id).value)).filter((end) => end < points.length);
    const name = (i) => `component ${i + 1}, ${percent(explained[i])} of the variance`;
    const axis = (i) => ({ min: -limit, max: limit, label: name(i) });
    const mark = (member, color) => ({ points: [points[member]], width: 0, dots: 6, color, label: String(member) });
    scatter.show(
      {
        x: axis(0),
        y: axis(1),
        lines: [
          { points, width: 0, dots: 4, color: "ambiguity", opacity: 0.6 },
          ...ends.map((end) => mark(end, "ink")),
          ...(lit === null ? [] : [mark(lit, "disagreement")]),
        ],
      },
      `${points.length} networks on two principal components of their weights, which explain ` +
        `${percent(explained[0])} and ${percent(explained[1])} of the variance.`,
    );
  };

  const showNetworks = async ({ model, seed }, signal) => {
    const count = Math.min(COUNT, model.sampler.num_networks ?? COUNT);
    const key = JSON.stringify([model.name, model.version, seed, count]);
    if (shown?.key === key) return;
    const tensors = readTensors(await fetchNetworks(model.name, seed, count, signal));
    const vectors = Array.from({ length: count }, (_, i) => Object.values(tensors).map((tensor) => slice(tensor, i)));
    shown = { model: model.name, seed, count, key, ...findComponents(vectors) };
    chosen = null;
    element("networks").replaceChildren(...drawNetworks(Object.values(tensors).find(({ shape }) => shape.length > 2)));
    point(null);
    write(
      "weights-note",
      `${count} networks of seed ${seed}, as they were drawn: each filter grey where its weights are 0, brighter above, ` +
        "darker below. Networks that compute the same may lie apart, as filters may change places.",
    );
    calls.weights.show(
      curlDownload(networksUrl(model.name, seed, count), "networks.safetensors"),
      pythonClient("networks", "sample", [], { model: quote(model.name), seed, count, dtype: quote("float16") }),
    );
  };

  const showWalk = async ({ model, image, seed }, signal) => {
    const [from, to] = ["from", "to"].map((id) => {
      if (!element(id).reportValidity()) return null;
      return Number(element(id).value);
    });
    if (from === null || to === null) return;
    const options = { seed, from, to, points: POINTS };
    studio.showSent(image);
    const { outputs, paths } = await walk(model.name, image, options, signal);
    const named = chooseClasses(Object.values(paths).flat());
    element("latent-figure").hidden = !paths.latent;
    for (const [kind, path] of Object.entries(paths)) {
      charts[kind].show(drawWalk(path, outputs, named, from, to), describeWalk(kind, path, outputs));
    }
    element("walk-key").replaceChildren(...named.map((k, i) => createKey(`series-${i + 1}`, outputs[k])));
    const kinds = ["straight", "latent"].filter((kind) => paths[kind]);
    const text = kinds.map((kind) => describeWalk(kind, paths[kind], outputs)).join(" ");
    write("walk-note", model.method === "hyperdraw" ? `${text} ${LEAP}` : text);
    write("summary", text);
    const path = walkUrl(model.name, options);
    calls.walk.show(curlUpload(path, image.name), pythonUpload(path, image.name));
  };

  const drawNetworks = ({ shape, values }) => {
    const size = values.length / shape[0];
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
    return Array.from({ length: shape[0] }, (_, member) => {
      const canvas = document.createElement("canvas");
      drawFilters(canvas, shape.slice(1), values.subarray(member * size, (member + 1) * size), largest);
      const button = Object.assign(document.createElement("button"), { type: "button", className: "network" });
      button.setAttribute("aria-label", `Network ${member}`);
      button.setAttribute("aria-pressed", false);
      button.append(canvas);
      button.addEventListener("pointerenter", () => point(member));
      button.addEventListener("pointerleave", () => point(null));
      button.addEventListener("focus", () => point(member));
      button.addEventListener("click", () => choose(member));
      return button;
    });
  };

  const nearest = ({ clientX, clientY }) => {
    if (!shown) return null;
    const { left, top } = element("scatter").getBoundingClientRect();
    const distances = shown.points.map((at) => {
      const [x, y] = scatter.place(at);
      return Math.hypot(x + left - clientX, y + top - clientY);
    });
    const best = distances.indexOf(Math.min(...distances));
    return distances[best] < REACH ? best : null;
  };

  element("scatter").addEventListener("pointermove", (event) => shown && point(nearest(event)));
  element("scatter").addEventListener("pointerleave", () => shown && point(null));
  element("scatter").addEventListener("click", (event) => {
    const member = nearest(event);
    if (member === null) return;
    choose(member);
    tile(member).scrollIntoView({ block: "nearest" });
  });
  for (const end of ["from", "to"]) {
    element(end).addEventListener("change", () => studio.ask());
    element(`walk-${end}`).addEventListener("click", () => {
      element(end).value = /\d+/.exec(element("chosen").textContent)[0];
      studio.ask();
    });
  }

  return {
    reset: (model) => {
      shown = chosen = null;
      element("networks").replaceChildren();
      [scatter, charts.straight, charts.latent].forEach((chart) => chart.clear());
      Object.values(calls).forEach((call) => call.clear());
      element("walk-key").replaceChildren();
      element("chosen-download").hidden = true;
      element("walk-from").disabled = element("walk-to").disabled = true;
      write("chosen", "Point at a network, or choose one.");
      write("weights-note", "–");
      write("walk-note", "Draw something, or choose an example.");
      for (const end of ["from", "to"]) element(end).max = (model.sampler.num_networks ?? 2 ** 32) - 1;
    },

    ask: async (question, signal) => {
      const named = { ...question, seed: question.seed || ownSeed };
      await showNetworks(named, signal);
      if (question.image) await showWalk(named, signal);
      point(null);
    },
  };
};

const slice = ({ shape, values }, member) => {
  const size = values.length / shape[0];
  return values.subarray(member * size, (member + 1) * size);
};

/** Filters [filters, …, height, width] of one network, or rows [filters, inputs], side by side; of channels the first. */
const drawFilters = (canvas, shape, values, largest) => {
  const width = shape.at(-1);
  const height = shape.length > 2 ? shape.at(-2) : 1;
  const count = Math.min(FILTERS, shape[0]);
  const columns = shape.length > 2 ? COLUMNS : 1;
  const size = values.length / shape[0];
  canvas.width = columns * (width + 1) + 1;
  canvas.height = Math.ceil(count / columns) * (height + 1) + 1;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  for (let filter = 0; filter < count; filter++) {
    const [left, top] = [1 + (filter % columns) * (width + 1), 1 + Math.floor(filter / columns) * (height + 1)];
    for (let i = 0; i < width * height; i++) {
      const at = 4 * ((top + Math.floor(i / width)) * canvas.width + left + (i % width));
      pixels.data.fill(128 + (127 * values[filter * size + i]) / largest, at, at + 3);
      pixels.data[at + 3] = 255;
    }
  }
  context.putImageData(pixels, 0, 0);
};

/** The classes that are considerable somewhere on the paths, the most probable first. */
const chooseClasses = (points) =>
  points[0]
    .map((_, k) => [k, Math.max(...points.map((row) => row[k]))])
    .filter(([, most]) => most >= CONSIDERABLE)
    .sort(([, a], [, b]) => b - a)
    .slice(0, NAMED)
    .map(([k]) => k);

const drawWalk = (path, outputs, named, from, to) => {
  const line = (k) => path.map((row, i) => [i / (path.length - 1), row[k]]);
  return {
    x: { min: 0, max: 1, ticks: [0, 1], format: (end) => (end ? `network ${to}` : `network ${from}`) },
    y: { min: 0, max: 1, ticks: [0, 0.5, 1], format: (share) => `${100 * share}%` },
    lines: [
      ...outputs.map((_, k) => ({ points: line(k), color: "field-line", width: 1, opacity: 0.5 })),
      ...named.map((k, i) => ({ points: line(k), color: `series-${i + 1}` })),
    ],
  };
};

const describeWalk = (kind, path, outputs) => {
  const labels = path.map((row) => outputs[row.indexOf(Math.max(...row))]);
  const turns = labels.filter((label, i) => i === 0 || label !== labels[i - 1]);
  const way = kind === "straight" ? "Straight between the weights" : "Between the latents";
  const said = turns.slice(0, 8).join(", then ");
  return `${way}, networks say ${said}${turns.length > 8 ? ", and so on" : ""}.`;
};

const createKey = (color, label) => {
  const key = document.createElement("span");
  const swatch = document.createElement("i");
  swatch.className = `swatch ${color}`;
  key.append(swatch, label);
  return key;
};
