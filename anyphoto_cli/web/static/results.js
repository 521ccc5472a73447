// Renders: the one under way, and those that were.

import { api, pictureOf } from "./api.js";

const SAID = {
  good: () => "", found: () => "", unlike: () => "unlike", missing: () => "missing",
  off: ({ off }) => `${typeof off === "number" ? `${Math.round(100 * off)} % of a face ` : ""}off its place`,
  swapped: ({ like }) => `is ${like}`, "perhaps swapped": ({ like }) => `perhaps ${like}`, twice: ({ like }) => `is ${like} again`,
};

export class Results {
  constructor(page, state, complain) {
    Object.assign(this, { page, state, complain, job: null });
    page.render.addEventListener("click", () => this.ask());
    page.cancel.addEventListener("click", () => this.job && api.cancel(this.job).catch(complain));
  }

  async ask() {
    try {
      this.follow(await api.render(this.state.document));
    } catch (error) {
      this.complain(error);
    }
  }

  follow(job) {
    this.job = job.id;
    this.show(job);
    api.watch(job.id, (now) => this.show(now));
  }

  show(job) {
    const { page } = this;
    const over = ["done", "failed", "cancelled"].includes(job.state);
    page.progress.hidden = over;
    page.cancel.hidden = over;
    page.render.disabled = !over;
    page.bar.max = Math.max(job.total || 0, 1);
    page.bar.value = job.steps || 0;
    page.told.textContent = job.told ? `${job.told} ...` : job.total ? `step ${job.steps} of ${job.total}` : "waiting";
    page.preview.hidden = !job.preview;
    if (job.preview) page.preview.src = job.preview;
    if (!over) return;
    this.job = null;
    if (job.state === "failed") this.complain(new Error(job.told));
    this.refresh();  // also what was finished before it failed, and what waited for its end
  }

  async refresh() {
    try {
      const { renders, running } = await api.history();
      const items = renders.flatMap((render) => render.results).map((result) => this.item(result));
      this.page.history.replaceChildren(...items);
      this.page.results.hidden = !items.length;
      if (!this.job && running.length) this.follow(running[0]);  // another tab's, or from before a reload
    } catch (error) {
      this.complain(error);
    }
  }

  item(result) {
    const picture = document.createElement("img");
    picture.src = pictureOf(result);
    picture.alt = `Rendered with seed ${result.seed}`;
    picture.loading = "lazy";
    picture.addEventListener("load", () => picture.classList.toggle("drawn", picture.naturalWidth <= 256));
    const link = document.createElement("a");
    Object.assign(link, { href: pictureOf(result), target: "_blank", rel: "noopener" });
    link.append(picture);
    const caption = document.createElement("figcaption");
    const head = document.createElement("div");
    head.className = "face";
    const verdict = { true: "passed", false: "not passed" }[result.passed] ?? "";
    const score = result.score === null || result.score === undefined ? "" : `score ${result.score.toFixed(2)}`;
    head.append(Object.assign(document.createElement("b"), { textContent: `seed ${result.seed}` }),
      Object.assign(document.createElement("span"), { textContent: [score, verdict].filter(Boolean).join(", ") }));
    caption.append(head, ...result.faces.map(faceLine));
    caption.append(...result.extra.filter((face) => face.twice).map((face) => line(face.twice, "a second time", true)));
    const strangers = result.extra.filter((face) => !face.twice).length;
    if (strangers) caption.append(line(`${strangers} face${strangers > 1 ? "s" : ""} nobody asked for`, "", true));
    const again = Object.assign(document.createElement("button"), {
      type: "button", className: "small", textContent: "Take this seed" });
    again.addEventListener("click", () => this.state.change((layout) => { layout.seed = result.seed; }));
    caption.append(again);
    const figure = document.createElement("figure");
    figure.append(link, caption);
    const item = document.createElement("li");
    item.append(figure);
    return item;
  }
}

function line(left, right, bad) {
  const made = document.createElement("div");
  made.className = bad ? "face bad" : "face";
  made.append(Object.assign(document.createElement("span"), { textContent: left }),
    Object.assign(document.createElement("span"), { textContent: right }));
  return made;
}

function faceLine(face) {
  const number = typeof face.cosine === "number" ? face.cosine.toFixed(2) : "";
  const said = SAID[face.state]?.(face) ?? face.state;
  return line(face.name, [said, number].filter(Boolean).join(" "), !["good", "found"].includes(face.state));
}
