// Things from elsewhere: of other pictures, or concepts of the library.

import { call } from "/api.js";
import { element } from "/panels.js";

const $ = (id) => document.getElementById(id);
const LIBRARY = "library";

export class Palette {
  constructor(editor) {
    this.editor = editor;
    this.chosen = null; // what an operation names as its source
    this.concepts = new Set();
    this.shown = "";
    $("palette-source").onchange = () => {
      this.chosen = null;
      this.drawThings(true);
      this.editor.update();
    };
    $("use-background").onclick = () => editor.edit({ operation: "background", picture: this.source });
    $("own-background").onclick = () => editor.edit({ operation: "background", picture: null });
    $("recompose").onclick = () => this.recompose();
  }

  get source() {
    return $("palette-source").value;
  }

  drawSources() {
    const { session } = this.editor;
    const before = this.source;
    const options = session.pictures.map(({ id, name }) => element("option", { value: id }, name));
    if (session.library.length) options.unshift(element("option", { value: LIBRARY }, "the concept library"));
    $("palette-source").replaceChildren(...options);
    if ([...$("palette-source").options].some((option) => option.value === before)) $("palette-source").value = before;
    this.drawThings(true);
  }

  /** Draw the things of the source; again only if it has changed. */
  async drawThings(again = false) {
    const { editor } = this;
    const isLibrary = this.source === LIBRARY;
    $("compose").hidden = !isLibrary || !editor.session?.can_edit;
    $("use-background").hidden = isLibrary;
    $("use-background").disabled = $("own-background").disabled = !editor.info || !editor.session.can_edit;
    const key = `${this.source} ${this.source === editor.info?.id ? editor.info.version : ""}`;
    if (!again && key === this.shown) {
      this.mark();
      return;
    }
    this.shown = key;
    let items = [];
    if (isLibrary) {
      items = editor.session.library.map(({ concept, share }) =>
        this.item({ concept }, `/api/concepts/${concept}.png`, `concept ${concept}, ${(100 * share).toFixed(0)} % of the slots`),
      );
    } else if (this.source) {
      try {
        const info = await call("GET", `/api/pictures/${this.source}`);
        if (this.shown !== key) return;
        const things = info.things.filter((thing) => !thing.is_background);
        items = things.map(({ number }) =>
          this.item(
            { picture: info.id, thing: number },
            `/api/pictures/${info.id}/things/${number}.png?v=${info.version}`,
            `thing ${number} of ${info.name}`,
          ),
        );
      } catch (error) {
        editor.fail(error);
      }
    }
    const add = element("button", { id: "add-thing", onclick: () => this.add() }, "Add");
    $("palette-things").replaceChildren(...items, ...(items.length ? [element("li", {}, add)] : []));
    this.mark();
  }

  item(source, picture, label) {
    const text = JSON.stringify(source);
    return element(
      "li",
      {},
      element(
        "button",
        {
          draggable: "true", "data-source": text, "aria-label": label, title: label, "aria-pressed": "false",
          ondragstart: (event) => {
            event.dataTransfer.setData("application/x-thing", text);
            event.dataTransfer.effectAllowed = "copy";
          },
          onclick: (event) => this.choose(source, event.shiftKey),
        },
        element("img", { src: picture, alt: "", draggable: "false" }),
      ),
    );
  }

  choose(source, more) {
    if ("concept" in source) {
      const had = this.concepts.has(source.concept);
      if (!more) this.concepts.clear();
      if (had) this.concepts.delete(source.concept);
      else this.concepts.add(source.concept);
    }
    this.chosen = JSON.stringify(source) === JSON.stringify(this.chosen) ? null : source;
    this.editor.update();
    this.editor.say("Press Exchange (X) or Mix (M) for the selected thing, or Add.");
  }

  mark() {
    const chosen = JSON.stringify(this.chosen);
    for (const button of document.querySelectorAll("#palette-things [data-source]")) {
      const { concept } = JSON.parse(button.dataset.source);
      const on = button.dataset.source === chosen || (concept !== undefined && this.concepts.has(concept));
      button.setAttribute("aria-pressed", String(on));
    }
    const add = $("add-thing");
    if (add) add.disabled = !this.chosen || !this.editor.info || !this.editor.session.can_edit;
    $("recompose").textContent = this.concepts.size ? `New scene of ${this.concepts.size}` : "New scene";
  }

  /** Add the chosen thing in the middle of the square. */
  add() {
    const [left, top, right, bottom] = this.editor.info.square;
    this.dropped(this.chosen, { x: (left + right) / 2, y: (top + bottom) / 2 });
  }

  dropped(source, { x, y }) {
    if (!this.editor.info) return;
    $("stage").focus();
    const place = this.editor.session.has_frames ? { x: Math.floor(x), y: Math.floor(y) } : {};
    this.editor.edit({ operation: "add", source, ...place });
  }

  recompose() {
    const seed = Number($("compose-seed").value);
    const { editor } = this;
    editor.queue(async () => {
      editor.fail(null);
      editor.jobEvent(await call("POST", "/api/recompose", { seed, concepts: [...this.concepts] }));
      $("compose-seed").value = (seed + 1) % 2 ** 32;
    });
  }
}
