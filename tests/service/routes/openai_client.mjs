// What the official npm client must be able to do; its arguments are the server's address and a picture's file.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import OpenAI, { toFile } from "openai";

const [url, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const bytes = await readFile(path);
const picture = () => toFile(bytes, "a.png", { type: "image/png" });
const few = { prompt: "a", seed: 5, num_inference_steps: 4 };
const collect = async (stream) => {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
};

const models = await collect(client.models.list());
assert.equal(models.length, 1);
const model = models[0].id;
assert.equal((await client.models.retrieve(model)).id, model);

const made = await client.images.generate({ ...few, model, n: 2, size: "32x48" });
assert.equal(made.data.length, 2);
assert.equal(made.size, "32x48");
assert.equal(made.usage.total_tokens, made.usage.input_tokens + made.usage.output_tokens);

const edit = {
  ...few,
  model,
  image: [await picture(), await picture()],
  mask: await picture(),
  metadata: { mine: "1" },
  guidance_interval: [0.2, 1],
};
const edited = await client.images.edit(edit);
assert.equal(edited.receipt.task, "edit");
assert.deepEqual(edited.metadata, { mine: "1" });
assert.deepEqual(edited.receipt.guidance.interval, [0.2, 1]);

for (const count of [0, 1, 2, 3]) {
  const events = await collect(await client.images.generate({ ...few, stream: true, partial_images: count }));
  const kinds = events.map((event) => event.type);
  assert.deepEqual(kinds, [...Array(count).fill("image_generation.partial_image"), "image_generation.completed"]);
  const streamed = await collect(await client.images.edit({ ...edit, stream: true, partial_images: count }));
  assert.equal(streamed.length, count + 1);
  assert.equal(streamed.at(-1).type, "image_edit.completed");
  assert.equal(streamed.at(-1).b64_json, edited.data[0].b64_json);
}

const image_url = { url: `data:image/png;base64,${bytes.toString("base64")}` };
const asked = { role: "user", content: [{ type: "image_url", image_url }, { type: "text", text: "What?" }] };
const chat = { model, messages: [asked], max_completion_tokens: 6 };
const answer = await client.chat.completions.create(chat);
const chunks = await collect(
  await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } }),
);
const told = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
assert.equal(told, answer.choices[0].message.content);
assert.deepEqual(chunks.at(-1).usage.total_tokens, answer.usage.total_tokens);

const drawn = await client.chat.completions.create({ ...chat, modalities: ["text", "image"], num_inference_steps: 2 });
const [image] = drawn.choices[0].message.images;
assert.match(image.image_url.url, /^data:image\/png;base64,/);
const later = [asked, drawn.choices[0].message, { role: "user", content: "And now?" }];
assert.ok((await client.chat.completions.create({ ...chat, messages: later })).usage.prompt_tokens_details.image_tokens);

const refusal = await client.images.generate({ prompt: "a", size: "33x33" }).catch((error) => error);
assert.ok(refusal instanceof OpenAI.BadRequestError);
assert.deepEqual([refusal.code, refusal.param], ["unsupported_size", "size"]);
const missing = await client.models.retrieve("other").catch((error) => error);
assert.ok(missing instanceof OpenAI.NotFoundError);
const long = { prompt: "a", num_inference_steps: 1000 };
const late = await client.images.generate(long, { timeout: 50 }).catch((error) => error);
assert.ok(late instanceof OpenAI.APIConnectionTimeoutError);
