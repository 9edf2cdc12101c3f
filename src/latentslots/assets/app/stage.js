// The picture: drawing it, finding the thing under the pointer, and dragging things.

import { HANDLE, paint } from "/drawing.js";

const DRAG = 4; // CSS pixels that a pointer moves before it drags

export class Stage {
  /** `on` has the functions select, move, scale, drop, area, hover and refuse. */
  constructor(element, canvas, on) {
    this.element = element;
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.on = on;
    this.info = null;
    this.original = this.result = this.preview = null;
    this.map = this.shownMap = null;
    this.cutouts = new Map();
    this.selection = new Set();
    this.hovered = null;
    this.mode = "result";
    this.split = 0.5;
    this.holding = false;
    this.panning = false;
    this.choosingArea = false;
    this.square = null; // that is being chosen by keys
    this.drag = null;
    this.view = { scale: 1, x: 0, y: 0 };
    this.paths = new Map();
    new ResizeObserver(() => this.resize()).observe(element);
    for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave"]) {
      element.addEventListener(name, (event) => this[name](event));
    }
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("dblclick", (event) => this.dblclick(event));
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Show a picture; `fit` when it is another one. */
  set(info, images, { fit }) {
    Object.assign(this, images, { info });
    this.paths.clear();
    const numbers = new Set(info.things.map((thing) => thing.number));
    this.selection = new Set([...this.selection].filter((number) => numbers.has(number)));
    if (!numbers.has(this.hovered)) this.hovered = null;
    if (fit) this.fit();
    this.draw();
  }

  clear() {
    this.info = null;
    this.draw();
  }

  resize() {
    const ratio = devicePixelRatio;
    this.canvas.width = Math.round(this.element.clientWidth * ratio);
    this.canvas.height = Math.round(this.element.clientHeight * ratio);
    if (this.info && !this.moved) this.fit();
    this.draw();
  }

  get width() {
    return this.mode === "side" ? this.element.clientWidth / 2 : this.element.clientWidth;
  }

  fit() {
    this.moved = false;
    if (this.info) this.show([0, 0, this.info.width, this.info.height], 0.96);
  }

  /** Show a box of the picture as large as it fits. */
  show([left, top, right, bottom], share) {
    const scale = share * Math.min(this.width / (right - left), this.element.clientHeight / (bottom - top));
    this.view = {
      scale,
      x: this.width / 2 - (scale * (left + right)) / 2,
      y: this.element.clientHeight / 2 - (scale * (top + bottom)) / 2,
    };
  }

  setMode(mode) {
    this.mode = mode;
    this.fit();
    this.draw();
  }

  // Where things are

  /** The point of the picture under a pointer event. */
  point(event) {
    const box = this.element.getBoundingClientRect();
    let x = event.clientX - box.left;
    if (this.mode === "side" && x >= this.width) x -= this.width;
    return { x: (x - this.view.x) / this.view.scale, y: (event.clientY - box.top - this.view.y) / this.view.scale };
  }

  /** The thing at a point of the picture; `null` outside of the square. */
  thingAt({ x, y }) {
    if (!this.info || !this.map) return null;
    const [left, top, right, bottom] = this.info.square;
    if (x < left || x >= right || y < top || y >= bottom) return null;
    const { side, ids } = this.map;
    const column = Math.min(side - 1, Math.floor(((x - left) / (right - left)) * side));
    const row = Math.min(side - 1, Math.floor(((y - top) / (bottom - top)) * side));
    return ids[row * side + column];
  }

  thing(number) {
    return this.info?.things.find((thing) => thing.number === number);
  }

  // Drawing

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
    });
  }

  paint() {
    paint(this);
  }

  /** The box of a thing, where a drag has brought it. */
  boxOf(number, dragged) {
    const box = this.thing(number)?.box;
    if (!box || !dragged) return box;
    const { kind, x, y, factor, center } = this.drag;
    if (kind === "move") return [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
    const around = (value, middle) => middle + (value - middle) * factor;
    return [around(box[0], center.x), around(box[1], center.y), around(box[2], center.x), around(box[3], center.y)];
  }

  handles() {
    const [number] = this.selection;
    const box = this.thing(number)?.box;
    if (!box) return [];
    const { scale, x, y } = this.view;
    const [left, top, right, bottom] = [x + box[0] * scale, y + box[1] * scale, x + box[2] * scale, y + box[3] * scale];
    return [[left, top], [right, top], [left, bottom], [right, bottom]].map(([cx, cy]) => ({ x: cx, y: cy }));
  }

  // The pointer

  local(event) {
    const box = this.element.getBoundingClientRect();
    const x = event.clientX - box.left;
    return { x: this.mode === "side" && x >= this.width ? x - this.width : x, y: event.clientY - box.top };
  }

  pointerdown(event) {
    if (!this.info) return;
    this.element.focus({ preventScroll: true });
    if (event.button > 2 || this.drag) return;
    this.element.setPointerCapture(event.pointerId);
    const at = this.point(event);
    const place = this.local(event);
    const start = { at, clientX: event.clientX, clientY: event.clientY, view: { ...this.view } };
    if (this.panning || event.button === 1) {
      this.drag = { kind: "pan", ...start };
    } else if (this.mode === "slider" && Math.abs(place.x - this.split * this.width) < 10) {
      this.drag = { kind: "split", ...start };
    } else if (this.choosingArea) {
      this.drag = { kind: "area", square: [at.x, at.y, at.x, at.y], ...start };
    } else if (event.button === 0 && this.onHandle(place)) {
      const [number] = this.selection;
      const [left, top, right, bottom] = this.thing(number).box;
      const center = { x: (left + right) / 2, y: (top + bottom) / 2 };
      this.drag = { kind: "scale", things: [number], center, factor: 1, ...start };
    } else {
      this.drag = { kind: "press", number: this.thingAt(at), button: event.button, ...start };
    }
  }

  onHandle(place) {
    if (this.selection.size !== 1 || !this.info.has_frames) return false;
    return this.handles().some(({ x, y }) => Math.hypot(place.x - x, place.y - y) <= 2 * HANDLE);
  }

  pointermove(event) {
    if (!this.info) return;
    const at = this.point(event);
    if (!this.drag) {
      this.hover(this.thingAt(at));
      return;
    }
    const { drag } = this;
    const far = Math.hypot(event.clientX - drag.clientX, event.clientY - drag.clientY) > DRAG;
    if (drag.kind === "press" && far) this.beginMove(drag);
    if (drag.kind === "move") {
      Object.assign(drag, { x: at.x - drag.at.x, y: at.y - drag.at.y });
    } else if (drag.kind === "scale") {
      const length = (point) => Math.max(1e-6, Math.hypot(point.x - drag.center.x, point.y - drag.center.y));
      drag.factor = Math.min(20, Math.max(0.05, length(at) / length(drag.at)));
    } else if (drag.kind === "pan") {
      this.moved = true;
      this.view.x = drag.view.x + event.clientX - drag.clientX;
      this.view.y = drag.view.y + event.clientY - drag.clientY;
    } else if (drag.kind === "split") {
      this.split = Math.min(1, Math.max(0, this.local(event).x / this.width));
    } else if (drag.kind === "area") {
      drag.square = this.squareFrom(drag.at, at);
    }
    this.draw();
  }

  beginMove(drag) {
    const isGround = drag.number === null || this.thing(drag.number)?.is_background;
    if (drag.button === 0 && isGround) {
      drag.kind = "pan";
      return;
    }
    if (drag.button !== 0) {
      drag.kind = "idle";
      return;
    }
    if (!this.info.has_frames) {
      drag.kind = "idle";
      this.on.refuse("The slots of this model have no place of their own, so things cannot be moved.");
      return;
    }
    if (!this.selection.has(drag.number)) this.on.select([drag.number]);
    Object.assign(drag, { kind: "move", things: [...this.selection], x: 0, y: 0 });
  }

  /** A square with one corner at a point, in the direction of another, inside of the picture. */
  squareFrom(one, other) {
    const right = other.x >= one.x;
    const down = other.y >= one.y;
    const x = Math.round(Math.min(Math.max(one.x, 0), this.info.width));
    const y = Math.round(Math.min(Math.max(one.y, 0), this.info.height));
    const room = Math.min(right ? this.info.width - x : x, down ? this.info.height - y : y);
    const side = Math.round(Math.min(room, Math.max(Math.abs(other.x - one.x), Math.abs(other.y - one.y))));
    return [right ? x : x - side, down ? y : y - side, right ? x + side : x, down ? y + side : y];
  }

  pointerup(event) {
    const { drag } = this;
    this.drag = null;
    if (!drag || !this.info) return;
    if (drag.kind === "press") {
      this.press(drag, event);
    } else if (drag.kind === "move" && (drag.x || drag.y)) {
      this.on.move(drag.things, drag.x, drag.y);
    } else if (drag.kind === "scale" && drag.factor !== 1) {
      this.on.scale(drag.things, drag.factor);
    } else if (drag.kind === "area") {
      this.on.area(drag.square);
    }
    this.draw();
  }

  press({ number, button }, event) {
    const left = new Set(this.selection);
    if (button === 2 || event.altKey) {
      left.delete(number);
    } else if (event.shiftKey) {
      if (number !== null) left.add(number);
    } else {
      left.clear();
      if (number !== null) left.add(number);
    }
    this.on.select([...left]);
  }

  pointercancel() {
    this.drag = null;
    this.draw();
  }

  pointerleave() {
    if (!this.drag) this.hover(null);
  }

  hover(number) {
    if (number === this.hovered) return;
    this.hovered = number;
    this.on.hover(number);
    this.draw();
  }

  wheel(event) {
    if (!this.info) return;
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 400), this.local(event));
  }

  /** Zoom by a factor; the point at `place`, in CSS pixels, stays where it is. */
  zoom(factor, place = { x: this.width / 2, y: this.element.clientHeight / 2 }) {
    const scale = Math.min(64, Math.max(0.02, this.view.scale * factor));
    const share = scale / this.view.scale;
    this.moved = true;
    this.view = { scale, x: place.x + (this.view.x - place.x) * share, y: place.y + (this.view.y - place.y) * share };
    this.draw();
  }

  dblclick(event) {
    const box = this.thing(this.thingAt(this.point(event)))?.box;
    if (!box) return;
    this.moved = true;
    this.show(box, 0.7);
    this.draw();
  }

  /** Move the square that is being chosen, and change its side, in pixels of the picture. */
  adjustSquare(x, y, larger) {
    const [left, top, right] = this.square;
    const { width, height } = this.info;
    const side = Math.max(8, Math.min(width, height, right - left + larger));
    const x0 = Math.max(0, Math.min(width - side, left + x));
    const y0 = Math.max(0, Math.min(height - side, top + y));
    this.square = [x0, y0, x0 + side, y0 + side];
    this.draw();
  }

  /** Give up what is being dragged. */
  cancelDrag() {
    const dragged = this.drag !== null;
    this.drag = null;
    this.choosingArea = false;
    this.square = null;
    this.draw();
    return dragged;
  }
}
