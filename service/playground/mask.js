// A brush over a picture: what is painted may change.

const STEP = 0.02;

/** Paints on a canvas, with a pointer or with keys. */
export class Mask {
  #canvas;
  #painted = document.createElement("canvas");
  #picture = null;
  #at = { x: 0, y: 0 };
  #breadth;

  constructor(canvas, breadth) {
    this.#canvas = canvas;
    this.#breadth = breadth;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#move(event);
      this.#paint(this.#at, this.#at);
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = this.#at;
      this.#move(event);
      if (event.buttons) this.#paint(before, this.#at);
      this.#show();
    });
    canvas.addEventListener("keydown", (event) => this.#press(event));
    canvas.addEventListener("focus", () => this.#show());
    canvas.addEventListener("blur", () => this.#show());
  }

  /** Begin anew over a picture. */
  lay(picture) {
    this.#picture = picture;
    for (const canvas of [this.#canvas, this.#painted]) {
      canvas.width = picture.naturalWidth;
      canvas.height = picture.naturalHeight;
    }
    this.#at = { x: picture.naturalWidth / 2, y: picture.naturalHeight / 2 };
    this.clear();
  }

  clear() {
    this.#painted.getContext("2d").clearRect(0, 0, this.#painted.width, this.#painted.height);
    this.#show();
  }

  /** The mask's file in base64: transparent where it was painted. */
  toBase64() {
    const file = document.createElement("canvas");
    file.width = this.#painted.width;
    file.height = this.#painted.height;
    const context = file.getContext("2d");
    context.fillRect(0, 0, file.width, file.height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(this.#painted, 0, 0);
    return file.toDataURL("image/png").split(",")[1];
  }

  get #size() {
    return Math.max(1, (this.#breadth.value / 100) * Math.min(this.#canvas.width, this.#canvas.height));
  }

  #move(event) {
    const box = this.#canvas.getBoundingClientRect();
    this.#at = {
      x: ((event.clientX - box.left) / box.width) * this.#canvas.width,
      y: ((event.clientY - box.top) / box.height) * this.#canvas.height,
    };
  }

  #press(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      const clamp = (value, most) => Math.min(Math.max(value, 0), most);
      this.#at = {
        x: clamp(this.#at.x + way[0] * Math.max(1, STEP * this.#canvas.width), this.#canvas.width),
        y: clamp(this.#at.y + way[1] * Math.max(1, STEP * this.#canvas.height), this.#canvas.height),
      };
      this.#show();
    } else if (event.key === " ") {
      this.#paint(this.#at, this.#at);
    } else if (event.key === "Delete") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
  }

  #paint(from, to) {
    const context = this.#painted.getContext("2d");
    context.strokeStyle = "#fff";
    context.lineWidth = this.#size;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y + 0.01);
    context.stroke();
    this.#show();
  }

  #show() {
    if (!this.#picture) return;
    const context = this.#canvas.getContext("2d");
    context.drawImage(this.#picture, 0, 0, this.#canvas.width, this.#canvas.height);
    context.globalAlpha = 0.6;
    context.drawImage(this.#painted, 0, 0);
    context.globalAlpha = 1;
    context.lineWidth = Math.max(1, this.#canvas.width / 100);
    context.strokeStyle = document.activeElement === this.#canvas ? "#d00" : "#555";
    context.beginPath();
    context.arc(this.#at.x, this.#at.y, this.#size / 2, 0, 2 * Math.PI);
    context.stroke();
  }
}
