/** Strokes of a person, lists of positions { x, y }, as the points that models of drawings know. */

/** The fewest of a stroke's positions that leave none farther away than the tolerance (Ramer, Douglas and Peucker). */
export const simplify = (stroke, tolerance) => {
  const kept = thin(stroke, tolerance);
  return kept.length === 2 && distance(kept[0], kept[1]) <= tolerance ? [kept[0]] : kept;
};

const thin = (stroke, tolerance) => {
  const [first, last] = [stroke[0], stroke.at(-1)];
  let [farthest, most] = [0, tolerance];
  stroke.forEach((at, index) => {
    const away = distance(at, nearest(first, last, at));
    if (away > most) [farthest, most] = [index, away];
  });
  if (!farthest) return stroke.length > 1 ? [first, last] : [first];
  return [...thin(stroke.slice(0, farthest + 1), tolerance).slice(0, -1), ...thin(stroke.slice(farthest), tolerance)];
};

const distance = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);

/** The position on a straight line from start to end that is nearest to another. */
const nearest = (start, end, { x, y }) => {
  const [dx, dy] = [end.x - start.x, end.y - start.y];
  const share = ((x - start.x) * dx + (y - start.y) * dy) / (dx * dx + dy * dy || 1);
  const along = Math.min(1, Math.max(0, share));
  return { x: start.x + along * dx, y: start.y + along * dy };
};

/**
 * Points [dx, dy, lifted] of strokes: offsets from the point before, as multiples of a unit, and whether the pen is
 * lifted after the point. The first is where the pen is at first.
 */
export const toPoints = (strokes, unit) => {
  let before = null;
  return strokes.flatMap((stroke) =>
    stroke.map((position, index) => {
      const at = [position.x, position.y].map((value) => Math.round(value / unit));
      const offset = at.map((value, axis) => Number((unit * (value - (before ?? at)[axis])).toPrecision(12)));
      before = at;
      return [...offset, index === stroke.length - 1 ? 1 : 0];
    }),
  );
};
