/** The view of a model's stream of inputs: whether it is still like the calibration, and what is predicted. */

import { addressOf, fetchMonitor, monitorUrl } from "./api.js";
import { createCall, pythonClient, quote, shellQuote } from "./call.js";
import { createChart, roundRange } from "./chart.js";
import { percent, plural } from "./numbers.js";

const PERIOD = 10_000; // milliseconds until the service is asked again while the view is shown
const LATEST = 0.25; // share of the stream's parts that count as the latest inputs
const MOST_CLASSES = 20; // that are listed
const LEAST_LOG = -1; // the lower end of the martingale's chart, at most

const element = (id) => document.getElementById(id);
const write = (id, text) => (element(id).textContent = text);

export const createMonitor = (studio) => {
  const call = createCall("monitor");
  let views = {}; // of the model's flags, by name

  setInterval(() => !element("monitor").hidden && !document.hidden && studio.ask(), PERIOD);

  const offer = (flags) => {
    if (flags.join() === Object.keys(views).join()) return;
    views = Object.fromEntries(flags.map((flag) => [flag, createFlag(flag)]));
    element("monitor-flags").replaceChildren(...Object.values(views).map(({ root }) => root));
  };

  return {
    reset: () => {
      offer([]);
      element("monitor-classes").hidden = true;
      write("monitor-note", "");
      call.clear();
    },

    ask: async ({ model }, signal) => {
      const known = await fetchMonitor(model.name, signal);
      offer(Object.keys(known.flags));
      const since = new Date(1000 * known.since).toLocaleString();
      const watched = `${plural(known.inputs, "input")} since ${since}.`;
      const said = Object.entries(known.flags).map(([flag, own]) => views[flag].show(own, known));
      write("monitor-note", said.length ? watched : `${watched} The model has no calibration, so there are no flags to watch.`);
      write("summary", [watched, ...said].join(" "));
      showClasses(known);
      call.show(
        `curl ${shellQuote(addressOf(monitorUrl(model.name)))}`,
        pythonClient("known", "monitor", [], { model: quote(model.name) }),
      );
    },
  };
};

const createFlag = (flag) => {
  const root = element("monitor-flag").content.firstElementChild.cloneNode(true);
  const part = (name) => root.querySelector(`.${name}`);
  const charts = Object.fromEntries(["martingale", "share", "scores"].map((name) => [name, createChart(part(name))]));
  const title = flag.replaceAll("_", " ");
  part("title").textContent = title;
  root.setAttribute("aria-label", title);

  return {
    root,
    /** Shows what is known, and returns it as a sentence. */
    show: (own, known) => {
      const { alarm } = own;
      const kind = alarm ? "flagged" : known.inputs ? "unflagged" : "none";
      const when = alarm && new Date(1000 * alarm.time).toLocaleString();
      const verdict = alarm ? "The inputs have changed" : known.inputs ? "No change so far" : "No inputs so far";
      const flagged = `${percent(own.share)} flagged (95% interval ${percent(own.lower)} to ${percent(own.upper)}), where at most ${percent(own.false_alarm_rate)} are expected.`;
      const detail = alarm ? `This was certain after ${plural(alarm.inputs, "input")}, ${when}. ${flagged}` : known.inputs ? flagged : "";
      part("verdict").dataset.kind = kind;
      part("verdict-title").textContent = verdict;
      part("verdict-detail").textContent = detail;
      part("charts").hidden = !known.history.length;
      if (known.history.length) {
        charts.martingale.show(drawMartingale(flag, own, known), `The martingale of ${title} is at 10^${own.log10_martingale.toFixed(1)}; the alarm is at ${1 / known.level}.`);
        charts.share.show(drawShare(flag, own, known), `Share of inputs flagged as ${title} over time: ${flagged}`);
        charts.scores.show(drawScores(flag, known), describeScores(flag, known));
      }
      return `${title}: ${verdict}. ${detail}`;
    },
  };
};

/** Numbers of inputs at the ends of the parts. */
const listEnds = ({ history }) => {
  let sum = 0;
  return history.map(({ inputs }) => (sum += inputs));
};

const describeAxis = (known) => ({ min: 0, max: known.inputs, label: "inputs" });

const drawMartingale = (flag, { alarm, log10_martingale: now }, known) => {
  const level = Math.log10(1 / known.level);
  const heights = known.history.map(({ flags }) => flags[flag].highest_log10);
  const least = Math.min(LEAST_LOG, now, ...heights);
  return {
    x: describeAxis(known),
    y: { ...roundRange(least, Math.max(level + 1, ...heights)), format: (power) => `10${raise(power)}` },
    lines: [
      { points: [[0, level], [known.inputs, level]], color: "flagged", width: 1, dash: [4, 4] },
      { points: [[0, 0], ...listEnds(known).map((end, i) => [end, heights[i]])], color: "ambiguity" },
    ],
    marks: alarm ? [{ x: alarm.inputs, color: "flagged", dash: [4, 4], label: "alarm" }] : [],
  };
};

const raise = (power) => String(power).replace(/[-\d.]/g, (sign) => ({ "-": "⁻", ".": "·" })[sign] ?? "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign]);

const drawShare = (flag, { false_alarm_rate: rate }, known) => {
  const ends = listEnds(known);
  const parts = known.history.map(({ flags, inputs }, i) => ({ at: ends[i] - inputs / 2, ...flags[flag] }));
  const x = describeAxis(known);
  return {
    x,
    y: { min: 0, max: Math.min(1, 1.1 * Math.max(2 * rate, ...parts.map(({ upper }) => upper))), format: (share) => `${Math.round(1000 * share) / 10}%` },
    bands: [{ points: parts.map(({ at, lower, upper }) => [at, lower, upper]), color: "mean" }],
    lines: [
      { points: parts.map(({ at, share }) => [at, share]), color: "ambiguity", dots: parts.length > 1 ? 0 : 3 },
      { points: [[0, rate], [x.max, rate]], color: "muted", width: 1, dash: [4, 4] },
    ],
  };
};

/** Of some parts of the stream, the shares of inputs above the thresholds of all rates. */
const measureShares = (flag, parts, rates) => {
  const total = parts.reduce((sum, { inputs }) => sum + inputs, 0);
  return rates.map((_, i) => {
    const above = parts.map(({ flags }) => flags[flag].counts.slice(0, i + 1).reduce((sum, count) => sum + count, 0));
    return above.reduce((sum, count) => sum + count, 0) / total;
  });
};

const chooseLatest = ({ history }) => history.slice(-Math.ceil(LATEST * history.length));

const drawScores = (flag, known) => {
  const { rates, history } = known;
  const least = rates[0] / 2;
  const axis = { log: true, min: least, max: 1, ticks: [...rates.filter((rate) => [0.001, 0.01, 0.1].includes(rate)), 1], format: (share) => `${100 * share}%` };
  const curve = (parts) => measureShares(flag, parts, rates).map((share, i) => [rates[i], Math.max(share, least)]);
  return {
    x: { ...axis, label: "of the calibration" },
    y: { ...axis, label: "of the inputs" },
    lines: [
      { points: [[least, least], [1, 1]], color: "muted", width: 1, dash: [4, 4] },
      { points: curve(history), color: "ambiguity", dots: 3 },
      { points: curve(chooseLatest(known)), color: "disagreement", dots: 3 },
    ],
  };
};

const describeScores = (flag, known) => {
  const { rates } = known;
  const latest = measureShares(flag, chooseLatest(known), rates);
  const said = measureShares(flag, known.history, rates).map(
    (share, i) => `${percent(share)} of all inputs and ${percent(latest[i])} of the latest exceed what ${percent(rates[i])} of the calibration exceed`,
  );
  return `${said.join("; ")}.`;
};

const showClasses = ({ classes, inputs }) => {
  element("monitor-classes").hidden = !classes || !inputs;
  if (!classes || !inputs) return;
  const listed = [...classes].sort((a, b) => b.inputs - a.inputs).slice(0, MOST_CLASSES);
  const most = Math.max(...listed.map((own) => Math.max(own.inputs / inputs, own.test_share ?? 0)));
  const lines = classes.filter((own) => listed.includes(own)).map((own) => createLine(own, inputs, most));
  element("monitor-lines").replaceChildren(...lines);
  const rest = classes.length - listed.length;
  const compared = classes.some(({ test_share: share }) => share !== null)
    ? "The second number is the class's share of the labels in the test set."
    : "The model card does not say how frequent the classes are in the test set.";
  write("monitor-classes-note", rest ? `${compared} ${plural(rest, "class")} were predicted less often.` : compared);
};

const createLine = ({ label, inputs, test_share: expected }, total, most) => {
  const line = document.createElement("tr");
  const [head, bar, share, test] = ["th", "td", "td", "td"].map((tag) => document.createElement(tag));
  head.scope = "row";
  head.textContent = label;
  bar.append(Object.assign(document.createElement("meter"), { max: most, value: inputs / total, ariaLabel: `${label}, predicted` }));
  share.textContent = percent(inputs / total);
  test.textContent = expected === null ? "" : percent(expected);
  share.className = "number";
  test.className = "number muted";
  line.append(head, bar, share, test);
  return line;
};
