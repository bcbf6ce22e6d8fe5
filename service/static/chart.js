/** Charts on a canvas, in the page's colours; each says in words what it shows, for those who do not see it. */

const MARGIN = { top: 18, right: 14, bottom: 34, left: 46 };
const ROW = 16; // of the labels of marks, above the chart

/**
 * A chart that follows its canvas's size and the colour scheme.
 *
 * It shows { x, y, bands, lines, points, marks }: axes { min, max, ticks, label, log, format }; bands of
 * { points: [[x, low, high]], color, opacity }; lines of { points: [[x, y]], color, width, opacity, dots, dash }; texts
 * in discs, of { point, text, color, radius }; rings of { point, color, label }; marks, upright, of { x, color, dash,
 * label }. Colours are the names of custom properties. Lines and bands end where the axes do.
 */
export const createChart = (canvas) => {
  let chart = null;
  const redraw = () => draw(canvas, chart);
  new ResizeObserver(redraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  return {
    show: (next, description) => {
      chart = next;
      canvas.setAttribute("aria-label", description);
      redraw();
    },
    clear: () => {
      chart = null;
      canvas.setAttribute("aria-label", "No chart yet");
      redraw();
    },
    /** From the chart's numbers to CSS pixels on the canvas. */
    place: ([x, y]) => (chart ? scale(canvas, chart).place(x, y) : null),
  };
};

/** About so many round numbers between two. */
export const chooseTicks = (min, max, count = 5) => {
  const rough = (max - min) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(min / step - 1e-9);
  return Array.from({ length: Math.floor(max / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
};

/** The least range of round numbers that holds another, and those numbers: { min, max, ticks }. */
export const roundRange = (min, max) => {
  const [first, second] = chooseTicks(min, max > min ? max : min + 1);
  const step = second - first;
  const [low, high] = [Math.floor(min / step + 1e-9), Math.ceil(max / step - 1e-9)];
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => (low + i) * step);
  return { min: ticks[0], max: ticks.at(-1), ticks };
};

const scale = (canvas, { x, y, marks = [] }) => {
  const { clientWidth: width, clientHeight: height } = canvas;
  const top = MARGIN.top + ROW * marks.filter(({ label }) => label).length;
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - top - MARGIN.bottom };
  const share = (axis, value) => {
    const [low, high, at] = axis.log ? [axis.min, axis.max, value].map(Math.log) : [axis.min, axis.max, value];
    return (at - low) / (high - low || 1);
  };
  return {
    width,
    height,
    inner: { ...inner, top },
    place: (a, b) => [MARGIN.left + share(x, a) * inner.width, top + (1 - share(y, b)) * inner.height],
  };
};

const draw = (canvas, chart) => {
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  if (!chart || !canvas.clientWidth) return;
  const context = canvas.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  const style = getComputedStyle(canvas);
  const tools = { context, chart, ...scale(canvas, chart), color: (name) => style.getPropertyValue(`--${name}`) };
  context.font = `12px ${style.fontFamily}`;
  drawAxes(tools);
  drawInside(tools, () => {
    chart.bands?.forEach((band) => drawBand(tools, band));
    chart.lines?.forEach((line) => drawLine(tools, line));
  });
  chart.texts?.forEach((text) => drawText(tools, text));
  chart.rings?.forEach((ring) => drawRing(tools, ring));
  drawMarks(tools, chart.marks ?? []);
};

/** Nothing of it lies outside the axes, but for half a line or dot. */
const drawInside = ({ context, inner }, paint) => {
  const slack = 4;
  context.save();
  context.beginPath();
  context.rect(MARGIN.left - slack, inner.top - slack, inner.width + 2 * slack, inner.height + 2 * slack);
  context.clip();
  paint();
  context.restore();
};

const drawAxes = ({ context, chart: { x, y }, place, width, height, color }) => {
  const decimal = (ticks) => Math.max(0, -Math.floor(Math.log10(Math.abs(ticks[1] - ticks[0]) || 1) + 1e-9));
  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "right";
  const levels = y.ticks ?? chooseTicks(y.min, y.max, 4);
  for (const tick of levels) {
    const [left, top] = place(x.min, tick);
    context.strokeStyle = color("line");
    line(context, [[left, top], [width - MARGIN.right, top]]);
    context.fillStyle = color("muted");
    context.fillText(y.format?.(tick) ?? tick.toFixed(decimal(levels)), left - 8, top);
  }
  context.textBaseline = "alphabetic";
  context.textAlign = "center";
  const steps = x.ticks ?? chooseTicks(x.min, x.max, width < 340 ? 4 : 6);
  for (const tick of steps) {
    const text = x.format?.(tick) ?? tick.toFixed(decimal(steps));
    const half = context.measureText(text).width / 2;
    context.fillText(text, Math.min(place(tick, y.min)[0], width - half), height - MARGIN.bottom + 15);
  }
  context.textAlign = "right";
  context.fillText(x.label ?? "", width - MARGIN.right, height - 4);
  context.textAlign = "left";
  context.fillText(y.label ?? "", 0, 11);
};

const drawBand = ({ context, place, color }, { points, color: name, opacity = 1 }) => {
  const upper = points.map(([x, , high]) => place(x, high));
  const lower = points.map(([x, low]) => place(x, low));
  context.globalAlpha = opacity;
  context.fillStyle = color(name);
  context.beginPath();
  [...upper, ...lower.reverse()].forEach(([x, y]) => context.lineTo(x, y));
  context.fill();
  context.globalAlpha = 1;
};

const drawLine = ({ context, place, color }, { points, dots, dash, opacity = 1, ...style }) => {
  const placed = points.map(([x, y]) => place(x, y));
  context.globalAlpha = opacity;
  context.strokeStyle = context.fillStyle = color(style.color);
  context.lineWidth = style.width ?? 2;
  context.lineJoin = "round";
  context.setLineDash(dash ?? []);
  if (style.width !== 0) line(context, placed);
  context.setLineDash([]);
  if (dots) placed.forEach(([x, y]) => disc(context, x, y, dots));
  context.globalAlpha = 1;
};

const drawText = ({ context, place, color }, { point, text, radius, ...style }) => {
  const [x, y] = place(...point);
  context.fillStyle = color(style.color);
  disc(context, x, y, radius);
  context.fillStyle = color("surface");
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, x, y + 1);
  context.textBaseline = "alphabetic";
};

const drawRing = ({ context, place, color, width }, { point, label, ...style }) => {
  const [x, y] = place(...point);
  const radius = 10;
  context.strokeStyle = context.fillStyle = color(style.color);
  context.lineWidth = 2;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.stroke();
  context.textAlign = x > width - 60 ? "right" : x < 80 ? "left" : "center";
  write(context, color, label, x, Math.max(y - radius - 4, 11));
};

/**
 * Labels stand above the chart, a row for each, and a mark reaches up to its own. The mark whose label could meet the
 * other mark has the upper row, which the other does not reach.
 */
const drawMarks = ({ context, inner, place, color, chart: { y }, width }, marks) => {
  const sorted = [...marks].sort((a, b) => a.x - b.x);
  const end = (mark) => place(mark.x, y.min)[0] + 6 + context.measureText(mark.label ?? "").width;
  const fits = sorted.every((mark) => end(mark) < width);
  if (!fits) sorted.reverse();
  sorted.forEach(({ x, label, dash, ...style }, row) => {
    const [left, bottom] = place(x, y.min);
    const top = label ? 4 + ROW * row : inner.top;
    context.strokeStyle = context.fillStyle = color(style.color);
    context.lineWidth = 2;
    context.setLineDash(dash ?? []);
    line(context, [[left, bottom], [left, top]]);
    context.setLineDash([]);
    if (!label) return;
    const right = fits || left < context.measureText(label).width + 6;
    context.textAlign = right ? "left" : "right";
    write(context, color, label, left + (right ? 6 : -6), top + 10);
  });
};

/** Text that stays legible on lines. */
const write = (context, color, text, x, y) => {
  context.strokeStyle = color("surface");
  context.lineWidth = 4;
  context.lineJoin = "round";
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
};

const line = (context, points) => {
  context.beginPath();
  points.forEach(([x, y]) => context.lineTo(x, y));
  context.stroke();
};

const disc = (context, x, y, radius) => {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
};
