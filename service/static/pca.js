/** Principal components of few long vectors, by their Gram matrix, which is as small as they are few. */

const ITERATIONS = 300;

/**
 * Coordinates on the first two principal components, and the share of the variance that each explains.
 *
 * @param vectors arrays of Float32Arrays: each vector in parts, as its layers come.
 */
export const findComponents = (vectors) => {
  const gram = centre(vectors.map((a) => vectors.map((b) => multiply(a, b))));
  const total = gram.reduce((sum, row, i) => sum + row[i], 0);
  const components = [0, 1].map(() => {
    const { value, direction } = findLargest(gram);
    gram.forEach((row, i) => row.forEach((_, j) => (row[j] -= value * direction[i] * direction[j])));
    return { explained: total > 0 ? value / total : 0, coordinates: direction.map((x) => x * Math.sqrt(value)) };
  });
  return {
    points: vectors.map((_, i) => components.map(({ coordinates }) => coordinates[i])),
    explained: components.map(({ explained }) => explained),
  };
};

const multiply = (a, b) => a.reduce((sum, part, i) => sum + dot(part, b[i]), 0);

const dot = (a, b) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
};

/** The Gram matrix of the vectors less their mean. */
const centre = (gram) => {
  const means = gram.map((row) => row.reduce((sum, x) => sum + x, 0) / row.length);
  const mean = means.reduce((sum, x) => sum + x, 0) / means.length;
  return gram.map((row, i) => row.map((x, j) => x - means[i] - means[j] + mean));
};

/** The largest eigenvalue of a symmetric matrix without negative ones, by power iteration. */
const findLargest = (matrix) => {
  let direction = matrix.map((_, i) => Math.cos(i + 1));
  let value = 0;
  for (let i = 0; i < ITERATIONS; i++) {
    const next = matrix.map((row) => dot(row, direction));
    value = Math.hypot(...next);
    if (!(value > 0)) return { value: 0, direction: direction.map(() => 0) };
    direction = next.map((x) => x / value);
  }
  return { value, direction };
};
