/** A pen that draws at a person's speed, on one sheet or on several at once, and how the weights change meanwhile. */

import { PEN, SIDE, addPoint, drawUntil, fit, tracePath, writeSvg } from "./pen.js";

const ROW = 12; // CSS pixels of a row of squares, and of the widest of them
const GAP = 1;
const NAME = "drawing.svg";

/**
 * A player in an element, of as many drawings as there are sheets. Beside a single one, four rows of squares say how
 * much the weights of each gate changed at each point.
 *
 * The scale is the usual length of a step, in the units of the points.
 */
export const createPlayer = (root, { scale, sheets = 1 }) => {
  const drawings = Array.from({ length: sheets }, () => []);
  const canvases = drawings.map((_, index) => createCanvas(`sheet ${index + 1} of ${sheets}`, "sheet"));
  const strip = sheets === 1 ? createCanvas("Changes of the weights of the input, forget and output gates and the candidate", "strip") : null;
  const play = Object.assign(document.createElement("button"), { type: "button", textContent: "Play" });
  const position = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 0, step: "any", value: 0, ariaLabel: "Time" });
  const save = Object.assign(document.createElement("button"), { type: "button", textContent: "Save SVG", disabled: true });
  const group = document.createElement("div");
  group.className = "sheets";
  group.append(...canvases);
  const controls = document.createElement("div");
  controls.className = "large-actions";
  controls.append(play, position, save);
  root.replaceChildren(group, ...(strip ? [strip] : []), controls);

  let time = 0; // of the pen, in milliseconds
  let complete = false; // whether no more points will come
  let playing = false;
  let last = null; // the time of the last frame

  const duration = () => Math.max(...drawings.map((points) => points.at(-1)?.end ?? 0));

  const redraw = () => {
    canvases.forEach((canvas, index) => drawSheet(canvas, drawings[index], time));
    if (strip) drawStrip(strip, drawings[0], time);
    position.max = duration();
    position.value = time;
  };

  const setPlaying = (next) => {
    if (next && !playing) requestAnimationFrame(step);
    playing = next;
    last = null;
    play.textContent = playing ? "Pause" : "Play";
  };

  /** The pen waits at its last point for more, until the drawings are complete. */
  const step = (now) => {
    if (!playing) return;
    time = Math.min(duration(), time + (last === null ? 0 : now - last));
    last = now;
    redraw();
    if (complete && time >= duration()) setPlaying(false);
    else requestAnimationFrame(step);
  };

  play.addEventListener("click", () => {
    if (!playing && time >= duration()) time = 0;
    setPlaying(!playing);
  });
  position.addEventListener("input", () => {
    setPlaying(false);
    time = Number(position.value);
    redraw();
  });
  save.addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([writeSvg(drawings)], { type: "image/svg+xml" }));
    Object.assign(document.createElement("a"), { href: url, download: NAME }).click();
    URL.revokeObjectURL(url);
  });
  const observer = new ResizeObserver(redraw);
  [...canvases, strip].filter(Boolean).forEach((canvas) => observer.observe(canvas));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  return {
    /** Adds a point, [dx, dy, lifted], to a sheet. Options are `given`, if a person drew it, and `changes`. */
    append: (sheet, point, options) => {
      addPoint(drawings[sheet], point, scale, options);
      save.disabled = drawings.some((points) => !points.length);
    },
    /** Begins with what is there, and goes on with what comes. Those who do not like motion see the whole. */
    play: () => {
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) time = Infinity;
      setPlaying(true);
    },
    /** Says that no more points will come. */
    complete: () => (complete = true),
    clear: () => {
      drawings.forEach((points) => points.splice(0));
      [time, complete] = [0, false];
      save.disabled = true;
      setPlaying(false);
      redraw();
    },
    toSvg: () => writeSvg(drawings),
    duration,
  };
};

const createCanvas = (label, className) => {
  const canvas = Object.assign(document.createElement("canvas"), { className, ariaLabel: label });
  canvas.setAttribute("role", "img");
  return canvas;
};

/** A canvas's context in CSS pixels, blank. */
const open = (canvas) => {
  const { clientWidth: width, clientHeight: height } = canvas;
  Object.assign(canvas, { width: width * devicePixelRatio, height: height * devicePixelRatio });
  const context = canvas.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  return { context, width, height };
};

const drawSheet = (canvas, points, time) => {
  const { context, width } = open(canvas);
  if (!points.length) return;
  const style = getComputedStyle(canvas);
  const [ink, muted, accent] = ["--ink", "--muted", "--disagreement"].map((name) => style.getPropertyValue(name));
  const place = fit(points);
  context.scale(width / SIDE, width / SIDE);
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
  const { strokes, tip } = drawUntil(points, time);
  for (const stroke of strokes) {
    context.strokeStyle = stroke.given ? muted : ink;
    context.stroke(new Path2D(tracePath(stroke.points.map(place))));
  }
  if (!tip || time >= points.at(-1).end) return;
  context.fillStyle = accent;
  context.beginPath();
  const { x, y } = place(tip);
  context.arc(x, y, PEN, 0, 2 * Math.PI);
  context.fill();
};

const drawStrip = (canvas, points, time) => {
  const { context, width } = open(canvas);
  const known = points.filter(({ changes }) => changes);
  const column = Math.min(ROW, width / known.length);
  const style = getComputedStyle(canvas);
  for (let gate = 0; gate < 4; gate++) {
    const most = known.reduce((most, { changes }) => Math.max(most, changes[gate]), 0);
    context.fillStyle = `rgb(${style.getPropertyValue(`--ink-${gate}`)})`;
    known.forEach(({ changes, start }, index) => {
      if (start > time || !most) return;
      context.globalAlpha = changes[gate] / most;
      context.fillRect(index * column, gate * ROW, Math.max(column - GAP, column / 2), ROW - GAP);
    });
  }
};
