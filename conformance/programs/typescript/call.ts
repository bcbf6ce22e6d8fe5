// Calls a service with the types that openapi-typescript makes of its description: node call.ts ADDRESS MODEL IMAGE

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.ts";

type Schemas = components["schemas"];

const [address, model, file] = process.argv.slice(2);
assert(address && model && file);
const client = createClient<paths>({ baseUrl: address });
const image = (await readFile(file)).toString("base64");
const path = { model };

function describeInput(input: Schemas["InputSpec"] | Schemas["SequenceInput"]): string {
  switch (input.kind) {
    case "image":
      return `images of ${input.height} × ${input.width} pixels`;
    case "vector":
      return `vectors of ${input.names.length} numbers`;
    case "table":
      return `rows of ${input.columns.length} columns`;
    case "text":
      return `text of ${input.symbols.length} characters`;
    case "strokes":
      return "drawings";
  }
}

const models = await client.GET("/v1/models");
assert(models.data);
for (const { name, input, task } of models.data.models) console.log(`${name}: ${task.kind} of ${describeInput(input)}`);

const query = { seed: 7, ensemble_size: 10 };
const predicted = await client.POST("/v1/models/{model}/predict", {
  params: { path, query: { ...query, coverage: 0.9 } },
  body: { images: [image] },
});
assert(typeof predicted.data === "object", JSON.stringify(predicted.error)); // rather than a string of bytes
const [prediction] = predicted.data.predictions;
assert(prediction && "label" in prediction);
assert.equal(predicted.data.ensemble.seed, query.seed);
assert.ok(prediction.prediction_set?.labels.includes(prediction.label));

const form = new FormData();
form.append("images", new Blob([await readFile(file)]), "image.png");
const uploaded = await client.POST("/v1/models/{model}/predict", {
  params: { path, query },
  body: { images: [] }, // the form below takes its place
  bodySerializer: () => form,
});
assert(typeof uploaded.data === "object", JSON.stringify(uploaded.error));
const [same] = uploaded.data.predictions;
assert(same && "label" in same);
assert.equal(same.label, prediction.label);

const weights = await client.GET("/v1/models/{model}/weights", {
  params: { path, query: { seed: 7, count: 2 } },
  parseAs: "arrayBuffer",
});
assert(weights.data);
const length = Number(new DataView(weights.data).getBigUint64(0, true));
const header: Record<string, unknown> = JSON.parse(new TextDecoder().decode(new Uint8Array(weights.data, 8, length)));
assert.ok(Object.keys(header).length > 1);

const tensor: Schemas["InputTensor"] = { name: "encoded_images", shape: [1], datatype: "BYTES", data: [image] };
const inferred = await client.POST("/v2/models/{model}/infer", {
  params: { path },
  body: { id: "7", parameters: query, inputs: [tensor], outputs: [{ name: "label" }] },
});
assert(typeof inferred.data === "object", inferred.error?.error);
assert.equal(inferred.data.id, "7");
assert.deepEqual(inferred.data.outputs[0]?.data, [prediction.label]);

const refused = await client.POST("/v2/models/{model}/infer", { params: { path }, body: { inputs: [] } });
assert.equal(refused.response.status, 400);
assert.match(refused.error?.error ?? "", /inputs/);
const unknown = await client.GET("/v1/models/{model}", { params: { path: { model: "nothing" } } });
assert.equal(unknown.response.status, 404);
assert.equal(unknown.error?.error.code, "unknown_model");
