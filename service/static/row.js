/** The view of a model of rows: a form made of its columns, and what the networks say about the row. */

import { addressOf, predictRows, predictUrl } from "./api.js";
import { createCall, pythonClient, quote, shellQuote } from "./call.js";
import { writeLabel } from "./labels.js";
import { decimal, percent, plural } from "./numbers.js";

const COVERAGE = 0.9; // of the intervals and sets that are asked for
const DAY = 86_400_000; // milliseconds

const element = (id) => document.getElementById(id);
const write = (id, text) => (element(id).textContent = text);
const short = (number) => String(Number(number.toPrecision(4)));
const dateOf = (days) => new Date(days * DAY).toISOString();

export const createRow = ({ askSoon, describe }) => {
  const form = element("row-form");
  const call = createCall("row");
  let fields = [];
  let shown = null; // the name and version of the model whose form is shown

  form.addEventListener("input", askSoon);

  return {
    reset: ({ name, version, input }) => {
      writeLabel(element("row-label"), "–");
      write("row-detail", "");
      element("row-outcome").replaceChildren();
      element("row-flags").replaceChildren();
      call.clear();
      if (shown === name + version) return;
      shown = name + version;
      fields = listColumns(input).map(createField);
      form.replaceChildren(...fields.map(({ root }) => root));
    },

    ask: async ({ model, size, seed }, signal) => {
      const { calibration } = await describe(model, model.version, signal);
      const coverage = calibration && 1 - COVERAGE >= calibration.rates[0] ? COVERAGE : undefined;
      const row = Object.fromEntries(fields.map(({ name, read }) => [name, read()]));
      const answer = await predictRows(model.name, [row], { size, seed, coverage }, signal);
      const [prediction] = answer.predictions;
      const { size: count, seed: used } = answer.ensemble;
      const [label, detail, lines] = prediction.outputs ? sayNumbers(prediction) : sayClasses(prediction, model.task);
      writeLabel(element("row-label"), label);
      write("row-detail", `${detail}, by ${plural(count, "network")} of seed ${used}`);
      element("row-outcome").replaceChildren(...lines.map(createLine));
      element("row-flags").replaceChildren(...Object.entries(prediction.flags).map(sayFlag));
      write("summary", `${label}, ${detail}`);
      const options = { size, seed: used, coverage, members: "" };
      call.show(
        `curl --json ${shellQuote(JSON.stringify({ inputs: [row] }))} \\\n${shellQuote(addressOf(predictUrl(model.name, options)))}`,
        pythonClient("answer", "predict", [`[${writeRow(Object.values(row))}]`], {
          model: quote(model.name),
          ensemble_size: size,
          seed: used,
          coverage,
        }),
      );
    },
  };
};

/** Columns of a table, or of a vector, whose numbers are like columns. */
const listColumns = ({ columns, names, mean, std }) =>
  columns ?? names.map((name, i) => ({ kind: "number", name, missing: false, mean: mean[i], std: std[i] }));

const createField = (column, index) => {
  const { name, kind, missing } = column;
  const id = `column-${index}`;
  const control = kind === "category" ? createChoice(column) : createEntry(column);
  control.id = id;
  const root = document.createElement("div");
  root.className = "field";
  const label = document.createElement("label");
  label.htmlFor = id;
  label.textContent = name;
  const note = document.createElement("p");
  note.className = "field-note";
  note.textContent = [describeRange(column), missing ? "may be empty" : ""].filter(Boolean).join("; ");
  root.append(label, control, note);
  const read = () => {
    if (control.value === "") return null;
    return kind === "number" ? Number(control.value) : control.value;
  };
  return { root, name, read };
};

const createChoice = ({ categories, missing }) => {
  const control = document.createElement("select");
  control.append(...categories.map((text) => new Option(text, text)), ...(missing ? [new Option("(missing)", "")] : []));
  return control;
};

const createEntry = ({ kind, mean, times }) => {
  const control = document.createElement("input");
  if (kind === "number") Object.assign(control, { type: "number", step: "any", value: short(mean) });
  else Object.assign(control, times ? { type: "datetime-local", value: dateOf(mean).slice(0, 16) } : { type: "date", value: dateOf(mean).slice(0, 10) });
  return control;
};

const describeRange = ({ kind, least, greatest, mean, std, others }) => {
  if (kind === "category") return others ? "others are possible over the API" : "";
  if (kind === "date") return `${dateOf(least).slice(0, 10)} to ${dateOf(greatest).slice(0, 10)} in training`;
  return least === undefined ? `${short(mean)} ± ${short(std)} in training` : `${short(least)} to ${short(greatest)} in training`;
};

/** Heading, detail, and lines of name, text and share. */
const sayNumbers = ({ outputs }) => {
  const lines = Object.entries(outputs).flatMap(([name, said]) => [
    ...(said.interval
      ? [[`${name}, ${100 * said.interval.coverage}% interval`, `${short(said.interval.lower)} to ${short(said.interval.upper)}`]]
      : []),
    [`${name}, noise`, `± ${short(Math.sqrt(said.noise_variance))}`, said.noise_variance / said.variance],
    [`${name}, disagreement`, `± ${short(Math.sqrt(said.epistemic_variance))}`, said.epistemic_variance / said.variance],
  ]);
  const [[name, { mean, standard_deviation: deviation }]] = Object.entries(outputs);
  return [short(mean), `${name} ± ${short(deviation)}`, lines];
};

const sayClasses = ({ label, probabilities, uncertainty, prediction_set: set }, { classes }) => {
  const lines = classes.map((name, k) => [name, percent(probabilities[k]), probabilities[k]]);
  if (set) lines.push([`${100 * set.coverage}% set`, set.labels.join(", ")]);
  lines.push(["disagreement", `${decimal(uncertainty.mutual_information)} of ${decimal(uncertainty.predictive_entropy)} nats`]);
  return [label, percent(Math.max(...probabilities)), lines];
};

const createLine = ([name, text, share]) => {
  const line = document.createElement("tr");
  const [head, bar, value] = ["th", "td", "td"].map((tag) => document.createElement(tag));
  head.scope = "row";
  head.textContent = name;
  value.textContent = text;
  value.className = "number";
  if (share !== undefined) bar.append(Object.assign(document.createElement("meter"), { value: share, ariaLabel: name }));
  line.append(head, bar, value);
  return line;
};

const sayFlag = ([name, { flagged, score_name: score, score: value, threshold }]) => {
  const line = document.createElement("p");
  line.className = flagged ? "note flagged" : "note";
  const title = name.replaceAll("_", " ");
  const measured = `${score.replaceAll("_", " ")} ${decimal(value)} is ${flagged ? "above" : "within"} the threshold ${decimal(threshold)}`;
  line.textContent = flagged ? `Flagged as ${title}: ${measured}.` : `Not flagged as ${title}: ${measured}. Other kinds of strangeness may go unseen.`;
  return line;
};

/** A row as Python. */
const writeRow = (values) => `[${values.map((value) => (value === null ? "None" : JSON.stringify(value))).join(", ")}]`;
