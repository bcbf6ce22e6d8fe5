/** The view of a model of one number in, one number out: the curve, and what its uncertainty is made of. */

import { addressOf, predictRows, predictUrl } from "./api.js";
import { createCall, pythonClient, quote, shellQuote } from "./call.js";
import { createChart, roundRange } from "./chart.js";
import { plural } from "./numbers.js";

const HALF = 60; // positions to each side of the middle
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
      // Few digits, so that the call can be written with the same numbers.
      const step = Number(((deviation * REACH) / HALF).toPrecision(3));
      const middle = Number(centre.toFixed(Math.max(0, 2 - Math.floor(Math.log10(step)))));
      const xs = Array.from({ length: 2 * HALF + 1 }, (_, i) => middle + step * (i - HALF));
      const answer = await predictRows(model.name, xs.map((x) => [x]), { size, seed, members: true }, signal);
      const numbers = answer.predictions.map(({ outputs }) => outputs[to]);
      const members = Array.from({ length: Math.min(CURVES, size) }, (_, i) =>
        answer.predictions.map(({ member_outputs: said }, j) => [xs[j], said[i][0]]));
      const x = { min: xs[0], max: xs.at(-1), label: from };
      const band = numbers.map(({ mean, standard_deviation: spread }, i) => [xs[i], mean - 2 * spread, mean + 2 * spread]);
      const [first, last] = [xs[0], xs.at(-1)].map((number) => Number(number.toPrecision(6)));
      const [mean, width] = [centre, deviation].map((number) => Number(number.toPrecision(3)));
      const text =
        `Mean of ${plural(answer.ensemble.size, "network")} of seed ${answer.ensemble.seed}, ± 2 standard deviations, ` +
        `from ${from} = ${first} to ${last}. The training data lie around ${mean} ± ${width}.`;
      chart.show(
        {
          x,
          y: { ...roundRange(Math.min(...band.map(([, low]) => low)), Math.max(...band.map(([, , high]) => high))), label: to },
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
          y: roundRange(0, Math.max(...numbers.map((number) => number.variance))),
          bands: [
            { points: numbers.map((number, i) => [xs[i], 0, number.noise_variance]), color: "ambiguity" },
            { points: numbers.map((number, i) => [xs[i], number.noise_variance, number.variance]), color: "disagreement" },
          ],
        },
        "The variance, split into observation noise and the disagreement among the networks.",
      );
      write("curve-note", text);
      write("summary", text);
      const inputs = `[[${middle} + ${step} * (i - ${HALF})] for i in range(${xs.length})]`;
      const options = { size, seed: answer.ensemble.seed };
      const url = addressOf(predictUrl(model.name, options));
      call.show(
        `python3 -c 'import json; print(json.dumps({"inputs": ${inputs}}))' |\ncurl --json @- ${shellQuote(url)}`,
        pythonClient("answer", "predict", [inputs], {
          model: quote(model.name),
          ensemble_size: size,
          seed: options.seed,
          members: "True",
        }),
      );
    },
  };
};
