// Loads a service from several clients: k6 run -e ADDRESS=… -e MODEL=… -e IMAGE=… k6.js

import { check } from "k6";
import encoding from "k6/encoding";
import http from "k6/http";

const image = open(__ENV.IMAGE, "b");
const model = __ENV.MODEL;
const tensor = {
  name: "encoded_images",
  shape: [1],
  datatype: "BYTES",
  data: [encoding.b64encode(image)],
};

export const options = {
  vus: 4,
  duration: "10s",
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate==0"],
    "http_req_duration{name:predict}": ["p(95)<5000"],
    "http_req_duration{name:weights}": ["p(95)<5000"],
    "http_req_duration{name:infer}": ["p(95)<5000"],
  },
  summaryTrendStats: ["med", "p(95)"],
};

export default function () {
  const own = `${__ENV.ADDRESS}/v1/models/${model}`;

  const form = { images: http.file(image, "image.png", "image/png") };
  const predicted = http.post(`${own}/predict?seed=7`, form, { tags: { name: "predict" } });
  const label = predicted.json("predictions.0.label");
  check(predicted, { "predict answers one image": (answer) => answer.json("predictions").length === 1 });

  const parameters = { tags: { name: "weights" }, responseType: "binary" };
  const weights = http.get(`${own}/weights?seed=7`, parameters);
  check(weights, {
    "weights are as long as they say": (answer) => answer.body.byteLength === Number(answer.headers["Content-Length"]),
  });

  const body = JSON.stringify({ inputs: [tensor], outputs: [{ name: "label" }], parameters: { seed: 7 } });
  const headers = { "Content-Type": "application/json" };
  const inferred = http.post(`${__ENV.ADDRESS}/v2/models/${model}/infer`, body, { headers, tags: { name: "infer" } });
  check(inferred, { "infer has the same label": (answer) => answer.json("outputs.0.data.0") === label });
}
