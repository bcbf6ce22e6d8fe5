/** Sheets of paper: canvases that show drawings. */

import { PEN, SIDE, drawUntil, writePath } from "./pen.js";

export const createCanvas = (label, className) => {
  const canvas = Object.assign(document.createElement("canvas"), { className, ariaLabel: label });
  canvas.setAttribute("role", "img");
  return canvas;
};

/** A canvas's context in CSS pixels, blank. */
export const open = (canvas) => {
  const { clientWidth: width, clientHeight: height } = canvas;
  const [across, down] = [width, height].map((length) => Math.round(length * devicePixelRatio));
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  const context = canvas.getContext("2d");
  context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
};

/** Shows what the pen has drawn by a time in a frame, and the pen, if it still draws. */
export const drawSheet = (canvas, points, time, frame) => {
  const { context, width } = open(canvas);
  if (!points.length) return;
  const style = getComputedStyle(canvas);
  const [ink, given, accent] = ["--ink", "--given", "--disagreement"].map((name) => style.getPropertyValue(name));
  context.scale(width / SIDE, width / SIDE);
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
  const { lines, tip } = drawUntil(points, time);
  for (const line of lines) {
    context.strokeStyle = line.given ? given : ink;
    context.stroke(new Path2D(writePath(line, frame)));
  }
  if (!tip || time >= points.at(-1).end) return;
  context.fillStyle = accent;
  context.beginPath();
  context.arc((SIDE * (tip.x - frame.x)) / frame.side, (SIDE * (tip.y - frame.y)) / frame.side, PEN, 0, 2 * Math.PI);
  context.fill();
};
