// Who is in the picture: names, references, and what was found in them.

import { partOf } from "./api.js";

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

// How much the picture looks at a face; empty is 1, and not in the file.
function strengthOf(state, face, index) {
  const field = element("input", { type: "number", step: "0.1", min: "0", max: "4", placeholder: "1",
    value: face.strength ?? "", ariaLabel: `Strength of ${face.name}`,
    title: "How much the picture looks at this face: below 1 leaves more to the prompt, 0 leaves the person out" });
  field.addEventListener("change", () => state.change((layout) => {
    if (field.value === "") delete layout.faces[index].strength;
    else layout.faces[index].strength = Number(field.value);
  }));
  return field;
}

export function drawPeople(list, state) {
  const rows = state.document.faces.map((face, index) => {
    const known = state.references.get(face.reference);
    const picture = known && known.width
      ? element("img", { src: partOf(known.problem ? "shown" : "patch", face.reference), alt: "", width: 54, height: 54,
        title: `${face.reference}, ${known.width} x ${known.height} px` })
      : element("span", { className: "blank" });
    const name = element("input", { value: face.name, maxLength: 200, ariaLabel: `Name of person ${index + 1}` });
    name.addEventListener("focus", () => state.choose(index));
    name.addEventListener("change", () => state.change((layout) => {
      const called = name.value.trim() || face.name;
      layout.faces[index].name = called;
    }));
    const remove = element("button", { type: "button", className: "small", textContent: "Remove" });
    remove.setAttribute("aria-label", `Remove ${face.name}`);
    remove.addEventListener("click", () => state.change((layout) => { layout.faces.splice(index, 1); }));
    const told = known ? known.problem || known.told : "looking for the face ...";
    const small = element("small", { textContent: told, className: known?.problem ? "problem" : "" });
    const row = element("li", { className: index === state.chosen ? "chosen" : "" }, picture, name, remove, small,
      element("label", { className: "strength" }, "Strength ", strengthOf(state, face, index)));
    row.addEventListener("click", () => state.choose(index));
    return row;
  });
  list.replaceChildren(...rows);
}
