/** A pen that draws at a person's speed, on one sheet or on several at once, and how the weights change meanwhile. */

import { quantile } from "./numbers.js";
import { addPoint, frame, writeSvg } from "./pen.js";
import { createCanvas, drawSheet, open } from "./sheet.js";

const GAP = 1; // CSS pixels between squares
const FULL = 0.9; // share of the changes that are paler than the fullest colour, since the first are far larger than the rest
const GLIDE = 120; // milliseconds in which a sheet goes most of the way to where it belongs
const START = { x: 0.25, y: 0.2 }; // where the pen begins on a blank sheet, until the drawing's middle is known
const NAME = "drawing.svg";
const GATES = ["input", "forget", "output", "candidate"]; // in the order of the service's answer

/**
 * A player in an element, of as many drawings as there are sheets. With `changes`, four rows of squares say how much
 * the weights of each gate changed at each point of the first.
 *
 * The scale is the usual length of a step, and the side that of a sheet, in the units of the points. The corner is where
 * sheets begin; without one, drawings come to lie in the middle. Sheets can have another place than the rest, the stage.
 */
export const createPlayer = (root, { scale, side, sheets = 1, changes = false, corner = null, stage = root }) => {
  const drawings = Array.from({ length: sheets }, () => []);
  const frames = drawings.map(() => null); // as shown
  const canvases = drawings.map((_, index) => createCanvas(`sheet ${index + 1} of ${sheets}`, "sheet"));
  const strip = changes ? createCanvas(`Changes of the weights of the gates: ${GATES.join(", ")}`, "strip") : null;
  const play = Object.assign(document.createElement("button"), { type: "button", textContent: "Play" });
  const position = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 0, step: "any", value: 0, ariaLabel: "Time" });
  const save = Object.assign(document.createElement("button"), { type: "button", textContent: "Save SVG", disabled: true });
  const group = document.createElement("div");
  group.className = "sheets";
  group.append(...canvases);
  const controls = document.createElement("div");
  controls.className = "large-actions";
  controls.append(play, position, save);
  root.replaceChildren(...(strip ? [strip, createKey()] : []), controls);
  stage === root ? root.prepend(group) : stage.append(group);

  let time = 0; // of the pen, in milliseconds
  let complete = false; // whether no more points will come
  let playing = false;
  let still = false; // whether the pen is always where it can be, for those who do not like motion
  let last = null; // the time of the last frame

  const duration = () => Math.max(...drawings.map((points) => points.at(-1)?.end ?? 0));

  const choose = (points) => {
    const usual = complete ? null : { x: -START.x * side, y: -START.y * side };
    return frame(points, side, corner ?? usual);
  };

  /** Shows the time, and sheets a share of the way from where they are to where they belong. */
  const redraw = (share = 1) => {
    canvases.forEach((canvas, index) => {
      const points = drawings[index];
      if (points.length) frames[index] = approach(frames[index], choose(points), share);
      drawSheet(canvas, points, time, frames[index]);
    });
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
    const passed = last === null ? 0 : now - last;
    time = still ? duration() : Math.min(duration(), time + passed);
    last = now;
    const ends = complete && time >= duration();
    redraw(still || ends ? 1 : 1 - Math.exp(-passed / GLIDE));
    if (ends) setPlaying(false);
    else requestAnimationFrame(step);
  };

  play.addEventListener("click", () => {
    still = false;
    if (!playing && time >= duration()) time = 0;
    setPlaying(!playing);
  });
  position.addEventListener("input", () => {
    setPlaying(false);
    time = Number(position.value);
    redraw();
  });
  const toSvg = () => writeSvg(drawings, drawings.map(choose));
  save.addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([toSvg()], { type: "image/svg+xml" }));
    Object.assign(document.createElement("a"), { href: url, download: NAME }).click();
    URL.revokeObjectURL(url);
  });
  const observer = new ResizeObserver(() => redraw());
  [...canvases, strip].filter(Boolean).forEach((canvas) => observer.observe(canvas));
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const recolour = () => redraw();
  scheme.addEventListener("change", recolour);

  return {
    /** Adds a point, [dx, dy, lifted], to a sheet. Options are `given`, if a person drew it, and `changes`. */
    append: (sheet, point, options) => {
      addPoint(drawings[sheet], point, scale, options);
      save.disabled = drawings.some((points) => !points.length);
    },
    /** Begins with what is there, and goes on with what comes. */
    play: () => {
      still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      setPlaying(true);
    },
    pause: () => setPlaying(false),
    isStill: () => still,
    /** Says that no more points will come. */
    complete: () => {
      complete = true;
      if (!playing) redraw();
    },
    remove: () => {
      setPlaying(false);
      observer.disconnect();
      scheme.removeEventListener("change", recolour);
      group.remove();
      root.replaceChildren();
    },
    toSvg,
    duration,
  };
};

/** A frame that is a share of the way from one to another. */
const approach = (from, to, share) => {
  if (!from) return to;
  const mix = (name) => from[name] + share * (to[name] - from[name]);
  return { x: mix("x"), y: mix("y"), side: mix("side") };
};

/** The colours of the gates. */
const createKey = () => {
  const key = Object.assign(document.createElement("p"), { className: "key" });
  for (const [gate, name] of GATES.entries()) {
    const item = document.createElement("span");
    item.append(Object.assign(document.createElement("i"), { className: `swatch gate-${gate}` }), name);
    key.append(item);
  }
  return key;
};

const drawStrip = (canvas, points, time) => {
  const { context, width, height } = open(canvas);
  const known = points.filter(({ changes }) => changes);
  if (!known.length) return;
  const row = height / GATES.length;
  const column = Math.min(row, width / known.length);
  const style = getComputedStyle(canvas);
  for (const gate of GATES.keys()) {
    const full = quantile(known.map(({ changes }) => changes[gate]).sort((a, b) => a - b), FULL);
    context.fillStyle = `rgb(${style.getPropertyValue(`--ink-${gate}`)})`;
    known.forEach(({ changes, start }, index) => {
      if (start > time || !full) return;
      context.globalAlpha = Math.min(1, changes[gate] / full);
      context.fillRect(index * column, gate * row, Math.max(column - GAP, column / 2), row - GAP);
    });
  }
  context.globalAlpha = 1;
};
