/** The view of weight space: networks side by side, as points, and on the way from one to another. */

import { download, fetchNetworks, networksUrl, walk, walkUrl, weightsUrl } from "./api.js";
import { createCall, curlDownload, curlUpload, pythonClient, pythonUpload, quote } from "./call.js";
import { createChart } from "./chart.js";
import { percent, plural, quantile } from "./numbers.js";
import { findComponents } from "./pca.js";
import { readTensors } from "./safetensors.js";

const COUNT = 32; // networks that are shown
const FILTERS = 16; // of each, at most
const COLUMNS = 4;
const FULL = 0.99; // quantile of the weights' sizes that has the full colour
const POINTS = 41; // of a walk
const REACH = 24; // CSS pixels around a point that count as it
const TOGETHER = 0.025; // of the chart's range, to which points that close count as one place
const NAMED = 6; // classes of a walk that have a colour
const CONSIDERABLE = 0.05; // the probability from which a class of a walk is worth one, and a step of it a leap
const SHARP = 4; // times the next largest step, a leap

const LEAP = "This model's networks come from separate modes. No latents lie between two modes, so the path jumps halfway.";

const element = (id) => document.getElementById(id);
const write = (id, text) => (element(id).textContent = text);

export const createWeights = (studio) => {
  const scatter = createChart(element("scatter"));
  const charts = { straight: createChart(element("straight")), latent: createChart(element("latent")) };
  const calls = { weights: createCall("weights"), walk: createCall("walk") };
  const ownSeed = String(Math.floor(Math.random() * 2 ** 53));
  let shown = null; // which networks: { model, seed, count, key, points, explained }
  let chosen = null;
  let redrawTiles = () => {};

  const tile = (member) => element("networks").children[member];

  const point = (member) => {
    const lit = member ?? chosen;
    [...element("networks").children].forEach((other, i) => other.classList.toggle("lit", i === lit));
    showScatter(lit);
    if (lit === null) return;
    const others = shown.places.find((place) => place.includes(lit)).filter((other) => other !== lit);
    const company = others.length ? `, at the same point as ${others.join(", ")}` : "";
    write("chosen", `Network ${lit} of seed ${shown.seed}${company}`);
    const href = weightsUrl(shown.model, shown.seed, lit);
    Object.assign(element("chosen-download"), { href, hidden: false, onclick: download });
    element("walk-from").disabled = element("walk-to").disabled = false;
  };

  const choose = (member) => {
    chosen = member;
    [...element("networks").children].forEach((other, i) => other.setAttribute("aria-pressed", i === member));
    rove(member);
    point(member);
  };

  /** One of the networks is reached by the tabulator, the others by arrows. */
  const rove = (member) => [...element("networks").children].forEach((other, i) => (other.tabIndex = i === member ? 0 : -1));

  const showScatter = (lit) => {
    const { points, places, limit, explained } = shown;
    const ends = ["from", "to"].map((id) => Number(element(id).value)).filter((end) => end < points.length);
    const name = (i) => `component ${i + 1}, ${percent(explained[i])} of the variance`;
    const axis = (i) => ({ min: -limit, max: limit, label: name(i) });
    const ring = (member, color) => ({ point: points[member], color, label: String(member) });
    const many = places.filter(({ length }) => length > 1);
    scatter.show(
      {
        x: axis(0),
        y: axis(1),
        lines: [{ points, width: 0, dots: 5, color: "ambiguity" }],
        texts: many.map((place) => ({ point: points[place[0]], text: place.length, color: "ambiguity", radius: 8 })),
        rings: [...ends.map((end) => ring(end, "ink")), ...(lit === null ? [] : [ring(lit, "disagreement")])],
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
    const { points, explained } = findComponents(vectors);
    const limit = 1.15 * Math.max(...points.flat().map(Math.abs), 1e-9);
    const places = findPlaces(points, 2 * limit * TOGETHER);
    shown = { model: model.name, seed, count, key, points, explained, limit, places };
    chosen = null;
    const tiles = createTiles(Object.values(tensors).find(({ shape }) => shape.length > 2));
    element("networks").replaceChildren(...tiles.map(({ button }) => button));
    redrawTiles = () => tiles.forEach(({ redraw }) => redraw());
    redrawTiles();
    rove(0);
    point(null);
    write(
      "weights-note",
      `${plural(count, "network")} of seed ${seed}. Blue weights are positive, orange ones are negative. ` +
        "The stronger the colour, the larger the weight.",
    );
    write(
      "scatter-note",
      (places.length < count
        ? `${count} networks lie at ${places.length} points. The number in a dot says how many lie there. `
        : "") + "Networks that compute the same function may lie apart, because the order of their filters is free.",
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
    const { outputs, paths } = await walk(model.name, image, options, signal);
    studio.showSent(image);
    const named = chooseClasses(Object.values(paths).flat());
    element("latent-figure").hidden = !paths.latent;
    for (const [kind, path] of Object.entries(paths)) {
      charts[kind].show(drawWalk(path, outputs, named, from, to), describeWalk(kind, path, outputs));
    }
    const keys = named.map((k, i) => createKey(`series-${i + 1}`, outputs[k]));
    if (named.length < outputs.length) keys.push(createKey("others", "other classes"));
    element("walk-key").replaceChildren(...keys);
    const kinds = ["straight", "latent"].filter((kind) => paths[kind]);
    const text = kinds.map((kind) => describeWalk(kind, paths[kind], outputs)).join(" ");
    write("walk-note", model.method === "hyperdraw" && leaps(paths.latent) ? `${text} ${LEAP}` : text);
    write("summary", text);
    const path = walkUrl(model.name, options);
    calls.walk.show(curlUpload(path, image.name), pythonUpload(path, image.name));
  };

  const createTiles = ({ shape, values }) => {
    const size = values.length / shape[0];
    const large = quantile([...values.map(Math.abs)].sort((a, b) => a - b), FULL);
    return Array.from({ length: shape[0] }, (_, member) => {
      const canvas = document.createElement("canvas");
      const redraw = () => drawFilters(canvas, shape.slice(1), values.subarray(member * size, (member + 1) * size), large);
      const button = Object.assign(document.createElement("button"), { type: "button", className: "network" });
      button.setAttribute("aria-label", `Network ${member}`);
      button.setAttribute("aria-pressed", false);
      button.append(canvas);
      button.addEventListener("pointerenter", () => point(member));
      button.addEventListener("pointerleave", () => point(null));
      button.addEventListener("focus", () => {
        rove(member);
        point(member);
      });
      button.addEventListener("click", () => choose(member));
      return { button, redraw };
    });
  };

  element("networks").addEventListener("keydown", (event) => {
    const tiles = [...element("networks").children];
    const row = getComputedStyle(element("networks")).gridTemplateColumns.split(" ").length;
    const at = tiles.indexOf(document.activeElement);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row, Home: -at, End: tiles.length - 1 - at };
    if (!(event.key in steps)) return;
    event.preventDefault();
    tiles[at + steps[event.key]]?.focus();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redrawTiles());

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
      write("scatter-note", "");
      write("walk-note", "Draw something, or choose an image.");
      for (const end of ["from", "to"]) element(end).max = (model.sampler.num_networks ?? 2 ** 32) - 1;
    },

    ask: async (question, signal) => {
      const named = { ...question, seed: question.seed || ownSeed };
      await showNetworks(named, signal);
      if (question.image && question.model.sampler.num_networks !== 1) await showWalk(named, signal);
      point(null);
    },
  };
};

const slice = ({ shape, values }, member) => {
  const size = values.length / shape[0];
  return values.subarray(member * size, (member + 1) * size);
};

/** Points that lie as close to a place's first as a distance: lists of their numbers. */
const findPlaces = (points, distance) => {
  const places = [];
  points.forEach(([x, y], i) => {
    const near = places.find(([first]) => Math.hypot(x - points[first][0], y - points[first][1]) <= distance);
    if (near) near.push(i);
    else places.push([i]);
  });
  return places;
};

/**
 * Filters [filters, …, height, width] of one network, or rows [filters, inputs], side by side; of channels the first.
 * Colours are as strong as weights are large, up to a limit.
 */
const drawFilters = (canvas, shape, values, large) => {
  const width = shape.at(-1);
  const height = shape.length > 2 ? shape.at(-2) : 1;
  const count = Math.min(FILTERS, shape[0]);
  const columns = shape.length > 2 ? COLUMNS : 1;
  const size = values.length / shape[0];
  canvas.width = columns * (width + 1) + 1;
  canvas.height = Math.ceil(count / columns) * (height + 1) + 1;
  const context = canvas.getContext("2d");
  const color = (name) => getComputedStyle(canvas).getPropertyValue(`--${name}`);
  const [ground, above, below] = ["page", "ambiguity", "disagreement"].map(color);
  for (let filter = 0; filter < count; filter++) {
    const [left, top] = [1 + (filter % columns) * (width + 1), 1 + Math.floor(filter / columns) * (height + 1)];
    context.globalAlpha = 1;
    context.fillStyle = ground;
    context.fillRect(left, top, width, height);
    for (let i = 0; i < width * height; i++) {
      const value = values[filter * size + i];
      context.globalAlpha = Math.min(1, Math.abs(value) / large);
      context.fillStyle = value > 0 ? above : below;
      context.fillRect(left + (i % width), top + Math.floor(i / width), 1, 1);
    }
  }
};

/** The classes that are considerable somewhere on the paths: first those that win, then the most probable. */
const chooseClasses = (points) => {
  const winners = new Set(points.map((row) => row.indexOf(Math.max(...row))));
  return points[0]
    .map((_, k) => [k, Math.max(...points.map((row) => row[k])) + (winners.has(k) ? 1 : 0)])
    .filter(([, most]) => most >= CONSIDERABLE)
    .sort(([, a], [, b]) => b - a)
    .slice(0, NAMED)
    .map(([k]) => k);
};

/** Whether one step of a path is considerable, and far larger than all others. */
const leaps = (path) => {
  const steps = path.slice(1).map((row, i) => Math.max(...row.map((share, k) => Math.abs(share - path[i][k]))));
  const [largest, next] = steps.sort((a, b) => b - a);
  return largest >= CONSIDERABLE && largest >= SHARP * next;
};

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
  const way = kind === "straight" ? "On the straight line between the weights" : "On the path between the latents";
  const said = turns.slice(0, 8).join(", then ");
  return `${way}, the networks say ${said}${turns.length > 8 ? ", and so on" : ""}.`;
};

const createKey = (color, label) => {
  const key = document.createElement("span");
  const swatch = document.createElement("i");
  swatch.className = `swatch ${color}`;
  key.append(swatch, label);
  return key;
};
