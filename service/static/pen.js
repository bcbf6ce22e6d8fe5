/**
 * Drawings as a pen makes them: where it is at a time, its lines as paths, and files of them.
 *
 * A point is { x, y, lifted, given, changes, start, end }: a position, whether the pen is lifted after it, whether a
 * person drew it, and when the pen leaves for it and reaches it, in milliseconds.
 */

const PACE = 110; // milliseconds for a step of the usual length
const LEAST_TIME = 20;
const MOST_TIME = 700;
const CORNER = (75 / 180) * Math.PI; // the least turn that a smooth line does not round, as in the service's SVG

export const SIDE = 1000; // of a drawing's square, in units of its file
export const PEN = 20; // its width
const MARGIN = 0.05; // of the square's side

/** Adds [dx, dy, lifted] to points. What a person drew takes no time. The scale is the usual length of a step. */
export const addPoint = (points, [dx, dy, lifted], scale, { given = false, changes } = {}) => {
  const { x, y, end } = points.at(-1) ?? { x: 0, y: 0, end: 0 };
  const time = Math.min(MOST_TIME, Math.max(LEAST_TIME, Math.round((PACE * Math.hypot(dx, dy)) / scale)));
  points.push({ x: x + dx, y: y + dy, lifted: Boolean(lifted), given, changes, start: end, end: given ? end : end + time });
};

/** The lines that are drawn by a time, [{ start, pieces, given }], each by one hand, and where the pen is then: { lines, tip }. */
export const drawUntil = (points, time) => {
  const lines = [];
  let tip = null;
  for (const stroke of splitStrokes(points)) {
    const pieces = curve(stroke);
    for (const [index, point] of stroke.entries()) {
      const { given, start, end } = point;
      const share = end > start ? Math.min(1, (time - start) / (end - start)) : 1;
      if (share <= 0) return { lines, tip };
      const piece = index ? cut(pieces[index - 1], share) : null;
      tip = piece ? piece[3] : mix(tip ?? point, point, share);
      if (piece && given !== lines.at(-1).given) lines.push({ start: piece[0], pieces: [], given });
      if (piece) lines.at(-1).pieces.push(piece);
      if (share < 1) return { lines, tip };
      if (!piece) lines.push({ start: point, pieces: [], given });
    }
  }
  return { lines, tip };
};

const splitStrokes = (points) => {
  const strokes = [];
  points.forEach((point, index) => {
    if (!index || points[index - 1].lifted) strokes.push([]);
    strokes.at(-1).push(point);
  });
  return strokes;
};

/** A smooth curve through positions, as cubic Bézier curves from each to the next: centripetal Catmull–Rom splines, with corners. */
const curve = (positions) =>
  positions.slice(1).map((end, index) => {
    const [before, start, after] = [positions[index - 1], positions[index], positions[index + 2]];
    const out = isSmooth(before, start, end) ? control(before, start, end) : start;
    const into = isSmooth(start, end, after) ? control(after, end, start) : end;
    return [start, out, into, end];
  });

const isSmooth = (before, at, after) => {
  if (!before || !after || isSame(before, at) || isSame(at, after)) return false;
  const [came, goes] = [Math.atan2(at.y - before.y, at.x - before.x), Math.atan2(after.y - at.y, after.x - at.x)];
  const turn = Math.abs(goes - came);
  return Math.min(turn, 2 * Math.PI - turn) <= CORNER;
};

const isSame = (a, b) => a.x === b.x && a.y === b.y;

/** The control point beside a position on the way to the one after it. */
const control = (before, at, after) => {
  const [a, b] = [before, after].map((other) => Math.sqrt(Math.hypot(other.x - at.x, other.y - at.y)));
  const weigh = (axis) => (a * a * after[axis] - b * b * before[axis] + (2 * a * a + 3 * a * b + b * b) * at[axis]) / (3 * a * (a + b));
  return { x: weigh("x"), y: weigh("y") };
};

/** The first share of a Bézier curve. */
const cut = ([start, ...others], share) => {
  const firsts = [start];
  for (let rest = [start, ...others]; rest.length > 1; firsts.push(rest[0])) {
    rest = rest.slice(1).map((at, index) => mix(rest[index], at, share));
  }
  return firsts;
};

const mix = (a, b, share) => ({ x: a.x + share * (b.x - a.x), y: a.y + share * (b.y - a.y) });

/**
 * The square that shows points, { x, y, side } with the corner at the top left: of the usual side and at the wished
 * corner, or with the points in its middle if there is no wish. It moves, and then grows, as little as all points need.
 */
export const frame = (points, usual, wish = null) => {
  const ranges = { x: range(points.map(({ x }) => x)), y: range(points.map(({ y }) => y)) };
  const side = Math.max(usual, ...Object.values(ranges).map(([low, high]) => (high - low) / (1 - 2 * MARGIN)));
  const settle = (axis) => {
    const [low, high] = ranges[axis];
    const corner = wish ? wish[axis] - (side - usual) / 2 : (low + high - side) / 2;
    return Math.min(low - MARGIN * side, Math.max(high + MARGIN * side - side, corner));
  };
  return { x: settle("x"), y: settle("y"), side };
};

const range = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];

/** A line as SVG writes it, in a frame. */
export const writePath = ({ start, pieces }, { x, y, side }) => {
  const show = (at) => [(at.x - x) / side, (at.y - y) / side].map((value) => Math.round(10 * SIDE * value) / 10).join(" ");
  const steps = pieces.map(([from, out, into, to]) =>
    isSame(from, out) && isSame(into, to) ? `L${show(to)}` : `C${show(out)} ${show(into)} ${show(to)}`,
  );
  // A line of no length may not be shown.
  return `M${show(start)}${steps.join("") || "l0.1 0"}`;
};

/** An SVG of drawings in their frames, in rows and columns if there are several. */
export const writeSvg = (drawings, frames) => {
  const columns = Math.ceil(Math.sqrt(drawings.length));
  const rows = Math.ceil(drawings.length / columns);
  const cells = drawings.map((points, index) => {
    const { lines } = drawUntil(points, Infinity);
    const paths = lines.map((line) => `<path d="${writePath(line, frames[index])}"/>`);
    return `<g transform="translate(${SIDE * (index % columns)} ${SIDE * Math.floor(index / columns)})">${paths.join("")}</g>`;
  });
  const style = `fill="none" stroke="black" stroke-width="${PEN}" stroke-linecap="round" stroke-linejoin="round"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${SIDE * columns} ${SIDE * rows}" ${style}>${cells.join("")}</svg>\n`;
};
