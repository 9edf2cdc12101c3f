// The lists beside the picture: pictures, things, history.

import { discard } from "/files.js";

const $ = (id) => document.getElementById(id);
const LABELS = {
  open: "Opened", remove: "Removed", move: "Moved", scale: "Scaled", exchange: "Exchanged", mix: "Mixed", add: "Added",
  background: "Background", sampling: "Painting", num_inference_steps: "Steps", guidance_scale: "Guidance", reset: "Started over", area: "Another square", slots: "Slots given",
  "remove like": "Removed (all pictures)",
};

/** Make an element with attributes, and children that are elements or text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made[key] = value;
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Replace the children of a list, and keep the focus on the same one. */
function refill(list, items) {
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  list.replaceChildren(...items);
  if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

export function drawPictures(editor) {
  const pictures = editor.session?.pictures ?? [];
  const items = pictures.map((picture) =>
    element(
      "li",
      {},
      element(
        "button",
        {
          class: "pick",
          "data-key": picture.id,
          "aria-current": String(picture.id === editor.info?.id),
          title: picture.name,
          onclick: () => editor.open(picture.id),
        },
        element("img", { src: `/api/pictures/${picture.id}/thumbnail.png?v=${picture.thumbnail}`, alt: "", loading: "lazy" }),
        element("span", {}, picture.name),
      ),
      element("button", {
        class: "close", "data-key": `close-${picture.id}`, "aria-label": `Take ${picture.name} out of the session`,
        title: "Take out of the session", onclick: () => discard(editor, picture.id),
      }, "×"),
    ),
  );
  refill($("pictures"), items);
}

export function drawThings(editor) {
  const { info, stage } = editor;
  const items = (info?.things ?? []).map((thing) => {
    const what = thing.is_background ? "background" : thing.is_added ? "added" : "thing";
    const share = `${(100 * thing.share).toFixed(thing.share < 0.1 ? 1 : 0)} %`;
    return element(
      "li",
      {},
      element(
        "button",
        {
          "data-number": thing.number,
          "data-key": thing.number,
          draggable: String(!thing.is_background),
          ondragstart: (event) => {
            const source = { picture: info.id, thing: thing.number };
            event.dataTransfer.setData("application/x-thing", JSON.stringify(source));
            event.dataTransfer.effectAllowed = "copy";
          },
          "aria-pressed": String(stage.selection.has(thing.number)),
          "aria-label": `${what} ${thing.number}, ${share} of the picture`,
          onclick: (event) => {
            const left = new Set(event.shiftKey ? stage.selection : []);
            if (stage.selection.has(thing.number) && event.shiftKey) left.delete(thing.number);
            else left.add(thing.number);
            editor.select([...left]);
          },
          onmouseenter: () => stage.hover(thing.number),
          onmouseleave: () => stage.hover(null),
        },
        element("img", { src: `/api/pictures/${info.id}/things/${thing.number}.png?v=${info.version}`, alt: "", draggable: "false" }),
        `${thing.number}${thing.is_background ? " (ground)" : ""} · ${share}`,
      ),
    );
  });
  refill($("things"), items);
}

export function drawHistory(editor) {
  const { info } = editor;
  const items = (info?.steps ?? []).map((label, position) =>
    element(
      "li",
      {},
      element(
        "button",
        {
          "data-key": position,
          class: position > info.position ? "later" : "",
          "aria-current": String(position === info.position),
          onclick: () => editor.queue(() => editor.goTo(position)),
        },
        LABELS[label] ?? label,
      ),
    ),
  );
  refill($("history"), items);
  $("history").querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
}

/** Which things have changed since the shown state, and which of its things are gone. */
export function pendingOf({ state, shown_state: shown, things }) {
  const differs = (key, number) => JSON.stringify(state[key][number]) !== JSON.stringify(shown[key][number]);
  const pending = [];
  for (const { number } of things) {
    const added = number - state.num_slots;
    const changed =
      added >= 0
        ? JSON.stringify(state.added[added]) !== JSON.stringify(shown.added[added])
        : ["moved", "scaled", "exchanged", "mixed"].some((key) => differs(key, number));
    if (changed) pending.push(number);
  }
  const numbers = new Set(things.map((thing) => thing.number));
  const before = shown.num_slots === state.num_slots ? shown.num_slots + shown.added.length : 0;
  const gone = [...Array(before).keys()].filter((number) => !numbers.has(number) && !shown.removed.includes(number));
  return { pending, pending_removed: gone, pending_ground: state.background !== shown.background };
}
