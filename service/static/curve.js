/** The view of a model of one number in, one number out: the curve, and what its uncertainty is made of. */

import { predictNumbers, predictUrl } from "./api.js";
import { createCall, pythonClient, quote, shellQuote } from "./call.js";
import { createChart } from "./chart.js";

const POSITIONS = 121;
const REACH = 3.5; // standard deviations of the training inputs, to each side
const CURVES = 30; // of single networks that are drawn

const element = (id) => document.getElementById(id);
const write = (id, text) => (element(id).textContent = text);

export const createCurve = () => {
  const chart = createChart(element("curve-chart"));
  const variance = createChart(element("variance-chart"));
  const call = createCall("curve");

  return {
    reset: ({ input, task }) => {
      chart.clear();
      variance.clear();
      call.clear();
      write("curve-caption", `${task.names[0]} against ${input.names[0]}`);
      write("curve-note", "");
    },

    ask: async ({ model, size, seed }, signal) => {
      const [{ mean: [centre], std: [deviation], names: [from] }, [to]] = [model.input, model.task.names];
      const xs = Array.from({ length: POSITIONS }, (_, i) => centre + deviation * REACH * ((2 * i) / (POSITIONS - 1) - 1));
      const answer = await predictNumbers(model.name, xs.map((x) => [x]), { size, seed, members: true }, signal);
      const numbers = answer.predictions.map(({ outputs }) => outputs[to]);
      const members = Array.from({ length: Math.min(CURVES, size) }, (_, i) =>
        answer.predictions.map(({ member_outputs: said }, j) => [xs[j], said[i][0]]));
      const x = { min: xs[0], max: xs.at(-1), label: from };
      const band = numbers.map(({ mean, standard_deviation: spread }, i) => [xs[i], mean - 2 * spread, mean + 2 * spread]);
      const [first, last, middle, width] = [xs[0], xs.at(-1), centre, deviation].map((number) => number.toFixed(1));
      const text =
        `Mean of ${answer.ensemble.size} networks, seed ${answer.ensemble.seed}, ± 2 standard deviations, ` +
        `from ${from} = ${first} to ${last}; trained around ${middle} ± ${width}.`;
      chart.show(
        {
          x,
          y: { min: Math.min(...band.map(([, low]) => low)), max: Math.max(...band.map(([, , high]) => high)), label: to },
          bands: [{ points: band, color: "mean" }],
          lines: [
            ...members.map((points) => ({ points, color: "disagreement", width: 1, opacity: 0.35 })),
            { points: numbers.map(({ mean }, i) => [xs[i], mean]), color: "ambiguity" },
          ],
        },
        text,
      );
      variance.show(
        {
          x,
          y: { min: 0, max: 1.1 * Math.max(...numbers.map((number) => number.variance)) },
          bands: [
            { points: numbers.map((number, i) => [xs[i], 0, number.noise_variance]), color: "ambiguity" },
            { points: numbers.map((number, i) => [xs[i], number.noise_variance, number.variance]), color: "disagreement" },
          ],
        },
        "The variance, split into the noise of observations and the disagreement of the networks.",
      );
      write("curve-note", text);
      write("summary", text);
      const some = [0, 60, 120].map((i) => [Number(xs[i].toFixed(2))]);
      const options = { size, seed: answer.ensemble.seed };
      const url = location.origin + predictUrl(model.name, options);
      call.show(
        `curl --json ${shellQuote(JSON.stringify({ inputs: some }))} \\\n${shellQuote(url)}`,
        pythonClient("answer", "predict", [JSON.stringify(some)], {
          model: quote(model.name),
          ensemble_size: size,
          seed: options.seed,
          members: "True",
        }),
      );
    },
  };
};
