// The sketch pad: mouse, finger, pen and keyboard draw strokes; each finished stroke is a new query.

import { byId } from "./dom.js";
import { drawStrokes, PAPER, simplified } from "./strokes.js";

const KEY_STEP = 12;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Sketchpad {
  #strokes = [];
  #drawn = null; // the stroke under the pointer
  #pen = { x: PAPER.width / 2, y: PAPER.height / 2, isDown: false, isShown: false };

  /** `onChange(strokes)` after each stroke, undo and clear; `onClose()`. */
  constructor({ onChange, onClose }) {
    this.panel = byId("sketch");
    this.canvas = byId("sketch-canvas");
    this.context = this.canvas.getContext("2d");
    this.hint = byId("sketch-hint");
    this.width = byId("sketch-width");
    this.onChange = onChange;
    this.onClose = onClose;
    this.canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, (event) => this.#end(event));
    this.canvas.addEventListener("keydown", (event) => this.#onKey(event));
    this.canvas.addEventListener("blur", () => this.#liftPen());
    byId("sketch-undo").addEventListener("click", () => this.#undo());
    byId("sketch-clear").addEventListener("click", () => this.#replace([]));
    byId("sketch-close").addEventListener("click", () => this.close());
    this.panel.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
  }

  get isOpen() {
    return !this.panel.hidden;
  }

  open() {
    this.panel.hidden = false;
    this.#draw();
    this.canvas.focus({ preventScroll: true });
  }

  close() {
    this.panel.hidden = true;
    this.onClose();
  }

  /** Show the strokes of the query; those of a stroke being drawn stay. */
  render(strokes) {
    if (strokes === this.#strokes) return;
    this.#strokes = strokes;
    this.#draw();
  }

  #begin(event) {
    if (event.button !== 0 || this.#drawn) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.#pen.isShown = false;
    this.#drawn = { pointer: event.pointerId, width: this.#lineWidth(event), points: this.#place(event) };
    this.#draw();
  }

  #move(event) {
    if (this.#drawn?.pointer !== event.pointerId) return;
    // A pen reports more often than the screen is drawn.
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const move of moves.length ? moves : [event]) this.#drawn.points.push(...this.#place(move));
    this.#draw();
  }

  #end(event) {
    if (this.#drawn?.pointer !== event.pointerId) return;
    const { width, points } = this.#drawn;
    this.#drawn = null;
    this.#replace([...this.#strokes, { width, points: simplified(points) }]);
  }

  // A pen's pressure at the beginning chooses within the width set; a mouse always reports one half.
  #lineWidth(event) {
    const pressure = event.pointerType === "pen" && event.pressure > 0 ? 0.5 + event.pressure : 1;
    return Math.max(1, Math.round(this.width.valueAsNumber * pressure));
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const clamp = (share, size) => Math.round(Math.min(1, Math.max(0, share)) * size);
    return [
      clamp((event.clientX - box.left) / box.width, PAPER.width),
      clamp((event.clientY - box.top) / box.height, PAPER.height),
    ];
  }

  #undo() {
    this.#replace(this.#strokes.slice(0, -1));
  }

  #replace(strokes) {
    this.#strokes = strokes;
    this.#draw();
    this.onChange(strokes);
  }

  #onKey(event) {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
      event.preventDefault();
      this.#undo();
    } else if (event.key === " ") {
      event.preventDefault();
      if (this.#pen.isDown) this.#liftPen();
      else this.#lowerPen();
    } else if (event.key in ARROWS && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      this.#movePen(ARROWS[event.key], event.shiftKey ? 4 : 1);
    }
  }

  #lowerPen() {
    this.#pen.isDown = this.#pen.isShown = true;
    this.#drawn = { pointer: "keyboard", width: this.width.valueAsNumber, points: [this.#pen.x, this.#pen.y] };
    this.#draw();
  }

  #movePen([x, y], steps) {
    this.#pen.x = Math.min(PAPER.width, Math.max(0, this.#pen.x + x * steps * KEY_STEP));
    this.#pen.y = Math.min(PAPER.height, Math.max(0, this.#pen.y + y * steps * KEY_STEP));
    this.#pen.isShown = true;
    if (this.#pen.isDown) this.#drawn.points.push(this.#pen.x, this.#pen.y);
    this.#draw();
  }

  #liftPen() {
    if (this.#pen.isDown) {
      this.#pen.isDown = false;
      this.#end({ pointerId: "keyboard" });
    }
    this.#pen.isShown = false;
    this.#draw();
  }

  #draw() {
    drawStrokes(this.context, this.#drawn ? [...this.#strokes, this.#drawn] : this.#strokes);
    this.hint.hidden = this.#strokes.length > 0 || this.#drawn !== null;
    for (const id of ["sketch-undo", "sketch-clear"]) byId(id).disabled = this.#strokes.length === 0;
    if (this.#pen.isShown) this.#drawPen();
  }

  #drawPen() {
    const { x, y, isDown } = this.#pen;
    this.context.strokeStyle = isDown ? "#b4532a" : "#1f6a78";
    this.context.lineWidth = 2;
    this.context.beginPath();
    this.context.arc(x, y, 9, 0, 2 * Math.PI);
    this.context.moveTo(x - 16, y);
    this.context.lineTo(x + 16, y);
    this.context.moveTo(x, y - 16);
    this.context.lineTo(x, y + 16);
    this.context.stroke();
  }
}
