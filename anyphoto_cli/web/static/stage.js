// The canvas: an SVG, so that every face can be focused, moved by keys and found by a screen reader.

import { partOf } from "./api.js";
import { TOKEN, angleOf, changed, heightOf, middleOf, moved } from "./places.js";

export const COLOURS = ["#c02f45", "#00718a", "#7b48a8", "#237a30", "#a84f0d", "#28567e", "#8a2463", "#4f6a12"];
const NS = "http://www.w3.org/2000/svg";
const [LEAST, MOST] = [64, 4096];

function make(name, attributes, parent) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

// Names of neighbours do not run into each other; the list beside the picture has them whole.
function shorten(label, most) {
  const name = [...label.textContent];
  for (let left = name.length - 1; left > 0 && label.getComputedTextLength() > most; left--) {
    label.textContent = `${name.slice(0, left).join("").trimEnd()}…`;
  }
}

export class Stage {
  constructor(svg, state) {
    this.svg = svg;
    this.state = state;
    this.boxes = [];
    this.known = { width: LEAST, height: LEAST };
    this.drag = null;
    this.showGrid = this.showCanvas = true;
    svg.addEventListener("pointerdown", (event) => this.down(event));
    svg.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) svg.addEventListener(kind, (event) => this.up(event));
    svg.addEventListener("keydown", (event) => this.key(event));
    svg.addEventListener("focusin", (event) => {
      const person = event.target.closest?.(".person");
      if (person) state.choose(Number(person.dataset.index));
    });
  }

  // Boxes as the server last told them: exact until the next change.
  take(faces) {
    this.boxes = this.state.document.faces.map((face, k) =>
      faces[k] ? { box: faces[k].box, points: face.landmarks } : undefined);
    this.draw();
  }

  // Where the patch lies now: the server's box, moved and scaled as the points were since.
  boxOf(index) {
    const points = this.state.document.faces[index].landmarks;
    const known = this.boxes[index];
    if (!known) {
      const [x, y] = middleOf(points);
      const half = 0.46 * heightOf(points);  // ArcFace's square, until the server has told
      const top = y - 0.28 * half;
      return [x - half, top - half, x + half, top + half];
    }
    const factor = heightOf(points) / heightOf(known.points);
    const [was, now] = [middleOf(known.points), middleOf(points)];
    return known.box.map((value, k) => now[k % 2] + (value - was[k % 2]) * factor);
  }

  // The picture's, px; while one is typed that no picture has, the last one.
  size() {
    const { width, height } = this.state.document;
    if (Math.min(width, height) >= LEAST && Math.max(width, height) <= MOST) this.known = { width, height };
    return this.known;
  }

  unit() {
    return this.size().width / Math.max(this.svg.clientWidth, 1);
  }

  // Groups stay the same elements from one drawing to the next: an element that is replaced loses the focus.
  draw() {
    const { width, height } = this.size();
    const { faces } = this.state.document;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.style.setProperty("--ratio", width / height);
    this.under ??= make("g", {}, this.svg);
    this.people ??= make("g", {}, this.svg);
    this.over ??= make("g", { class: "over" }, this.svg);
    this.under.replaceChildren();
    if (this.showGrid) this.grid(width, height);
    while (this.people.childElementCount > faces.length) this.people.lastElementChild.remove();
    while (this.people.childElementCount < faces.length) make("g", { tabindex: 0, role: "button" }, this.people);
    faces.forEach((face, index) => this.person(this.people.children[index], face, index));
    this.over.replaceChildren();
    if (faces[this.state.chosen]) this.handles(faces[this.state.chosen], this.state.chosen);
  }

  focus(index) {
    this.people.children[index]?.focus({ preventScroll: true });
  }

  grid(width, height) {
    for (let x = TOKEN; x < width; x += TOKEN) make("line", { x1: x, y1: 0, x2: x, y2: height, class: "gridline" }, this.under);
    for (let y = TOKEN; y < height; y += TOKEN) make("line", { x1: 0, y1: y, x2: width, y2: y, class: "gridline" }, this.under);
  }

  person(group, face, index) {
    const chosen = index === this.state.chosen;
    const unit = this.unit();
    const [x0, y0, x1, y1] = this.boxOf(index);
    const [x, y] = middleOf(face.landmarks);
    for (const [key, value] of Object.entries({
      class: `person${chosen ? " chosen" : ""}`, "data-index": index, "aria-pressed": chosen,
      "aria-label": `${face.name}, at ${Math.round(x)}, ${Math.round(y)}, ${Math.round(x1 - x0)} pixels wide`,
    })) group.setAttribute(key, value);
    group.style.setProperty("--c", COLOURS[index % COLOURS.length]);
    group.replaceChildren();
    if (this.showGrid) this.tokens(group, x0, y0, x1, y1);
    const known = this.state.known(face);
    if (this.showCanvas && known && !known.problem) {
      make("image", { href: partOf("patch", face), x: x0, y: y0, width: x1 - x0, height: y1 - y0,
        preserveAspectRatio: "none" }, group);
    }
    make("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: "frame", "pointer-events": "all" }, group);
    for (const [px, py] of face.landmarks) make("circle", { cx: px, cy: py, r: 3.5 * unit, class: "point" }, group);
    const label = make("text", { x: x0 + 4 * unit, y: Math.max(y0 - 6 * unit, 15 * unit), "font-size": 14 * unit, class: "label" }, group);
    label.textContent = face.name;
    shorten(label, Math.max(x1 - x0, 90 * unit));
    make("title", {}, group).textContent = face.name;
  }

  tokens(group, x0, y0, x1, y1) {
    const { width, height } = this.size();
    const left = Math.max(Math.floor(x0 / TOKEN), 0) * TOKEN;
    const top = Math.max(Math.floor(y0 / TOKEN), 0) * TOKEN;
    const right = Math.min(Math.ceil(x1 / TOKEN) * TOKEN, width);
    const bottom = Math.min(Math.ceil(y1 / TOKEN) * TOKEN, height);
    if (right > left && bottom > top) {
      make("rect", { x: left, y: top, width: right - left, height: bottom - top, class: "token" }, group);
    }
  }

  handles(face, index) {
    const [x0, y0, x1, y1] = this.boxOf(index);
    const unit = this.unit();
    const angle = angleOf(face.landmarks);
    const [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2];
    const arm = (y1 - y0) / 2 + 24 * unit;
    const { width, height } = this.size();
    const tip = (way) => [x + way * Math.sin(angle) * arm, y - way * Math.cos(angle) * arm];
    const out = ([tx, ty]) => Math.max(-tx, -ty, tx - width, ty - height);
    const way = out(tip(1)) > 0 && out(tip(-1)) < out(tip(1)) ? -1 : 1;  // below, where there is more room than above
    const within = (value, most) => Math.min(Math.max(value, 9 * unit), most - 9 * unit);
    const [kx, ky] = [within(tip(way)[0], width), within(tip(way)[1], height)];
    this.over.setAttribute("data-index", index);
    this.over.style.setProperty("--c", COLOURS[index % COLOURS.length]);
    make("line", { x1: x, y1: way > 0 ? y0 : y1, x2: kx, y2: ky, class: "stem" }, this.over);
    make("circle", { cx: kx, cy: ky, r: 9 * unit, class: "handle turn", "data-do": "turn" }, this.over);
    const [cx, cy] = [within(x1, width), within(y1, height)];
    make("rect", { x: cx - 9 * unit, y: cy - 9 * unit, width: 18 * unit, height: 18 * unit, rx: 4 * unit, class: "handle",
      "data-do": "scale" }, this.over);
  }

  at(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    return [point.x, point.y];
  }

  down(event) {
    const group = event.target.closest("[data-index]");
    if (!group || event.button || this.drag) return;  // a second finger moves nothing
    event.preventDefault();
    const index = Number(group.dataset.index);
    this.state.choose(index);
    const points = this.state.document.faces[index].landmarks;
    this.drag = { index, points, from: this.at(event), doing: event.target.dataset.do || "move", middle: middleOf(points),
      pointer: event.pointerId };
    this.svg.setPointerCapture(event.pointerId);
    this.focus(index);
  }

  move(event) {
    if (!this.drag || event.pointerId !== this.drag.pointer) return;
    const { index, points, from, doing, middle } = this.drag;
    if (!this.state.document.faces[index]) return;  // removed meanwhile
    const now = this.at(event);
    const away = ([x, y]) => Math.hypot(x - middle[0], y - middle[1]);
    const turn = ([x, y]) => Math.atan2(y - middle[1], x - middle[0]);
    let placed = this.inside(points, now[0] - from[0], now[1] - from[1]);
    if (doing === "scale") placed = changed(points, Math.max(away(now) / Math.max(away(from), 1), 0.1), 0);
    if (doing === "turn") placed = changed(points, 1, turn(now) - turn(from));
    this.state.live((layout) => { layout.faces[index].landmarks = placed; });
  }

  // Moved, its middle inside the picture: what lies outside could not be taken hold of again.
  inside(points, dx, dy) {
    const { width, height } = this.size();
    const [x, y] = middleOf(points);
    return moved(points, Math.min(Math.max(x + dx, 0), width) - x, Math.min(Math.max(y + dy, 0), height) - y);
  }

  up(event) {
    if (!this.drag || event.pointerId !== this.drag.pointer) return;
    this.drag = null;
    this.state.commit();
  }

  key(event) {
    const person = event.target.closest?.(".person");
    if (!person || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = Number(person.dataset.index);
    const points = this.state.document.faces[index].landmarks;
    const far = event.shiftKey ? TOKEN : Math.max(1, Math.round(this.size().width / 512));
    const placed = {
      ArrowLeft: () => this.inside(points, -far, 0), ArrowRight: () => this.inside(points, far, 0),
      ArrowUp: () => this.inside(points, 0, -far), ArrowDown: () => this.inside(points, 0, far),
      "+": () => changed(points, 1.04, 0), "=": () => changed(points, 1.04, 0), "-": () => changed(points, 1 / 1.04, 0),
      "[": () => changed(points, 1, -0.05), "]": () => changed(points, 1, 0.05),
    }[event.key];
    if (placed) {
      event.preventDefault();
      this.state.change((layout) => { layout.faces[index].landmarks = placed(); });
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      this.state.change((layout) => { layout.faces.splice(index, 1); });
      const left = this.people.childElementCount;
      if (left) this.focus(Math.min(index, left - 1));
      else document.getElementById("add").focus();
    }
  }
}
