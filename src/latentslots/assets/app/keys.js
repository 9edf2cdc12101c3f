// Every key, in one table, which is also what the page lists.

import { copyPicture } from "/buttons.js";

const $ = (id) => document.getElementById(id);
const TAP = 250; // milliseconds: a shorter Tab moves the focus, a longer one shows the original

const KEYS = [
  ["Enter", "Run: paint the picture"],
  ["P", "Preview in a few steps"],
  ["Ctrl+Z, Shift+Ctrl+Z", "Undo, redo"],
  ["Tab, held", "Show the original"],
  ["S", "Before and after, with a slider; again for side by side"],
  ["Click, Shift-click", "Select a thing, select one more"],
  ["Right click, Alt-click", "Take a thing out of the selection"],
  [". and ,", "Select the next thing, the one before"],
  ["Esc", "Select nothing; give up what is being dragged"],
  ["Delete", "Remove the selected things"],
  ["D", "Copy the selected things"],
  ["Drag, or arrow keys", "Move the selected things; ten pixels with Shift"],
  ["Corners, or + and -", "Scale the selected things"],
  ["X, M", "Exchange or mix with the chosen thing from elsewhere"],
  ["A", "Choose the square that is edited: by the pointer, or by arrows, + and -, and Enter"],
  ["R", "Another try, from other noise"],
  ["Wheel, or Z and Shift+Z", "Zoom to the pointer; by key, to the middle"],
  ["Double click, 0", "Zoom to a thing, to the whole picture"],
  ["Space-drag", "Move the view"],
  ["[ and ]", "The picture before, the next one"],
  ["Ctrl+C, Ctrl+V", "Copy the result, paste pictures"],
  ["Ctrl+S", "Save the picture"],
  ["F6", "Go to the next part of the page"],
  ["H", "This list"],
];

export function bindKeys(editor) {
  for (const [keys, what] of KEYS) {
    const term = document.createElement("dt");
    const meaning = document.createElement("dd");
    [term.textContent, meaning.textContent] = [keys, what];
    $("keys-list").append(term, meaning);
  }
  addEventListener("keydown", (event) => down(editor, event));
  addEventListener("keyup", (event) => up(editor, event));
  addEventListener("blur", () => release(editor));
}

function down(editor, event) {
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target.matches?.('input[type="number"], select, input[type="text"]');
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const act = (work) => {
    event.preventDefault();
    work();
  };
  if (control && key === "z" && !typing) return act(() => editor.go(event.shiftKey ? 1 : -1));
  if (control && key === "y" && !typing) return act(() => editor.go(1));
  if (control && key === "s") return act(() => document.querySelector('[data-save="picture"]').click());
  if (control && key === "c" && !typing && !String(getSelection())) return act(() => copyPicture(editor));
  if (key === "F6") return act(() => nextPart());
  if (control || typing || event.altKey) return undefined;
  const onStage = document.activeElement === $("stage") || document.activeElement === document.body;
  if (key === "Tab" && onStage && !event.shiftKey) return act(() => holdOriginal(editor, event));
  const onButton = event.target.closest?.("button, summary, a, input");
  if ((key === "Enter" || key === " ") && onButton) return undefined;
  if (event.target.matches?.('input[type="range"], input[type="radio"]') && key.startsWith("Arrow")) return undefined;
  const step = event.shiftKey ? 10 : 1;
  if (editor.stage.choosingArea && editor.stage.square) {
    const moves = { ArrowLeft: [-step, 0, 0], ArrowRight: [step, 0, 0], ArrowUp: [0, -step, 0], ArrowDown: [0, step, 0] };
    const sizes = { "+": [0, 0, 2 * step], "=": [0, 0, 2 * step], "-": [0, 0, -2 * step] };
    const change = { ...moves, ...sizes }[key];
    if (change) return act(() => editor.stage.adjustSquare(...change));
    if (key === "Enter") return act(() => editor.setArea(editor.stage.square));
  }
  const table = {
    Enter: () => editor.run(),
    p: () => editor.run(true),
    s: () => nextMode(editor),
    ".": () => editor.cycle(1),
    ",": () => editor.cycle(-1),
    Escape: () => closeMenus() || editor.stage.cancelDrag() || editor.select([]),
    Delete: () => editor.act("remove"),
    Backspace: () => editor.act("remove"),
    d: () => editor.act("copy"),
    "+": () => editor.act("larger"),
    "=": () => editor.act("larger"),
    "-": () => editor.act("smaller"),
    x: () => editor.act("exchange"),
    m: () => editor.act("mix"),
    a: () => editor.act("area"),
    r: () => $("resample").click(),
    z: () => editor.stage.zoom(event.shiftKey ? 0.8 : 1.25),
    0: () => (editor.stage.fit(), editor.stage.draw()),
    "[": () => neighbor(editor, -1),
    "]": () => neighbor(editor, 1),
    h: () => $("keys").showModal(),
    " ": () => (editor.stage.panning = true),
    ArrowLeft: () => editor.nudge(-step, 0),
    ArrowRight: () => editor.nudge(step, 0),
    ArrowUp: () => editor.nudge(0, -step),
    ArrowDown: () => editor.nudge(0, step),
  };
  if (key in table) act(table[key]);
  return undefined;
}

function closeMenus() {
  const open = document.querySelectorAll(".menu[open]");
  for (const menu of open) menu.open = false;
  return open.length > 0;
}

function up(editor, event) {
  if (event.key === " ") editor.stage.panning = false;
  if (event.key === "Tab" && editor.stage.holding) {
    const tapped = performance.now() - editor.heldSince < TAP;
    release(editor);
    if (tapped) nextPart();
  }
}

function holdOriginal(editor, event) {
  if (event.repeat || editor.stage.holding) return;
  editor.heldSince = performance.now();
  editor.stage.holding = true;
  editor.stage.draw();
}

function release(editor) {
  editor.stage.panning = false;
  if (!editor.stage.holding) return;
  editor.stage.holding = false;
  editor.stage.draw();
}

/** Move the focus to the next part of the page. */
function nextPart() {
  const first = (id) => document.querySelector(`#${id} button:not(:disabled)`);
  const parts = [
    ["stage", $("stage")],
    ["palette", $("palette-source")],
    ["right", first("things")],
    ["left", first("pictures")],
    ["header", document.querySelector("header button:not(:disabled)")],
    ["toolbar", first("toolbar")],
  ].filter(([, target]) => target);
  const inside = (id) => (id === "header" ? document.querySelector("header") : $(id)).contains(document.activeElement);
  const at = parts.findIndex(([id]) => inside(id));
  parts[(at + 1) % parts.length][1].focus();
}

function nextMode(editor) {
  const modes = ["result", "slider", "side"];
  editor.setMode(modes[(modes.indexOf(editor.stage.mode) + 1) % modes.length]);
}

function neighbor(editor, direction) {
  const ids = editor.session.pictures.map((picture) => picture.id);
  if (!ids.length) return;
  const at = ids.indexOf(editor.info?.id);
  editor.open(ids[(at + direction + ids.length) % ids.length]);
}
