/** Each flag's score among those of the images that its thresholds were calibrated on. */

import { createChart } from "./chart.js";
import { decimal, percent, plural } from "./numbers.js";

const TITLES = { out_of_distribution: "Out of distribution", suspect_adversarial: "Suspect adversarial" };

const TICKS = [0.001, 0.01, 0.05, 0.2]; // of the share above a score

const element = (id) => document.getElementById(id);

export const createFlags = () => {
  const figures = Object.keys(TITLES).map((name) => {
    const figure = element(name);
    return { name, figure, caption: figure.firstElementChild, chart: createChart(figure.lastElementChild) };
  });

  return {
    reset: () => {
      element("flags").hidden = true;
      figures.forEach(({ chart }) => chart.clear());
    },

    /** The flags of a prediction, against its model's calibration. */
    show: (flags, { calibration }) => {
      element("flags").hidden = !calibration || !Object.keys(flags).length;
      if (element("flags").hidden) return;
      for (const { name, figure, caption, chart } of figures) {
        figure.hidden = !(name in flags);
        if (figure.hidden) continue;
        const flag = flags[name];
        const { thresholds } = calibration.sizes.find((size) => size.ensemble_size === flag.calibrated_ensemble_size);
        const text = `${TITLES[name]}: ${describe(flag, thresholds[name], calibration.rates)}`;
        caption.textContent = text;
        chart.show(drawFlag(flag, thresholds[name], calibration.rates), text);
      }
      const { calibration_inputs: inputs, calibrated_ensemble_size: size } = Object.values(flags)[0];
      element("flags-note").textContent =
        `The vertical axis is the share of ${inputs} calibration images with a larger score, on a logarithmic scale. ` +
        (calibration.folds
          ? "Each was judged by networks that were trained without it, but these networks were trained on it. "
          : "These images were used for nothing else. ") +
        `The dots are the known quantiles for ${plural(size, "network")}; the line between them only guides the eye.`;
    },
  };
};

const describe = (flag, thresholds, rates) => {
  const name = flag.score_name.replaceAll("_", " ");
  const [score, threshold] = [flag.score, flag.threshold].map(decimal);
  const raised = flag.flagged ? "flagged" : "no flag";
  const measured = `${raised}, ${name} ${score} ${flag.flagged ? "above" : "within"} the threshold ${threshold}`;
  // Thresholds fall as rates grow.
  const above = thresholds.findIndex((threshold) => flag.score > threshold);
  const share =
    above === 0
      ? `At most ${percent(rates[0])}`
      : above < 0
        ? `More than ${percent(rates.at(-1))}`
        : `Between ${percent(rates[above - 1])} and ${percent(rates[above])}`;
  return `${measured}. ${share} of the calibration images score higher.`;
};

const drawFlag = (flag, thresholds, rates) => {
  const min = Math.min(0, flag.score, ...thresholds);
  const max = 1.05 * Math.max(flag.score, ...thresholds);
  return {
    x: { min, max: max > min ? max : min + 1, label: flag.score_name.replaceAll("_", " ") },
    y: { log: true, min: rates[0] / 2, max: 0.5, ticks: rates.filter((rate) => TICKS.includes(rate)), format: percent },
    lines: [{ points: thresholds.map((threshold, i) => [threshold, rates[i]]), color: "ambiguity", width: 1, dots: 3 }],
    marks: [
      { x: flag.threshold, color: "muted", dash: [4, 4], label: "threshold" },
      { x: flag.score, color: flag.flagged ? "flagged" : "unflagged", label: "this image" },
    ],
  };
};
