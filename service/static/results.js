/** Everything that shows an answer: the label, the classes, the uncertainty, the recipe. */

import { download, predictUrl, weightsUrl } from "./api.js";
import { createCall, curlUpload, pythonClient, quote } from "./call.js";
import { writeLabel } from "./labels.js";
import { decimal, percent, percentRange, plural, quantile } from "./numbers.js";

const COVERED = 0.9; // of the member networks lie in the interval that is shown

const element = (id) => document.getElementById(id);
const write = (id, text) => (element(id).textContent = text);

export const createResults = (root) => {
  const call = createCall("answer");
  let rows = [];
  let invitation = "";

  const redraw = () => rows.forEach(({ spread, members }) => drawSpread(spread, members));
  new ResizeObserver(redraw).observe(element("classes"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  const showClasses = (probabilities, members, winner) => {
    rows.forEach((row, index) => {
      fillRow(row, probabilities[index], members.map((member) => member[index]), index === winner);
    });
  };

  return {
    /** Says what to do for a first answer. */
    invite: (text) => {
      invitation = text;
      if (root.classList.contains("empty")) write("verdict-detail", invitation);
    },

    /** Lay out an empty answer of a model, so that nothing moves when the first one arrives. */
    reset: ({ task: { classes } }) => {
      root.classList.add("empty");
      rows = classes.map(createRow);
      element("classes").replaceChildren(...rows.map(({ line }) => line));
      showHeadline("?", "–", "mean of the networks");
      showVerdict("none", "Ask the networks", invitation);
      showEntropy(null, classes.length);
      write("variation-ratio", "–");
      showRecipe(call, null);
      write("summary", "");
      redraw();
    },

    show: (answer, model, image) => {
      const [prediction] = answer.predictions;
      const { probabilities, class_index: winner, label, uncertainty } = prediction;
      const verdict = judge(prediction.flags ?? {});
      const probability = percent(probabilities[winner]);
      const { size, settled } = prediction.ensemble ?? answer.ensemble;
      const networks = plural(size, "network");

      root.classList.remove("empty");
      const mean = size === 1 ? "of one network" : `mean of ${networks}`;
      showHeadline(label, probability, settled ? `${mean}; more would hardly change it` : mean);
      showVerdict(verdict.kind, verdict.title, verdict.detail);
      showClasses(probabilities, prediction.member_probabilities ?? [], winner);
      showEntropy(uncertainty, model.task.classes.length, prediction.flags?.out_of_distribution);
      write("variation-ratio", `${Math.round(uncertainty.variation_ratio * size)} of ${size}`);
      showRecipe(call, answer, image);
      write("summary", `Prediction: ${label}, ${probability}. ${verdict.title}. ${networks}, seed ${answer.ensemble.seed}.`);
    },
  };
};

const showHeadline = (label, probability, ensemble) => {
  writeLabel(element("label"), label);
  write("probability", probability);
  write("ensemble", ensemble);
};

const showVerdict = (kind, title, detail) => {
  element("verdict").dataset.kind = kind;
  write("verdict-title", title);
  write("verdict-detail", detail);
};

/** Scores that look at how far an input is from those of the training. */
const SCORES_OF_DISTANCE = new Set(["feature_distance", "combined_surprise"]);

const judge = ({ out_of_distribution: foreign, suspect_adversarial: suspect }) => {
  if (!foreign) {
    return { kind: "none", title: "No flags", detail: "This model is not calibrated, so it cannot raise flags." };
  }
  if (foreign.flagged) {
    return { kind: "flagged", title: "Undecided: ambiguous, or unlike the training data", detail: `out of distribution: ${compare(foreign)}` };
  }
  if (suspect?.flagged) {
    return { kind: "flagged", title: "Suspect: the answer does not survive small noise", detail: `suspect adversarial: ${compare(suspect)}` };
  }
  const seen = SCORES_OF_DISTANCE.has(foreign.score_name);
  const caution = seen ? "That is no guarantee." : "Networks can also be sure of an image that is foreign.";
  return { kind: seen ? "unflagged" : "none", title: "No flag", detail: `${compare(foreign)}. ${caution}` };
};

const compare = ({ score, score_name: name, threshold, flagged }) =>
  `${name.replaceAll("_", " ")} ${decimal(score)} is ${flagged ? "above" : "within"} the threshold ${decimal(threshold)}`;

const createRow = (name) => {
  const line = document.createElement("tr");
  const heading = document.createElement("th");
  heading.scope = "row";
  const label = document.createElement("span");
  writeLabel(label, name);
  heading.append(label);

  const track = document.createElement("td");
  track.className = "track";
  const bar = document.createElement("div");
  bar.className = "bar";
  const spread = document.createElement("canvas");
  spread.setAttribute("aria-hidden", "true");
  track.append(bar, spread);

  const mean = document.createElement("td");
  mean.className = "mean number";
  mean.textContent = "–";
  const range = document.createElement("td");
  range.className = "range number";
  const rangeText = document.createElement("span");
  range.append(rangeText);

  line.append(heading, track, mean, range);
  return { line, bar, spread, mean, range: rangeText, members: [] };
};

const fillRow = (row, probability, members, wins) => {
  row.members = members;
  row.line.classList.toggle("winner", wins);
  row.bar.style.setProperty("--share", probability);
  row.mean.textContent = percent(probability);
  row.range.textContent = members.length ? percentRange(...interval(members)) : "";
  drawSpread(row.spread, members);
};

const interval = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  return [quantile(sorted, (1 - COVERED) / 2), quantile(sorted, (1 + COVERED) / 2)];
};

/** One translucent dot per network, and the interval that holds most of them. */
const drawSpread = (canvas, members) => {
  const { clientWidth, clientHeight } = canvas;
  const radius = 2;
  const width = clientWidth - 2 * radius;
  const height = clientHeight - 4 * radius;
  canvas.width = clientWidth * devicePixelRatio;
  canvas.height = clientHeight * devicePixelRatio;
  if (members.length === 0) return;

  const context = canvas.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  context.fillStyle = getComputedStyle(canvas).color;

  const [low, high] = interval(members);
  context.fillRect(radius + low * width, clientHeight - 2, Math.max((high - low) * width, 1), 2);

  context.globalAlpha = Math.min(0.85, Math.max(0.12, 4 / Math.sqrt(members.length)));
  members.forEach((probability, member) => {
    // Golden-ratio steps spread the dots evenly, and give a network the same height in every row.
    const level = (0.5 + member * 0.618034) % 1;
    context.beginPath();
    context.arc(radius + probability * width, radius + level * height, radius, 0, 2 * Math.PI);
    context.fill();
  });
};

const showEntropy = (uncertainty, classes, flag) => {
  const limit = Math.log(classes);
  const bar = element("entropy").style;
  bar.setProperty("--ambiguity-share", (uncertainty?.expected_entropy ?? 0) / limit);
  bar.setProperty("--disagreement-share", (uncertainty?.mutual_information ?? 0) / limit);
  write("entropy-limit", `ln ${classes} = ${limit.toFixed(2)}, undecided`);
  write("predictive-entropy", uncertainty ? decimal(uncertainty.predictive_entropy) : "–");
  write("expected-entropy", uncertainty ? decimal(uncertainty.expected_entropy) : "–");
  write("mutual-information", uncertainty ? decimal(uncertainty.mutual_information) : "–");
  showThreshold(flag, limit);
};

const showThreshold = (flag, limit) => {
  const mark = element("threshold");
  const onThisScale = flag?.score_name === "predictive_entropy";
  mark.hidden = !onThisScale;
  if (!onThisScale) return;
  const share = Math.min(1, Math.max(0, flag.threshold / limit));
  mark.style.setProperty("--share", share);
  mark.classList.toggle("flipped", share > 0.5);
  mark.textContent = `threshold ${decimal(flag.threshold)}`;
};

const showRecipe = (call, answer, image) => {
  element("keep-seed").disabled = element("draw-again").disabled = !answer;
  if (!answer) {
    write("used-seed", "–");
    write("provenance", "–");
    call.clear();
    element("first-network").removeAttribute("href");
    return;
  }
  const { model, ensemble, predictions } = answer;
  const { seed } = ensemble;
  const grown = Boolean(predictions[0].ensemble);
  const size = grown ? "auto" : ensemble.size;
  write("used-seed", seed);
  write("provenance", `${model.name} · ${model.method} · version ${model.version.slice(0, 8)}`);
  call.show(
    curlUpload(predictUrl(model.name, { size, seed, members: !grown }), image.name),
    pythonClient("answer", "predict", [quote(image.name)], {
      model: quote(model.name),
      ensemble_size: grown ? quote(size) : size,
      seed,
      ...(grown ? {} : { members: "True" }),
    }),
  );
  Object.assign(element("first-network"), { href: weightsUrl(model.name, seed, 0), onclick: download });
};
