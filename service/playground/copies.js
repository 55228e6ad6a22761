// The request on the page as a command or a program of one's own.

const PATHS = { generate: "/v1/generate", edit: "/v1/edit", understand: "/v1/understand" };
const FILES = { image: "image", mask: "mask" };

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
const python = (value) => JSON.stringify(value, null, 4);

function split(body) {
  const { image = [], mask, ...fields } = body;
  return { fields, images: image.map((_, i) => `${FILES.image}${i || ""}.png`), mask: mask && `${FILES.mask}.png` };
}

const keyed = (hasKey) => (hasKey ? ` -H "Authorization: Bearer $HBRIDGE_API_KEY"` : "");

/** A shell command; images are read from files. */
export function asCurl(origin, task, body, hasKey) {
  const { fields, images, mask } = split(body);
  const curl = `curl -sS ${origin}${PATHS[task]}${keyed(hasKey)}`;
  if (task === "edit") {
    const parts = [
      ...images.map((name) => `-F image=@${name}`),
      ...(mask ? [`-F mask=@${mask}`] : []),
      ...Object.entries(fields).map(([name, value]) => `-F ${quoted(`${name}=${value}`)}`),
    ];
    return [curl, ...parts].join(" \\\n  ");
  }
  const json = quoted(JSON.stringify(fields));
  if (!images.length) return `${curl} \\\n  --json ${json}`;
  // Through a pipe: an argument of a command must not be as long as an image.
  const files = images.map((name) => `"'"$(base64 -w0 ${name})"'"`).join(", ");
  return `printf %s ${json.slice(0, -2)}, "image": [${files}]}' |\n  ${curl} --json @-`;
}

/** A Python program; images are read from files. */
export function asPython(origin, task, body, hasKey) {
  const { fields, images, mask } = split(body);
  const lines = ["import base64", hasKey && "import os", "from pathlib import Path", "", "import httpx", ""];
  if (images.length || mask) {
    lines.push("", "def read(name):", "    return base64.b64encode(Path(name).read_bytes()).decode()", "", "");
  }
  lines.push(`body = ${python(fields)}`);
  if (images.length) lines.push(`body["image"] = [${images.map((name) => `read("${name}")`).join(", ")}]`);
  if (mask) lines.push(`body["mask"] = read("${mask}")`);
  const key = hasKey ? ', headers={"Authorization": f"Bearer {os.environ[\'HBRIDGE_API_KEY\']}"}' : "";
  lines.push(`response = httpx.post("${origin}${PATHS[task]}", json=body${key}, timeout=300)`);
  lines.push("answer = response.raise_for_status().json()");
  if (task === "understand") lines.push('print(answer["answer"])');
  else {
    lines.push('for index, image in enumerate(answer["images"]):');
    lines.push('    Path(f"out-{index}.png").write_bytes(base64.b64decode(image["b64_json"]))');
  }
  return `${lines.filter((line) => line !== false).join("\n")}\n`;
}
