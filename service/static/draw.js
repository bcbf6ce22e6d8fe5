/** The view in which a model draws, or finishes what one has begun. */

import { addressOf, generate, generateUrl, writeQuestion } from "./api.js";
import { createCall, pythonPost, shellQuote } from "./call.js";
import { plural } from "./numbers.js";
import { createPlayer } from "./player.js";
import { createSketch } from "./sketch.js";

const CHANGING = "hyper_lstm"; // the cell whose weights change at each step
const ROOM = 1.15; // side of a sheet, in the usual extent of the model's drawings

const element = (id) => document.getElementById(id);
const say = (text) => (element("draw-note").textContent = text);
const count = () => Number(document.querySelector("[name=drawings]:checked").value);
const isSingle = () => count() === 1;

export const createDraw = (studio) => {
  const sketch = createSketch(element("draw-pad"), { onStart: startStroke, onChange: changeSketch });
  const call = createCall("draw");
  let shown = null; // the model that draws
  let running = null; // the signal of the drawings that are being drawn
  let player = null; // of the last drawings
  let seed = ""; // of the last drawings

  const stop = () => {
    studio.cancel();
    setRunning(null);
    player?.complete();
    player?.pause();
  };

  /** Uncovers the pad. What lies below it stays there, lest the pad moves under the pen. */
  function startStroke() {
    stop();
    element("draw-box").classList.add("touched");
  }

  function changeSketch() {
    element("draw-box").classList.remove("touched");
    if (isSingle()) forget();
    showSketch();
  }

  const forget = () => {
    player?.remove();
    player = null;
    call.clear();
    seed = "";
    setRunning(null);
  };

  const setRunning = (signal) => {
    running = signal;
    element("draw-keep").disabled = seed === "";
    showStart();
  };

  const showStart = () => {
    const begun = !sketch.isEmpty();
    element("draw-start").textContent = running ? "Stop" : begun ? "Finish it" : "Draw";
    element("draw-start").disabled = !running && isTooLong();
    element("draw-undo").disabled = element("draw-clear").disabled = !begun && !player;
    element("draw-box").classList.toggle("used", begun);
  };

  const isTooLong = () => shown && sketch.points().length >= shown.input.max_points;

  const showSketch = () => {
    showStart();
    if (!shown) return;
    const points = sketch.points();
    const strokes = points.filter(([, , lifted]) => lifted).length;
    const drew = `You drew ${plural(strokes, "stroke")}, ${plural(points.length, "point")}.`;
    if (isTooLong()) {
      say(`${drew} The model goes on from at most ${shown.input.max_points - 1} points. Undo a stroke.`);
      element("summary").textContent = element("draw-note").textContent;
    } else if (strokes) say(`${drew} Let the model finish it.`);
    else say("Draw a few strokes, or leave the pad blank and let the model begin.");
  };

  function start() {
    const { model, size, seed: kept } = studio.read();
    const question = {
      prompt: sketch.points(),
      temperature: Number(element("draw-temperature").value),
      drawings: count(),
      ensemble_size: size,
      seed: kept,
    };
    const corner = sketch.corner();
    return studio.work((signal, arrive) => draw({ model, question, corner }, signal, arrive));
  }

  const draw = async ({ model, question, corner }, signal, arrive) => {
    setRunning(signal);
    say("");
    const tally = { drawings: question.drawings, points: 0, nats: 0, seed: "", reasons: [] };
    let frame = 0; // the number of the frame that will say what has come since the last one
    const refresh = () => {
      frame = 0;
      say(describe(tally, "Drawing. "));
    };
    let state = "Stopped. ";
    try {
      const { target } = await studio.describe(model, model.version, signal);
      const changes = question.drawings === 1 && target.size.cell === CHANGING;
      const take = (event) => {
        if ("seed" in event) {
          forget();
          setRunning(signal);
          seed = tally.seed = question.seed || String(event.seed);
          player = open(model.input, { ...question, changes, corner });
          showStart();
        } else if ("index" in event) {
          player.append(event.drawing, event.point, { changes: event.changes });
          tally.points++;
          tally.nats += event.nats;
        } else if ("finish_reason" in event) {
          tally.reasons.push(event.finish_reason);
        }
      };
      for await (const events of generate(model.name, { ...question, changes }, signal)) {
        if (signal.aborted) return;
        events.forEach(take);
        arrive();
        frame ||= requestAnimationFrame(refresh);
      }
      state = "";
      showCall(call, model.name, { ...question, seed, changes });
      element("summary").textContent = describe(tally, "Drawn: ");
    } finally {
      cancelAnimationFrame(frame);
      if (running === signal) {
        setRunning(null);
        player?.complete();
        if (state) player?.pause();
        say(describe(tally, state));
      }
    }
  };

  /** Sheets with what one has drawn, on which the pen goes on. A single one lies on the pad. */
  const open = ({ scale, extent }, { prompt, drawings, changes, corner }) => {
    const stage = element(drawings === 1 ? "draw-box" : "draw-player");
    const opened = createPlayer(element("draw-player"), { scale, side: ROOM * extent, sheets: drawings, changes, corner, stage });
    for (let sheet = 0; sheet < drawings; sheet++) prompt.forEach((point) => opened.append(sheet, point, { given: true }));
    opened.play();
    stage.scrollIntoView({ block: "nearest", behavior: opened.isStill() ? "auto" : "smooth" });
    return opened;
  };

  const showSettings = () => {
    const slider = element("draw-temperature");
    slider.labels[0].lastElementChild.value = Number(slider.value).toFixed(2);
  };

  element("draw-temperature").addEventListener("input", showSettings);
  element("draw-start").addEventListener("click", () => (running ? studio.cancel() : start()));
  element("draw-undo").addEventListener("click", () => {
    stop();
    if (!player || (!isSingle() && !sketch.isEmpty())) return sketch.undo();
    forget();
    showSketch();
  });
  element("draw-clear").addEventListener("click", () => {
    stop();
    forget();
    sketch.clear();
  });
  element("draw-keep").addEventListener("click", () => studio.setSeed(seed));
  document.querySelectorAll("[name=drawings]").forEach((input) =>
    input.addEventListener("change", () => {
      stop();
      forget();
      showSketch();
    }),
  );
  showSettings();

  return {
    reset: (model) => {
      if (shown?.name === model.name && shown.version === model.version) return;
      shown = model;
      forget();
      sketch.reset(ROOM * model.input.extent);
    },
  };
};

const describe = ({ drawings, points, nats, seed, reasons }, state) => {
  const parts = drawings > 1 ? [plural(drawings, "drawing")] : [];
  parts.push(plural(points, "point"));
  if (points) parts.push(`${signed(nats / points)} nats each`);
  if (seed !== "") parts.push(`seed ${seed}`);
  const cut = reasons.filter((reason) => reason === "length").length;
  const limit = drawings > 1 ? `${plural(cut, "drawing")} reached the most points.` : "It has reached the most points.";
  return `${state}${parts.join(", ")}.${cut ? ` ${limit}` : ""}`;
};

const signed = (value) => value.toFixed(2).replace("-", "−");

const showCall = (call, model, question) => {
  const url = addressOf(generateUrl(model));
  call.show(
    `curl -N --json ${shellQuote(writeQuestion({ ...question, stream: true }))} \\\n${shellQuote(url)}`,
    pythonPost(generateUrl(model), question),
  );
};
