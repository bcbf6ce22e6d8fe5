/** The HTTP interface of the service: one function per route, one error type for all failures. */

export class ApiError extends Error {
  constructor(message, hint = "") {
    super(message);
    this.name = "ApiError";
    this.hint = hint;
  }
}

export const fetchModels = (signal) => fetchJson("/v1/models", { signal });

export const fetchImage = async (url, signal) => {
  const response = await reach(url, { signal });
  if (!response.ok) throw new ApiError(`The image could not be loaded (${response.status}).`);
  return new File([await response.blob()], url.split("/").pop(), { type: "image/png" });
};

export const predict = async (model, image, { size, seed }, signal) => {
  const body = new FormData();
  body.append("images", image);
  const answer = await fetchJson(predictUrl(model, size, seed), { method: "POST", body, signal });
  if (!answer?.predictions?.length) throw new ApiError("The server's answer holds no prediction.");
  // A large seed loses digits as a number in JSON; the text that was asked for has them all.
  if (seed !== "") answer.ensemble.seed = seed;
  return answer;
};

export const predictUrl = (model, size, seed) => {
  const query = new URLSearchParams({ ensemble_size: size, members: true });
  if (seed !== "") query.set("seed", seed);
  return `${modelUrl(model)}/predict?${query}`;
};

export const weightsUrl = (model, seed, member) =>
  `${modelUrl(model)}/weights?${new URLSearchParams({ seed, member })}`;

const modelUrl = (model) => `/v1/models/${encodeURIComponent(model)}`;

const fetchJson = async (url, options) => {
  const response = await reach(url, options);
  const text = await unlessBroken(response.text());
  const answer = parse(text);
  if (answer === undefined) {
    throw new ApiError(
      `The server's answer (status ${response.status}) could not be read.`,
      "Something between this page and the service may have answered in its place.",
    );
  }
  if (!response.ok) {
    const { message, hint } = answer?.error ?? {};
    throw new ApiError(message ?? `The server refused with status ${response.status}.`, hint ?? "");
  }
  return answer;
};

/** Where the key is kept, if the service wants one, until the tab is closed. */
const KEY = "hyperdraw.key";

const reach = async (url, options = {}) => {
  for (let question = "This service wants a key:"; ; question = "The service does not take this key. Another one:") {
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
