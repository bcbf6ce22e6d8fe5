/**
 * Drawings as a pen makes them: where it is at a time, its lines as paths, and files of them.
 *
 * A point is { x, y, lifted, given, changes, start, end }: a position, whether the pen is lifted after it, whether a
 * person drew it, and when the pen leaves for it and reaches it, in milliseconds.
 */

const PACE = 45; // milliseconds for a step of the usual length
const LEAST_TIME = 12;
const MOST_TIME = 250;

export const SIDE = 1000; // of a drawing's square, in units of its file
export const PEN = 20; // its width
const MARGIN = 80;

/** Adds [dx, dy, lifted] to points. What a person drew takes no time. The scale is the usual length of a step. */
export const addPoint = (points, [dx, dy, lifted], scale, { given = false, changes } = {}) => {
  const { x, y, end } = points.at(-1) ?? { x: 0, y: 0, end: 0 };
  const time = Math.min(MOST_TIME, Math.max(LEAST_TIME, Math.round((PACE * Math.hypot(dx, dy)) / scale)));
  points.push({ x: x + dx, y: y + dy, lifted: Boolean(lifted), given, changes, start: end, end: given ? end : end + time });
};

/** The strokes that are drawn by a time, [{ points, given }], and where the pen is then: { strokes, tip }. */
export const drawUntil = (points, time) => {
  const strokes = [];
  let before = null;
  for (const point of points) {
    const share = point.end > point.start ? Math.min(1, (time - point.start) / (point.end - point.start)) : 1;
    if (share <= 0) break;
    const from = before ?? point;
    const here = { x: from.x + share * (point.x - from.x), y: from.y + share * (point.y - from.y) };
    const draws = before && !before.lifted;
    if (!draws && share < 1) return { strokes, tip: here };
    if (!draws) strokes.push({ points: [], given: point.given });
    else if (before.given !== point.given) strokes.push({ points: [from], given: point.given });
    strokes.at(-1).points.push(here);
    before = point;
    if (share < 1) return { strokes, tip: here };
  }
  return { strokes, tip: before };
};

/** Takes positions to the square from 0 to SIDE, in the middle of which all points lie, inside a margin. */
export const fit = (points) => {
  const [left, right] = range(points.map(({ x }) => x));
  const [top, bottom] = range(points.map(({ y }) => y));
  const factor = (SIDE - 2 * MARGIN) / (Math.max(right - left, bottom - top) || 1);
  return ({ x, y }) => ({ x: SIDE / 2 + factor * (x - (left + right) / 2), y: SIDE / 2 + factor * (y - (top + bottom) / 2) });
};

const range = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];

/** A smooth curve as SVG writes it: the positions steer it, and it passes through the middles between them. */
export const tracePath = (positions) => {
  const last = positions.at(-1);
  const curves = positions.slice(1, -1).map((at, index) => {
    const next = positions[index + 2];
    return `Q${pair(at)} ${pair({ x: (at.x + next.x) / 2, y: (at.y + next.y) / 2 })}`;
  });
  // The offset matters for a single point: a line of no length may not be shown.
  return `M${pair(positions[0])}${curves.join("")}L${pair({ x: last.x + 0.1, y: last.y })}`;
};

const pair = ({ x, y }) => [x, y].map((value) => Math.round(10 * value) / 10).join(" ");

/** An SVG of drawings, in rows and columns if there are several. */
export const writeSvg = (drawings) => {
  const columns = Math.ceil(Math.sqrt(drawings.length));
  const rows = Math.ceil(drawings.length / columns);
  const cells = drawings.map((points, index) => {
    const place = fit(points);
    const { strokes } = drawUntil(points, Infinity);
    const paths = strokes.map((stroke) => `<path d="${tracePath(stroke.points.map(place))}"/>`);
    return `<g transform="translate(${SIDE * (index % columns)} ${SIDE * Math.floor(index / columns)})">${paths.join("")}</g>`;
  });
  const style = `fill="none" stroke="black" stroke-width="${PEN}" stroke-linecap="round" stroke-linejoin="round"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${SIDE * columns} ${SIDE * rows}" ${style}>${cells.join("")}</svg>\n`;
};
