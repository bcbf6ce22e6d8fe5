/** Numbers for people: how probabilities and entropies are written. */

export const nats = (value) => value.toFixed(3);

export const percent = (share) => {
  if (share > 0 && share < 0.001) return "<0.1%";
  if (share > 0.999 && share < 1) return ">99.9%";
  return `${(100 * share).toFixed(1)}%`;
};

export const percentRange = (low, high) => `${Math.round(100 * low)}–${Math.round(100 * high)}%`;

/** Linear interpolation between the neighbours in a sorted list. */
export const quantile = (sorted, share) => {
  const position = share * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.ceil(position);
  return sorted[below] + (sorted[above] - sorted[below]) * (position - below);
};
