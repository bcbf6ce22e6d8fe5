/** A pad on which a person begins a drawing. A stroke becomes the few points that a model gets when the pen is lifted. */

import { addPoint } from "./pen.js";
import { drawSheet } from "./sheet.js";
import { simplify, toPoints } from "./strokes.js";

const TOLERANCE = 0.015; // of the side

const LABEL = "Drawing area for a mouse, pen or finger. Leave it blank, and the model begins.";

export const createSketch = (canvas, { onStart, onChange }) => {
  let strokes = [];
  let pointer = null;
  let side = 1; // of the pad, in the unit of the model's points
  let unit = 1; // of which offsets are multiples

  const corner = () => ({ x: -(strokes[0]?.[0]?.x ?? 0), y: -(strokes[0]?.[0]?.y ?? 0) });

  const repaint = () => {
    const points = [];
    toPoints(strokes, unit).forEach((point) => addPoint(points, point, side, { given: true }));
    drawSheet(canvas, points, Infinity, { ...corner(), side });
  };

  const change = (next) => {
    strokes = next;
    pointer = null;
    repaint();
    onChange();
  };

  const locate = ({ clientX, clientY }) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const [x, y] = [(clientX - left) / width, (clientY - top) / height];
    return { x: side * Math.min(1, Math.max(0, x)), y: side * Math.min(1, Math.max(0, y)) };
  };

  const extend = (event) => {
    const moves = event.getCoalescedEvents?.() ?? [];
    strokes.at(-1).push(...(moves.length ? moves : [event]).map(locate));
    repaint();
  };

  const end = (event) => {
    if (event.pointerId !== pointer) return;
    change([...strokes.slice(0, -1), simplify(strokes.at(-1), TOLERANCE * side)]);
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    strokes = [...strokes, []];
    onStart();
    extend(event);
  });
  canvas.addEventListener("pointermove", (event) => event.pointerId === pointer && extend(event));
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.ariaLabel = LABEL;
  new ResizeObserver(repaint).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  return {
    /** A blank pad of a side. */
    reset: (length) => {
      side = length;
      unit = 10 ** (Math.floor(Math.log10(side)) - 3);
      change([]);
    },
    clear: () => change([]),
    undo: () => change(strokes.slice(0, -1)),
    isEmpty: () => !strokes.length,
    /** What a model goes on with, [dx, dy, lifted] each. */
    points: () => toPoints(strokes, unit),
    /** Where the pad's corner is, seen from the first point; null if there is none. */
    corner: () => (strokes.length ? corner() : null),
  };
};
