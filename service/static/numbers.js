/** Numbers for people: how probabilities and scores are written. */

/** An entropy in nats, or a fragility, which noise may take a little below 0. */
export const decimal = (value) => Math.max(0, value).toFixed(3);

/** So close to 0 or 1 all shares are alike. */
export const percent = (share) => {
  if (share < 0.001) return "<0.1%";
  if (share > 0.999) return ">99.9%";
  return `${(100 * share).toFixed(1)}%`;
};

export const percentRange = (...ends) => {
  const [low, high] = ends.map((share) => Math.round(100 * share));
  if (low !== high) return `${low}–${high}%`;
  return { 0: "<1%", 100: ">99%" }[low] ?? `${low}%`;
};

/** Linear interpolation between the neighbours in a sorted list. */
export const quantile = (sorted, share) => {
  const position = share * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.ceil(position);
  return sorted[below] + (sorted[above] - sorted[below]) * (position - below);
};

export const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
