// Who is in the picture: names, references, and what was found in them.

import { partOf } from "./api.js";
import { bindTyped } from "./typing.js";

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

// Rows stay the same elements from one drawing to the next: an element that is replaced loses the focus.
function newRow(state, index, pick) {
  const blank = element("span", { className: "blank", textContent: "+", ariaHidden: "true" });
  const picture = element("img", { alt: "", width: 54, height: 54, hidden: true });
  const photo = element("button", { type: "button", className: "photo" }, blank, picture);
  photo.addEventListener("click", () => pick(index));
  const name = element("input", { maxLength: 200, ariaLabel: `Name of person ${index + 1}` });
  name.addEventListener("focus", () => state.choose(index));
  name.addEventListener("change", () => state.change((layout) => {
    layout.faces[index].name = name.value.trim() || layout.faces[index].name;
  }));
  const remove = element("button", { type: "button", className: "small", textContent: "Remove" });
  remove.addEventListener("click", (event) => {
    event.stopPropagation();
    state.change((layout) => { layout.faces.splice(index, 1); });
  });
  // How much the picture looks at a face; empty is 1, and not in the file.
  const strength = element("input", { type: "number", step: "0.1", min: "0", max: "4", placeholder: "1",
    title: "How much the picture looks at this face: below 1 leaves more to the prompt, 0 leaves the person out" });
  bindTyped(strength, state, (layout) => {
    if (strength.value === "") delete layout.faces[index].strength;
    else layout.faces[index].strength = Number(strength.value);
  });
  const small = element("small");
  const row = element("li", {}, photo, name, remove, small,
    element("label", { className: "strength" }, "Strength ", strength));
  row.addEventListener("click", () => state.choose(index));
  row.parts = { photo, blank, picture, name, remove, strength, small };
  return row;
}

// What somebody is typing stays as it is until it is a change.
function put(field, value) {
  if (document.activeElement !== field || field.value === field.defaultValue) field.value = value;
  field.defaultValue = value;
}

function fill(row, state, face, index) {
  const { photo, blank, picture, name, remove, strength, small } = row.parts;
  const known = state.known(face);
  const seen = Boolean(known && known.width);
  if (seen) {
    const source = partOf(known.problem ? "shown" : "patch", face);
    if (picture.getAttribute("src") !== source) picture.src = source;
  }
  photo.title = `${face.reference}${seen ? `, ${known.width} x ${known.height} px` : ""}: another picture ...`;
  photo.setAttribute("aria-label", `Another picture of ${face.name}`);
  picture.hidden = !seen;
  blank.hidden = seen;
  put(name, face.name);
  put(strength, face.strength ?? "");
  strength.ariaLabel = `Strength of ${face.name}`;
  remove.setAttribute("aria-label", `Remove ${face.name}`);
  small.textContent = known ? known.problem || known.told : "looking for the face ...";
  small.className = known?.problem ? "problem" : "";
  row.className = index === state.chosen ? "chosen" : "";
}

// next: what has the focus when nobody is left; pick(index): asks for another picture of somebody.
export function drawPeople(list, state, next, pick) {
  const { faces } = state.document;
  while (list.childElementCount > faces.length) {
    const gone = list.lastElementChild;
    const focused = gone.contains(document.activeElement);
    gone.remove();
    if (focused) (list.lastElementChild?.parts.remove ?? next).focus();
  }
  while (list.childElementCount < faces.length) list.append(newRow(state, list.childElementCount, pick));
  faces.forEach((face, index) => fill(list.children[index], state, face, index));
}
