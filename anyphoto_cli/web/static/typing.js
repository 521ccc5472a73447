// Numbers: what is typed is looked at a moment later, and is one step of undo when the field is left.

const MOMENT = 300;

// put(document): takes the field's value over.
export function bindTyped(field, state, put) {
  let timer = 0;
  const now = () => {
    clearTimeout(timer);
    timer = 0;
    state.change(put);
  };
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { timer = 0; state.live(put); }, MOMENT);
  });
  field.addEventListener("change", now);
  field.addEventListener("blur", () => { if (timer) now(); });  // typed back: no change to the browser
}
