// The layout, who is chosen, and what can be undone. Everything else is drawn from here.

import { queryOf } from "./api.js";

export class State extends EventTarget {
  // read: which file it was, told back when it is saved.
  constructor(document, read, facts) {
    super();
    this.document = document;
    this.read = read;
    this.facts = facts;
    this.chosen = document.faces.length ? 0 : -1;
    this.checked = { error: null, cautions: [], faces: [] };
    this.references = new Map();
    this.past = [];
    this.future = [];
    this.saved = JSON.stringify(document);
    this.before = null;
    this.people = new WeakMap();
  }

  // Who a face is, from one step of undo to the next: its object, name and place do not stay.
  who(face) {
    if (!this.people.has(face)) this.people.set(face, Symbol("person"));
    return this.people.get(face);
  }

  // Of a step of undo: the document, and who its faces are, which is not in the file.
  kept() {
    return { text: JSON.stringify(this.document), people: this.document.faces.map((face) => this.who(face)) };
  }

  tell(kind = "change") {
    this.dispatchEvent(new Event(kind));
  }

  // What the server found in a face's reference; undefined: not yet.
  known(face) {
    return face && this.references.get(queryOf(face));
  }

  get unsaved() {
    return JSON.stringify(this.document) !== this.saved;
  }

  // One step of undo. `work` may change anything in the document.
  change(work) {
    this.begin();
    work(this.document);
    this.commit();
  }

  // A longer change, drawn as it goes: begin, any number of live, commit.
  begin() {
    this.before ??= this.kept();
  }

  live(work) {
    this.begin();
    work(this.document);
    this.tell("live");
  }

  commit() {
    if (this.before !== null && this.before.text !== JSON.stringify(this.document)) {
      this.past.push(this.before);
      if (this.past.length > 200) this.past.shift();
      this.future = [];
    }
    this.before = null;
    this.tell();
  }

  undo() {
    this.step(this.past, this.future);
  }

  redo() {
    this.step(this.future, this.past);
  }

  step(from, to) {
    this.commit();
    if (!from.length) return;
    to.push(this.kept());
    const { text, people } = from.pop();
    this.document = JSON.parse(text);
    this.document.faces.forEach((face, k) => this.people.set(face, people[k]));
    this.choose(Math.min(this.chosen, this.document.faces.length - 1));
    this.tell();
  }

  choose(index) {
    if (index === this.chosen) return;
    this.chosen = index;
    this.tell("choice");
  }
}
