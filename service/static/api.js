/** The HTTP interface of the service: one function per route, one error type for all failures. */

export class ApiError extends Error {
  constructor(message, hint = "", { status = 0, code = "" } = {}) {
    super(message);
    Object.assign(this, { name: "ApiError", hint, status, code });
  }

  /** Whether the same question would be refused again. */
  get isFinal() {
    return this.status >= 400 && this.status < 500 && ![401, 408, 429].includes(this.status);
  }

  /** Whether the image is what was refused. */
  get isOfImage() {
    return ["image_too_large", "unsupported_image", "invalid_image", "body_too_large"].includes(this.code);
  }
}

export const fetchModels = (signal) => fetchJson("v1/models", { signal });

/** All that is known of a model. */
export const fetchModel = (model, signal) => fetchJson(modelUrl(model), { signal });

/** What is known of the stream of a model's inputs. */
export const fetchMonitor = (model, signal) => fetchJson(monitorUrl(model), { signal });

/** What a model's examples, or those of the page, are: [{ file, caption, source, licence }], with a File each. */
export const fetchExamples = (entries, model, signal) => {
  const folder = model ? `${modelUrl(model)}/examples` : PAGE_EXAMPLES;
  return Promise.all(
    entries.map(async (entry) => {
      const response = await reach(`${folder}/${encodeURIComponent(entry.file)}`, { signal });
      if (!response.ok) await readJson(response);
      const content = await unlessBroken(response.blob());
      return { ...entry, file: new File([content], entry.file, { type: content.type }) };
    }),
  );
};

/** The list of the examples that come with the page, images of digits. */
export const fetchPageExamples = (signal) => fetchJson(`${PAGE_EXAMPLES}/examples.json`, { signal });

const PAGE_EXAMPLES = "static/examples";

/** Predictions of images, all by the same networks. */
export const predict = async (model, images, options, signal) => {
  const { seed } = options;
  const answer = await fetchJson(predictUrl(model, options), { method: "POST", body: upload(images), signal });
  if (!answer?.predictions?.length) throw new ApiError("The server's answer contains no prediction.");
  return keepSeed(answer, answer.ensemble, seed);
};

/** Predictions of rows of values, in order or by name. */
export const predictRows = async (model, inputs, options, signal) => {
  const answer = await fetchJson(predictUrl(model, options), { ...asJson(JSON.stringify({ inputs })), signal });
  return keepSeed(answer, answer.ensemble, options.seed);
};

export const attack = async (model, image, options, signal) => {
  const answer = await fetchJson(attackUrl(model, options), { method: "POST", body: upload([image]), signal });
  return keepSeed(answer, answer.ensemble, options.seed);
};

export const certify = async (model, image, options, signal) => {
  const answer = await fetchJson(certifyUrl(model, options), { method: "POST", body: upload([image]), signal });
  return keepSeed(answer, answer.ensemble, options.seed);
};

export const walk = async (model, image, options, signal) => {
  const answer = await fetchJson(walkUrl(model, options), { method: "POST", body: upload([image]), signal });
  return keepSeed(answer, answer, options.seed);
};

/** Yields what the service sends while it writes or draws: first which networks do, then symbols, then why they end. */
export async function* generate(model, question, signal) {
  const response = await reach(generateUrl(model), { ...asJson(writeQuestion({ ...question, stream: true })), signal });
  if (!response.ok) await readJson(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await unlessBroken(reader.read());
    if (done) throw new ApiError("The answer broke off.", "The server may have been stopped. Try again.");
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    const events = blocks.filter((block) => block.startsWith("data: ")).map((block) => block.slice("data: ".length));
    const sent = events.filter((event) => event !== "[DONE]").map(parse);
    yield sent.filter((event) => !event.error);
    const failed = sent.find((event) => event.error)?.error;
    if (failed) throw new ApiError(failed.message, failed.hint, { code: failed.code });
    if (events.at(-1) === "[DONE]") return;
  }
}

/** How surprising each character of a text is. */
export const score = async (model, question, signal) => {
  const answer = await fetchJson(scoreUrl(model), { ...asJson(writeQuestion(question)), signal });
  return keepSeed(answer, answer, question.seed);
};

/** The body of a question about a text or a drawing. Its seed is text, empty for a fresh one, so that no digit is lost. */
export const writeQuestion = ({ seed, ...rest }) => {
  const body = JSON.stringify(rest);
  return seed === "" ? body : `${body.slice(0, -1)},"seed":${seed}}`;
};

/** Weights of the first networks of a seed, a safetensors file. */
export const fetchNetworks = async (model, seed, count, signal) => {
  const response = await reach(networksUrl(model, seed, count), { signal });
  if (!response.ok) await readJson(response);
  return unlessBroken(response.arrayBuffer());
};

export const predictUrl = (model, { size, seed, coverage, members = true }) =>
  withQuery(model, "predict", { ensemble_size: size, members, seed, coverage });

export const attackUrl = (model, { size, seed, epsilon, steps }) =>
  withQuery(model, "attack", { epsilon, steps, ensemble_size: size, seed });

export const certifyUrl = (model, { size, seed, sigma, samples }) =>
  withQuery(model, "certify", { sigma, samples, ensemble_size: size, seed });

export const walkUrl = (model, { seed, from, to, points }) => withQuery(model, "walk", { seed, from, to, points });

export const weightsUrl = (model, seed, member) => withQuery(model, "weights", { seed, member });

export const networksUrl = (model, seed, count) => withQuery(model, "weights", { seed, count, dtype: "float16" });

export const monitorUrl = (model) => `${modelUrl(model)}/monitor`;

export const generateUrl = (model) => `${modelUrl(model)}/generate`;

export const scoreUrl = (model) => `${modelUrl(model)}/score`;

const withQuery = (model, route, parameters) => {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined);
  return `${modelUrl(model)}/${route}?${new URLSearchParams(given)}`;
};

const asJson = (body) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body });

const upload = (images) => {
  const body = new FormData();
  images.forEach((image) => body.append("images", image));
  return body;
};

/** A large seed loses digits as a number in JSON; the text that was asked for has them all. */
const keepSeed = (answer, place, seed) => {
  if (seed !== "") place.seed = seed;
  return answer;
};

/** The whole address of a path of this service, or of the service itself. */
export const addressOf = (path = ".") => new URL(path, document.baseURI).href.replace(/\/$/, "");

const modelUrl = (model) => `v1/models/${encodeURIComponent(model)}`;

const fetchJson = async (url, options) => readJson(await reach(url, options));

const readJson = async (response) => {
  const text = await unlessBroken(response.text());
  const answer = parse(text);
  if (answer === undefined) {
    throw new ApiError(
      `The server's answer (status ${response.status}) could not be read.`,
      "Something between this page and the service, such as a proxy, may have answered instead.",
      { status: response.status },
    );
  }
  if (!response.ok) {
    const { message, hint, code } = answer?.error ?? {};
    const { status } = response;
    throw new ApiError(message ?? `The server refused the request with status ${status}.`, hint ?? "", { status, code });
  }
  return answer;
};

/** Where the key is kept, if the service wants one, until the tab is closed. */
const KEY = "hyperdraw.key";

const reach = async (url, options = {}) => {
  for (let question = "An API key is required:"; ; question = "The service does not accept this key. Enter another one:") {
    const key = sessionStorage.getItem(KEY);
    const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
    const response = await unlessBroken(fetch(url, { ...options, headers }));
    if (response.status !== 401) return response;
    const given = window.prompt(question)?.trim();
    if (!given) return response;
    sessionStorage.setItem(KEY, given.replace(/[^\x21-\x7e]/g, "?"));
  }
};

/** Follows a link to a file, which the browser does by itself where no key is wanted. */
export const download = async (event) => {
  if (sessionStorage.getItem(KEY) === null) return;
  event.preventDefault();
  const response = await reach(event.currentTarget.href);
  const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
  if (!response.ok || !name) throw new ApiError(`The file could not be downloaded (${response.status}).`);
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(await response.blob()),
    download: name,
  });
  link.click();
  URL.revokeObjectURL(link.href);
};

const unlessBroken = async (promise) => {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", "Check that it is running, then try again.");
  }
};

const parse = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};
