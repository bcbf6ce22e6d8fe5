/**
 * The drawing pad: an image, if one was chosen, and strokes on it, white. Strokes are kept as points, so they can be
 * painted again at any size.
 */

import { toFile as encode } from "./pixels.js";

const SIDE = 280; // the unit of the stroke coordinates
const RESOLUTION = 2; // canvas pixels per unit, for sharp lines on dense screens
const BRUSH = 2.7 / 28; // of the frame's side, the usual stroke of an MNIST digit
const BOX = 20 / 28; // of the frame's side, the box MNIST digits are fitted to
const COARSE = 64; // pixels to a side, up to which an image's are shown as they are

const KEYBOARD = "To use the keyboard, choose an example or a file.";

const EMPTY = { file: null, bitmap: null, strokes: [] };

export const createPad = (canvas, { onStart, onEnd }) => {
  const context = openContext(canvas, SIDE * RESOLUTION, SIDE * RESOLUTION);
  let content = EMPTY;
  let pointer = null;

  const repaint = () => {
    const place = { x: [RESOLUTION, 0], y: [RESOLUTION, 0] };
    context.imageSmoothingEnabled = !(content.bitmap?.width <= COARSE);
    paint(context, content, place, BRUSH * SIDE);
  };

  const show = (next) => {
    content = next;
    pointer = null;
    const shown = content.file ? `Shown: ${content.file.name}. Strokes are added to it. ` : "";
    canvas.setAttribute("aria-label", `${shown}Drawing area for a mouse, pen or finger. ${KEYBOARD}`);
    repaint();
  };

  const extend = (event) => {
    const moves = event.getCoalescedEvents?.() ?? [];
    const points = (moves.length ? moves : [event]).map((move) => locate(canvas, move));
    content.strokes.at(-1).push(...points);
    repaint();
  };

  const start = (event) => {
    if (pointer !== null || event.button !== 0) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    content = { ...content, strokes: [...content.strokes, []] };
    extend(event);
    onStart();
  };

  const move = (event) => {
    if (event.pointerId === pointer) extend(event);
  };

  const end = (event) => {
    if (event.pointerId !== pointer) return;
    pointer = null;
    onEnd();
  };

  canvas.addEventListener("pointerdown", start);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  show(EMPTY);

  const isEmpty = () => !content.bitmap && content.strokes.length === 0;

  return {
    isEmpty,
    clear: () => show(EMPTY),
    /** What it holds, for `show`: { file, bitmap, strokes }. */
    content: () => content,
    show,
    /** What it shows, for a model's input; null if that is nothing. A file without strokes stays as it is. */
    toFile: async (frame) => {
      if (isEmpty()) return null;
      if (!content.bitmap) return encode(exportDrawing(content, frame), "drawing.png");
      if (!content.strokes.length) return content.file;
      return encode(exportDrawnOn(content, frame), content.file.name.replace(/(\.\w+)?$/, "-drawn.png"));
    },
  };
};

/** The image with the strokes, at the frame's size, as the service fits an image: without regard to its aspect. */
const exportDrawnOn = (content, { width, height }) => {
  const context = openContext(document.createElement("canvas"), width, height);
  const { left, top, across, down } = fitImage(content.bitmap);
  const [horizontal, vertical] = [width / across, height / down];
  paint(context, content, { x: [horizontal, -left * horizontal], y: [vertical, -top * vertical] }, BRUSH * SIDE);
  return context.getImageData(0, 0, width, height);
};

/** Where an image lies in the pad: all of it, in the middle. */
const fitImage = ({ width, height }) => {
  const [across, down] = [width, height].map((length) => (SIDE * length) / Math.max(width, height));
  return { left: (SIDE - across) / 2, top: (SIDE - down) / 2, across, down };
};

/** The drawing at the frame's size, fitted to the box, centred by mass. */
const exportDrawing = (content, { width, height }) => {
  const context = openContext(document.createElement("canvas"), width, height);
  const { scale, x, y } = fitToBox(content.strokes, width, height);
  const brush = (BRUSH * Math.min(width, height)) / scale;
  paint(context, content, { x: [scale, x], y: [scale, y] }, brush);
  const mass = centreOfMass(context);
  paint(context, content, { x: [scale, x + width / 2 - mass.x], y: [scale, y + height / 2 - mass.y] }, brush);
  return context.getImageData(0, 0, width, height);
};

const openContext = (canvas, width, height) => {
  Object.assign(canvas, { width, height });
  return canvas.getContext("2d", { alpha: false, willReadFrequently: true });
};

const locate = (canvas, { clientX, clientY }) => {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return { x: ((clientX - left) / width) * SIDE, y: ((clientY - top) / height) * SIDE };
};

const fitToBox = (strokes, width, height) => {
  const side = Math.min(width, height);
  const horizontal = span(strokes.flat().map(({ x }) => x));
  const vertical = span(strokes.flat().map(({ y }) => y));
  // A dot has no extent of its own; the lower bound keeps it a dot.
  const extent = Math.max(horizontal.length, vertical.length, BRUSH * SIDE);
  const scale = ((BOX - BRUSH) * side) / extent;
  return {
    scale,
    x: width / 2 - horizontal.middle * scale,
    y: height / 2 - vertical.middle * scale,
  };
};

const span = (values) => {
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  return { length: high - low, middle: (low + high) / 2 };
};

const centreOfMass = (context) => {
  const { width, height } = context.canvas;
  const { data } = context.getImageData(0, 0, width, height);
  let [mass, x, y] = [0, 0, 0];
  for (let pixel = 0; pixel < width * height; pixel++) {
    const ink = data[4 * pixel];
    mass += ink;
    x += ink * ((pixel % width) + 0.5);
    y += ink * (Math.floor(pixel / width) + 0.5);
  }
  return { x: x / mass, y: y / mass };
};

/** Paints the image and the strokes: a factor and a shift for each axis, and the brush in units of the strokes. */
const paint = (context, { bitmap, strokes }, { x, y }, brush) => {
  const { width, height } = context.canvas;
  context.resetTransform();
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.setTransform(x[0], 0, 0, y[0], x[1], y[1]);
  context.imageSmoothingQuality = "high";
  if (bitmap) {
    const { left, top, across, down } = fitImage(bitmap);
    context.drawImage(bitmap, left, top, across, down);
  }
  context.strokeStyle = "#fff";
  context.lineWidth = brush;
  context.lineCap = context.lineJoin = "round";
  strokes.forEach((points) => trace(context, points));
};

/** A smooth curve: the points steer it, it passes through the middles between them. */
const trace = (context, points) => {
  const last = points.at(-1);
  context.beginPath();
  context.moveTo(points[0].x, points[0].y);
  points.slice(0, -1).forEach((point, index) => {
    const next = points[index + 1];
    context.quadraticCurveTo(point.x, point.y, (point.x + next.x) / 2, (point.y + next.y) / 2);
  });
  // The offset matters for a single point: a line of no length is not painted at all.
  context.lineTo(last.x + 0.01, last.y);
  context.stroke();
};
