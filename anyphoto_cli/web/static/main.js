// The page: wires the layout's state to the canvas, the fields and the server.

import { api, queryOf } from "./api.js";
import { drawPeople } from "./people.js";
import { freeSpot, moved, middleOf } from "./places.js";
import { Results } from "./results.js";
import { Stage } from "./stage.js";
import { State } from "./state.js";
import { bindTyped } from "./typing.js";

const at = (id) => document.getElementById(id);
const NUMBERS = ["width", "height", "seed", "num_images", "steps", "guidance_scale"];
const OPTIONAL = new Set(["seed", "num_images", "steps", "guidance_scale"]);

function complain(error) {
  at("message").textContent = error.message;
  at("message").hidden = false;
  clearTimeout(complain.timer);
  complain.timer = setTimeout(() => { at("message").hidden = true; }, 9000);
}

// As the file is called; one picture is one person.
function nameFor(file, path, faces) {
  const known = faces.find((face) => face.reference === path);
  if (known) return known.name;
  const stem = file.name.replace(/\.[^.]*$/, "").replaceAll("_", " ").trim() || "person";
  const taken = new Set(faces.map((face) => face.name));
  for (let number = 1; ; number++) {
    const name = number === 1 ? stem : `${stem} ${number}`;
    if (!taken.has(name)) return name;
  }
}

async function start() {
  const { document: layout, read, facts } = await api.layout();
  const state = new State(layout, read, facts);
  const stage = new Stage(at("stage"), state);
  const results = new Results({
    render: at("render"), cancel: at("cancel"), progress: at("progress"), bar: at("steps-done"), told: at("told"),
    preview: at("preview"), history: at("history"), results: at("results"),
  }, state, complain);
  at("file").textContent = facts.file;
  document.title = `${facts.file} - anyphoto`;
  at("note").textContent = facts.note;
  at("preset").append(...facts.presets.map((name) => new Option(name)));
  bindFields(state);
  bindButtons(state, stage);
  bindDrops(state, stage);
  const draw = () => show(state, stage);
  state.addEventListener("choice", draw);
  state.addEventListener("live", () => { stage.draw(); soon(state, stage); });
  state.addEventListener("change", () => { draw(); soon(state, stage); look(state, draw); });
  window.addEventListener("resize", () => stage.draw());
  window.addEventListener("beforeunload", (event) => { if (state.unsaved) event.preventDefault(); });
  state.tell();
  await results.refresh();
  document.body.dataset.ready = "yes";
}

function show(state, stage) {
  stage.draw();
  drawPeople(at("people"), state, at("add"), (index) => {
    at("other").dataset.index = index;
    at("other").click();
  });
  at("empty").hidden = state.document.faces.length > 0;
  at("undo").disabled = !state.past.length;
  at("redo").disabled = !state.future.length;
  at("saved").textContent = state.unsaved ? "not saved" : "saved";
  if (document.activeElement !== at("prompt")) at("prompt").value = state.document.prompt;
  for (const key of NUMBERS) {
    if (document.activeElement !== at(key)) at(key).value = state.document[key] ?? "";
  }
  at("steps").placeholder = state.facts.steps;
  at("seed").placeholder = "0";
  at("num_images").placeholder = "1";
  at("guidance_scale").placeholder = "3.5";
}

// Ask the server what is wrong, a moment after the last change; late answers to older questions are dropped.
let asked = 0;
function soon(state, stage) {
  clearTimeout(soon.timer);
  soon.timer = setTimeout(async () => {
    const mine = ++asked;
    try {
      const checked = await api.check(state.document);
      if (mine !== asked) return;
      state.checked = checked;
      if (!stage.drag) stage.take(checked.faces);
      warn(checked);
    } catch (error) {
      complain(error);
    }
  }, 150);
}

function warn(checked) {
  const told = checked.error ? [{ ...checked.error, error: true }] : checked.cautions;
  at("warnings").replaceChildren(...told.map((one) => {
    const item = document.createElement("li");
    item.className = one.error ? "error" : "";
    item.textContent = one.error && one.field ? `${one.field}: ${one.message}` : one.message;
    return item;
  }));
  at("render").disabled = Boolean(checked.error) || !at("progress").hidden;
}

// Neither read nor shown: it is not there, or is no picture.
const isMissing = (known) => Boolean(known && known.problem && !known.width);

const looking = new Set();
async function look(state, draw) {
  for (const face of state.document.faces) {
    const key = queryOf(face);
    const known = state.references.get(key);
    // One that could not be read or looked at may be there by now; while it is looked for, it is asked for once.
    if (state.references.has(key) && !isMissing(known) && !known?.passing) continue;
    if (known === undefined) state.references.set(key, undefined);
    if (looking.has(key)) continue;
    looking.add(key);
    api.reference(face)
      .catch((error) => ({ width: 0, problem: error.message }))
      .then((found) => { state.references.set(key, found); draw(); })
      .finally(() => looking.delete(key));
  }
}

function bindFields(state) {
  const prompt = at("prompt");
  prompt.addEventListener("input", () => state.live((layout) => { layout.prompt = prompt.value; }));
  prompt.addEventListener("change", () => state.commit());
  for (const key of NUMBERS) {
    const field = at(key);
    bindTyped(field, state, (layout) => {
      if (field.value === "" && OPTIONAL.has(key)) delete layout[key];
      else if (field.value !== "") layout[key] = Number(field.value);
    });
  }
}

async function save(state, replace = false) {
  // What is being typed is part of it.
  if (document.activeElement?.matches("input, textarea")) document.activeElement.dispatchEvent(new Event("change"));
  state.commit();
  const sent = JSON.stringify(state.document);  // more may be typed until the answer is there
  try {
    ({ read: state.read } = await api.save(state.document, state.read, replace));
    state.saved = sent;
    at("save").dataset.replace = "";
    state.tell("choice");
  } catch (error) {
    at("save").dataset.replace = error.status === 409 ? "yes" : "";
    complain(error);
  }
}

function bindButtons(state, stage) {
  at("undo").addEventListener("click", () => state.undo());
  at("redo").addEventListener("click", () => state.redo());
  at("save").addEventListener("click", () => save(state, at("save").dataset.replace === "yes"));
  at("grid").addEventListener("change", () => { stage.showGrid = at("grid").checked; stage.draw(); });
  at("canvas").addEventListener("change", () => { stage.showCanvas = at("canvas").checked; stage.draw(); });
  at("arrange").addEventListener("click", () => arrange(state).catch(complain));
  at("add").addEventListener("click", () => at("files").click());
  at("files").addEventListener("change", async () => {
    await add(state, [...at("files").files]);
    at("files").value = "";
  });
  at("other").addEventListener("change", async () => {
    await replace(state, Number(at("other").dataset.index), at("other").files[0]);
    at("other").value = "";
  });
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const typing = event.target.matches("textarea, input:not([type=checkbox])");
    const key = event.key.toLowerCase();
    if (key === "s") { event.preventDefault(); save(state, at("save").dataset.replace === "yes"); }
    else if (!typing && key === "z") { event.preventDefault(); event.shiftKey ? state.redo() : state.undo(); }
    else if (!typing && key === "y") { event.preventDefault(); state.redo(); }
  });
}

// Places that nobody chose by hand: they may change when somebody is added.
const given = new Set();
const isGiven = (face) => given.has(JSON.stringify(face.landmarks));

let arranged = 0;
async function arrangedFor(layout) {
  const { places } = await api.arrange(layout, at("preset").value, arranged++);
  for (const points of places) given.add(JSON.stringify(points));
  return places;
}

async function arrange(state) {
  if (!state.document.faces.length) return;
  const places = await arrangedFor(state.document);
  state.change((layout) => { layout.faces.forEach((face, k) => { face.landmarks = places[k]; }); });
}

// Everybody anew with one more, while nobody was placed by hand; null where they were, or do not fit.
async function roomFor(face, state) {
  const { faces } = state.document;
  if (!faces.every(isGiven)) return null;
  const before = JSON.stringify(faces);
  const places = await arrangedFor({ ...state.document, faces: [...faces, face] }).catch(() => null);
  return JSON.stringify(state.document.faces) === before ? places : null;  // or changed meanwhile
}

async function add(state, files, spot = null) {
  for (const file of files) {
    try {
      const found = await api.upload(file);
      state.references.set(queryOf({ reference: found.path }), found);
      const free = freeSpot(state.document);
      const [x, y] = middleOf(free);
      const face = { name: nameFor(file, found.path, state.document.faces), reference: found.path,
        landmarks: spot ? moved(free, spot[0] - x, spot[1] - y) : free };
      const places = spot ? null : await roomFor(face, state);
      if (!spot) given.add(JSON.stringify(free));
      state.change((layout) => {
        layout.faces.push(face);
        places?.forEach((points, k) => { layout.faces[k].landmarks = points; });
      });
      state.choose(state.document.faces.length - 1);
      spot = null;
    } catch (error) {
      complain(new Error(`${file.name}: ${error.message}`));
    }
  }
}

// Points found in one picture are not those of another; the place stays, and the name, unless nobody was named yet.
async function replace(state, index, file) {
  const face = state.document.faces[index];
  const who = state.who(face);
  const unnamed = /^person \d+$/.test(face.name) && isMissing(state.known(face));
  try {
    const found = await api.upload(file);
    state.references.set(queryOf({ reference: found.path }), found);
    const now = state.document.faces.findIndex((one) => state.who(one) === who);  // its name others may have, too
    if (now < 0) throw new Error("not used, the person was removed meanwhile");
    state.change((layout) => {
      if (unnamed) layout.faces[now].name = nameFor(file, found.path, layout.faces);
      layout.faces[now].reference = found.path;
      delete layout.faces[now].reference_landmarks;
    });
  } catch (error) {
    complain(new Error(`${file.name}: ${error.message}`));
  }
}

function bindDrops(state, stage) {
  const paper = at("paper");
  const rowOf = (event) => event.target.closest?.("#people li");
  const mark = (row) => { for (const one of at("people").children) one.classList.toggle("over", one === row); };
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(rowOf(event));
    paper.classList.toggle("over", !rowOf(event));
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget) return;
    mark(null);
    paper.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    paper.classList.remove("over");
    mark(null);
    const files = [...event.dataTransfer.files];
    const row = rowOf(event);
    if (row && files.length === 1) {  // a picture of this person
      replace(state, [...at("people").children].indexOf(row), files[0]);
      return;
    }
    const face = Number(event.target.closest?.("#stage [data-index]")?.dataset.index ?? -1);
    if (files.length === 1 && isMissing(state.known(state.document.faces[face]))) {
      replace(state, face, files[0]);  // a place that is to be filled
      return;
    }
    const inside = event.target.closest?.("#stage");
    add(state, files, inside ? stage.at(event) : null);
  });
}

start().catch(complain);
