// The page: a form whose limits come from the server, and what comes back.

import { get, stream } from "./api.js";
import { asCurl, asPython } from "./copies.js";
import { Mask } from "./mask.js";

const TASKS = {
  generate: { path: "/v1/generate", words: "Prompt", run: "Generate" },
  edit: { path: "/v1/edit", words: "Instruction", run: "Edit" },
  understand: { path: "/v1/understand", words: "Question", run: "Ask" },
};
const NUM_PREVIEWS = 3;
const RETRY_SECONDS = 2;

const $ = (id) => document.getElementById(id);
const form = $("form");
const mask = new Mask($("mask"), $("breadth"));
let can = null;
let given = [];
let running = null;
let asked = null;

const task = () => form.elements.task.value;
const key = () => $("key").value.trim();

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// What the server can do

async function load() {
  try {
    can = await get("/v1/capabilities", key());
  } catch (error) {
    $("model").textContent = error.message;
    setTimeout(load, 1000 * (error.retryAfter ?? RETRY_SECONDS));
    return;
  }
  $("model").textContent = `${can.model} (${can.family}) is ready.`;
  for (const radio of form.elements.task) {
    radio.disabled = !can.tasks.includes(radio.value);
  }
  if (!can.tasks.includes(task())) form.querySelector(`[value=${can.tasks[0]}]`).checked = true;
  limit();
  turn();
}

/** Take limits and defaults from the server. */
function limit() {
  const { limits, defaults } = can;
  const [width, height] = defaults.size.split("x");
  const { step, min_side: min, max_side: max } = limits.size;
  const numbers = {
    width: { placeholder: width, step, min, max },
    height: { placeholder: height, step, min, max },
    n: { placeholder: defaults.n, max: limits.n },
    num_inference_steps: { placeholder: defaults.num_inference_steps, max: limits.num_inference_steps },
    image_guidance_scale: { placeholder: defaults.image_guidance_scale },
    max_tokens: { placeholder: defaults.max_tokens, max: limits.max_tokens },
  };
  for (const [name, values] of Object.entries(numbers)) Object.assign(form.elements[name], values);
  form.elements.prompt.maxLength = limits.prompt_chars;
  form.elements.solver.replaceChildren(
    ...can.solvers.map((name) => element("option", { value: name, textContent: name })),
  );
  form.elements.solver.value = defaults.solver;
}

/** Show what belongs to the task. */
function turn() {
  const now = task();
  for (const part of form.querySelectorAll("[data-tasks]")) {
    part.hidden = !part.dataset.tasks.split(" ").includes(now);
  }
  $("words").textContent = TASKS[now].words;
  $("run").textContent = TASKS[now].run;
  if (!can) return;
  $("run").disabled = running !== null;
  const guidance = now === "edit" ? can.defaults.edit_guidance_scale : can.defaults.guidance_scale;
  form.elements.guidance_scale.placeholder = guidance;
  for (const name of ["width", "height"]) {
    const [width, height] = can.defaults.size.split("x");
    form.elements[name].placeholder = now === "edit" ? "the image's" : name === "width" ? width : height;
  }
  $("masking").hidden = now !== "edit" || given.length !== 1;
  const examples = can.examples?.[now] ?? [];
  $("examples").replaceChildren(
    ...examples.map((words) =>
      element("button", {
        type: "button",
        textContent: words,
        onclick: () => {
          form.elements.prompt.value = words;
        },
      }),
    ),
  );
}

// Images that the request brings

async function give(files) {
  const images = [...files].filter((file) => file.type.startsWith("image/"));
  if (!images.length) return;
  await show(await Promise.all(images.map((file) => toUrl(file))));
}

const toUrl = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });

async function show(urls) {
  given = urls;
  const images = urls.map((src, i) => element("img", { src, alt: `Image ${i + 1} of the request` }));
  $("given").replaceChildren(...images);
  await Promise.all(images.map((image) => image.decode().catch(() => {})));
  if (images.length === 1 && images[0].naturalWidth) mask.lay(images[0]);
  turn();
}

// The request

/** The request's body as the API takes it. */
function body() {
  const now = task();
  const fields = {};
  for (const input of form.querySelectorAll("[name]:not([name=task])")) {
    const owner = input.closest("[data-tasks]");
    if (input.value === "" || (owner && !owner.dataset.tasks.split(" ").includes(now))) continue;
    fields[input.name] = input.type === "number" ? Number(input.value) : input.value;
  }
  if (fields.solver === can.defaults.solver) delete fields.solver;
  if (now !== "generate" && given.length) fields.image = given;
  if (!$("masking").hidden && $("masked").checked) fields.mask = mask.toBase64();
  return fields;
}

async function run() {
  const now = task();
  asked = { task: now, body: body() };
  running = new AbortController();
  begin();
  try {
    const looks = now === "understand" ? {} : { partial_images: NUM_PREVIEWS };
    for await (const [name, data] of stream(TASKS[now].path, { ...asked.body, ...looks }, key(), running.signal)) {
      HEARD[name]?.(data);
    }
  } catch (error) {
    fail(error);
  } finally {
    running = null;
    $("waiting").hidden = true;
    $("cancel").disabled = true;
    turn();
  }
}

function begin() {
  for (const id of ["made", "answer", "facts"]) $(id).replaceChildren();
  for (const id of ["error", "receipt"]) $(id).hidden = true;
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  $("bar").removeAttribute("value");
  $("stage").textContent = "Sent";
  $("waiting").hidden = false;
  $("cancel").disabled = false;
  $("curl").disabled = $("python").disabled = false;
  $("edit").disabled = true;
  turn();
}

/** What to do with each event of a stream. */
const HEARD = {
  progress({ stage, done, total, eta_seconds: eta }) {
    $("bar").max = total;
    $("bar").value = done;
    const left = eta === null ? "" : `, about ${eta < 10 ? eta.toFixed(1) : Math.round(eta)} s left`;
    $("stage").textContent = `${stage} ${done} of ${total}${left}`;
  },
  partial_image({ b64_json: data, image_index: index, mime_type: kind }) {
    picture(index, `data:${kind};base64,${data}`, "A rough look at the picture in the making");
  },
  text_delta({ text }) {
    $("answer").append(text);
  },
  completed(answer) {
    if (asked.task === "understand") $("answer").textContent = answer.answer;
    const urls = (answer.images ?? []).map((image) => `data:${image.mime_type};base64,${image.b64_json}`);
    urls.forEach((url, index) => picture(index, url, asked.body.prompt));
    $("edit").disabled = !urls.length || !can.tasks.includes("edit");
    const seconds = answer.timings.total.toFixed(2);
    const seeds = answer.images?.map((image) => image.seed) ?? [answer.seed];
    const warnings = answer.warnings.map((words) => ` ${words}`).join("");
    $("facts").textContent = `${seconds} s, seed ${seeds.join(", ")}.${warnings}`;
    if (answer.receipt) {
      $("receipt").hidden = false;
      $("receipt").querySelector("pre").textContent = JSON.stringify(answer.receipt, null, 2);
    }
    remember({ ...asked, urls, answer: answer.answer, seed: seeds[0] });
  },
};

function picture(index, src, alt) {
  const shown = $("made").children[index];
  if (shown) Object.assign(shown, { src, alt });
  else $("made").append(element("img", { src, alt }));
}

function fail(error) {
  $("error").textContent = error.name === "AbortError" ? "Cancelled." : error.message;
  $("error").hidden = false;
  const wrong = error.param === "image" ? $("files") : form.elements[error.param];
  if (wrong instanceof HTMLElement) {
    wrong.closest("details")?.setAttribute("open", "");
    wrong.setAttribute("aria-invalid", "true");
    wrong.focus();
  }
}

// What was made before

function remember(made) {
  $("nothing").hidden = true;
  const { body: fields, urls, answer, seed } = made;
  const button = element("button", { type: "button", onclick: () => recall(made) });
  if (urls.length) button.append(element("img", { src: urls[0], alt: "" }));
  button.append(`${fields.prompt}${answer ? ` – ${answer}` : ""} (seed ${seed})`);
  $("history").prepend(element("li", {}, button));
}

/** Put a request of before back into the form; a picture of it becomes the image to go on from. */
async function recall({ task: was, body: fields, urls, seed }) {
  form.querySelector(`[name=task][value=${was}]`).checked = true;
  for (const input of form.querySelectorAll("[name]:not([name=task])")) {
    input.value = fields[input.name] ?? (input.name === "solver" ? can.defaults.solver : "");
  }
  form.elements.seed.value = seed;
  urls.forEach((url, index) => picture(index, url, fields.prompt));
  unmask();
  await show(fields.image ?? urls);
  form.elements.prompt.focus();
}

/** Go on from what was made. */
async function edit() {
  form.querySelector("[name=task][value=edit]").checked = true;
  form.elements.prompt.value = "";
  unmask();
  await show([...$("made").children].map((image) => image.src));
  form.elements.prompt.focus();
}

function unmask() {
  $("masked").checked = false;
  $("brush").hidden = true;
}

async function copy(make) {
  await navigator.clipboard.writeText(make(location.origin, asked.task, asked.body, key() !== ""));
  $("facts").textContent = "Copied.";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
form.addEventListener("change", (event) => {
  if (event.target.name === "task") turn();
});
$("files").addEventListener("change", () => give($("files").files));
$("masked").addEventListener("change", () => {
  $("brush").hidden = !$("masked").checked;
});
$("clear").addEventListener("click", () => mask.clear());
$("cancel").addEventListener("click", () => running?.abort());
$("edit").addEventListener("click", edit);
$("curl").addEventListener("click", () => copy(asCurl));
$("python").addEventListener("click", () => copy(asPython));
$("key").addEventListener("change", load);
document.addEventListener("paste", (event) => give(event.clipboardData.files));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  give(event.dataTransfer.files);
});
load();
