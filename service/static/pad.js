/** The drawing pad: strokes are kept as points, so they can be painted again at any size. */

const SIDE = 280; // the unit of the stroke coordinates
const RESOLUTION = 2; // canvas pixels per unit, for sharp lines on dense screens
const BRUSH = 2.7 / 28; // of the frame's side, the usual stroke of an MNIST digit
const BOX = 20 / 28; // of the frame's side, the box MNIST digits are fitted to

export const createPad = (canvas, { onStart, onEnd }) => {
  const context = openContext(canvas, SIDE * RESOLUTION, SIDE * RESOLUTION);
  const strokes = [];
  let pointer = null;

  const repaint = () => paint(context, strokes, { scale: RESOLUTION, x: 0, y: 0 });

  const extend = (event) => {
    const moves = event.getCoalescedEvents?.() ?? [];
    const points = (moves.length ? moves : [event]).map((move) => locate(canvas, move));
    strokes.at(-1).push(...points);
    repaint();
  };

  const start = (event) => {
    if (pointer !== null || event.button !== 0) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    onStart();
    strokes.push([]);
    extend(event);
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
  repaint();

  return {
    isEmpty: () => strokes.length === 0,
    clear: () => {
      strokes.length = 0;
      pointer = null;
      repaint();
    },
    toFile: (frame) => exportDrawing(strokes, frame),
  };
};

/** The drawing as an opaque PNG of the frame's size: fitted to the box, centred by mass. */
const exportDrawing = async (strokes, { width, height }) => {
  const canvas = document.createElement("canvas");
  const context = openContext(canvas, width, height, { willReadFrequently: true });
  const fitted = fitToBox(strokes, width, height);
  paint(context, strokes, fitted);
  const mass = centreOfMass(context);
  paint(context, strokes, {
    scale: fitted.scale,
    x: fitted.x + width / 2 - mass.x,
    y: fitted.y + height / 2 - mass.y,
  });
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], "drawing.png", { type: "image/png" });
};

const openContext = (canvas, width, height, options) => {
  Object.assign(canvas, { width, height });
  return canvas.getContext("2d", { alpha: false, ...options });
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

/** Paint all strokes, their points scaled and moved, the brush in proportion to the canvas. */
const paint = (context, strokes, { scale, x, y }) => {
  const { width, height } = context.canvas;
  context.resetTransform();
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.setTransform(scale, 0, 0, scale, x, y);
  context.strokeStyle = "#fff";
  context.lineWidth = (BRUSH * Math.min(width, height)) / scale;
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
