/** The settings of all questions: how many networks, of which seed. What is not valid is said, and not used. */

const MOST = 1000; // networks
const MOST_OF_SEQUENCES = 64;
const SEEDS = 2n ** 63n;

const element = (id) => document.getElementById(id);

export const createSettings = (onChange) => {
  const [size, slider, seed, auto] = ["size", "size-slider", "seed", "auto"].map(element);
  const used = { size: null, seed: "" }; // the last valid ones; no size until one is chosen
  let most = MOST;
  let usual = Number(size.value);

  const say = (field, text, valid = true) => {
    field.setAttribute("aria-invalid", !valid);
    element(`${field.id}-note`).textContent = text;
  };

  const checkSize = () => {
    const valid = /^\d+$/.test(size.value) && Number(size.value) >= 1 && Number(size.value) <= most;
    say(size, valid ? "" : `Enter a number from 1 to ${most}. Still using ${read().size}.`, valid);
    if (valid) slider.value = size.value;
    return valid;
  };

  const checkSeed = () => {
    const text = seed.value.trim();
    const valid = /^\d*$/.test(text) && BigInt(text) < SEEDS;
    const before = used.seed === "" ? "fresh networks" : `seed ${used.seed}`;
    say(seed, valid ? "" : `Enter a whole number below 2⁶³. Still using ${before}.`, valid);
    return valid;
  };

  const takeSize = () => {
    if (!checkSize()) return;
    used.size = Number(size.value);
    onChange();
  };

  const takeSeed = () => {
    if (!checkSeed()) return;
    used.seed = seed.value.trim();
    onChange();
  };

  const read = () => ({ ...used, size: Math.min(used.size ?? usual, most), auto: auto.checked && !element("auto-field").hidden });

  size.addEventListener("input", checkSize);
  seed.addEventListener("input", checkSeed);
  slider.addEventListener("input", () => {
    size.value = slider.value;
    checkSize();
  });
  for (const field of [size, slider]) field.addEventListener("change", takeSize);
  seed.addEventListener("change", takeSeed);
  auto.addEventListener("change", onChange);

  return {
    /** In effect: { size, seed, auto }; a seed is text, empty for fresh networks; auto if ensembles may stop growing. */
    read,
    /** Offers as many networks as a model has, and as many as it was evaluated with until another number is chosen. */
    offer: ({ sampler: { num_networks: held, ensemble_size: evaluated }, task }) => {
      const limit = task.kind === "sequence" ? MOST_OF_SEQUENCES : MOST;
      usual = evaluated;
      most = Math.min(limit, held ?? limit);
      size.max = slider.max = most;
      element("size-limit").textContent = held ? `of ${held} available` : `up to ${limit}`;
      size.value = read().size;
      checkSize();
      element("auto-field").hidden = true;
    },
    /** Offers to stop early, or not. */
    offerAuto: (possible) => (element("auto-field").hidden = !possible),
    setSeed: (text, note = "") => {
      seed.value = used.seed = text;
      say(seed, note);
    },
  };
};
