// The server, as the page sees it: JSON in and out, and answers that come in pieces.

/** What the server says about a request that it refuses or cannot finish. */
export class Refusal extends Error {
  constructor({ message, param, code }, retryAfter) {
    super(message);
    this.param = param;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

const headers = (key) => ({
  "Content-Type": "application/json",
  ...(key ? { Authorization: `Bearer ${key}` } : {}),
});

async function refusal(response) {
  const told = await response.json().catch(() => ({}));
  const fallback = { message: `The server answered ${response.status}.`, param: null, code: null };
  return new Refusal(told.error ?? fallback, Number(response.headers.get("Retry-After")) || null);
}

/** Get a JSON answer. */
export async function get(path, key) {
  const response = await fetch(path, { headers: headers(key) });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** Post a request and yield the stream's events as [name, data]; its last is `completed`. */
export async function* stream(path, body, key, signal) {
  const response = await fetch(path, {
    method: "POST",
    headers: headers(key),
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  for await (const block of blocks(response.body)) {
    const [name, data] = parse(block);
    if (name === "error") throw new Refusal(data.error);
    if (name) yield [name, data];
  }
}

/** Cut a stream of server-sent events where they end. */
async function* blocks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).replaceAll("\r\n", "\n").split("\n\n");
    text = parts.pop();
    yield* parts;
  }
}

function parse(block) {
  const fields = { event: "", data: [] };
  for (const line of block.split("\n")) {
    const [, name, value] = /^(\w*):? ?(.*)$/.exec(line) ?? [];
    if (name === "event") fields.event = value;
    if (name === "data") fields.data.push(value);
  }
  return [fields.event, fields.event ? JSON.parse(fields.data.join("\n")) : null];
}
