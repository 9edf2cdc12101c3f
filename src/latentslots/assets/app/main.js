// The editor: one picture at a time, its history, and everything that the buttons and keys do.

import { Refused, call, image, listen, thingMap } from "/api.js";
import { bindButtons } from "/buttons.js";
import { bindFiles } from "/files.js";
import { bindKeys } from "/keys.js";
import { Palette } from "/palette.js";
import { drawHistory, drawPictures, drawThings, element, pendingOf } from "/panels.js";
import { Stage } from "/stage.js";

const $ = (id) => document.getElementById(id);
const QUICK = 600; // milliseconds that a preview may take to come unasked

class Editor {
  constructor() {
    this.session = null;
    this.info = null;
    this.work = Promise.resolve();
    this.ticket = 0;
    this.jobs = new Map();
    this.ended = new Set();
    this.target = null;
    this.previewed = "";
    this.quick = true;
    this.stage = new Stage($("stage"), $("canvas"), {
      select: (numbers) => this.select(numbers),
      hover: (number) => this.hovered(number),
      refuse: (sentence) => this.fail(new Refused(sentence)),
      move: (things, x, y) => this.edit({ operation: "move", things, x, y }),
      scale: (things, factor) => this.edit({ operation: "scale", things, factor }),
      area: (square) => this.setArea(square),
    });
    this.palette = new Palette(this);
    bindKeys(this);
    bindButtons(this);
    bindFiles(this);
    listen({
      job: (job) => this.jobEvent(job),
      picture: (id) => id === this.info?.id && this.reload(),
      pictures: () => this.loadSession(),
      reload: () => location.reload(),
      lost: () => this.fail(new Refused("The connection to the server was lost; it is being tried again.")),
      found: () => {
        this.fail(null);
        this.loadSession();
        this.reload();
      },
    });
  }

  get busy() {
    return [...this.jobs.values()].some((job) => job.kind !== "preview");
  }

  // Requests, one after the other, so that fast hands cannot overtake them

  queue(work) {
    this.work = this.work.then(async () => {
      try {
        await work();
      } catch (error) {
        this.fail(error);
      }
    });
    return this.work;
  }

  fail(error) {
    $("error").hidden = !error;
    $("error").textContent = error ? error.message : "";
    if (error && !(error instanceof Refused)) console.error(error);
  }

  say(text) {
    $("status").textContent = text;
  }

  async loadSession() {
    this.session = await call("GET", "/api/session");
    this.jobs = new Map();
    $("job").hidden = true;
    for (const job of this.session.jobs) this.jobEvent(job);
    this.showNotices();
    drawPictures(this);
    this.palette.drawSources();
    const wanted = location.hash.slice(1);
    const ids = this.session.pictures.map((picture) => picture.id);
    const current = ids.includes(this.info?.id) ? this.info.id : ids.includes(wanted) ? wanted : ids[0];
    if (!current) {
      this.info = null;
      this.stage.clear();
      this.update();
      this.say("There is no picture: drop one here.");
    } else if (current !== this.info?.id) {
      this.open(current); // not awaited: this may itself be a part of queued work
    }
  }

  /** Show what the server had to say at its start, once, until it is closed. */
  showNotices() {
    if (this.noticed) return;
    this.noticed = true;
    $("notices").replaceChildren(
      ...this.session.notices.map((notice) => {
        const close = element("button", { "aria-label": "Close this notice", onclick: () => line.remove() }, "×");
        const line = element("li", {}, notice, close);
        return line;
      }),
    );
  }

  open(id) {
    this.flushNudge();
    this.target = id;
    return this.queue(async () => {
      if (this.target !== id) return; // another picture was chosen meanwhile
      this.say("Finding its things…");
      const info = await call("GET", `/api/pictures/${id}`);
      this.stage.selection.clear();
      this.previewed = "";
      await this.show(info, { fit: true });
      history.replaceState(null, "", `#${id}`);
      this.say(`${info.name}: ${info.things.length} things.`);
    });
  }

  reload() {
    clearTimeout(this.reloading);
    this.reloading = setTimeout(() => {
      this.queue(() => this.refresh(this.info?.id));
    }, 60);
  }

  /** Ask for the picture again, unless another one is wanted by now. */
  async refresh(id) {
    if (!id || this.info?.id !== id || this.target !== id) return;
    await this.show(await call("GET", `/api/pictures/${id}`));
  }

  /** Show a description of a picture that came from the server. */
  async show(info, { fit = false } = {}) {
    const ticket = ++this.ticket;
    const before = this.info;
    info.has_frames = this.session.has_frames;
    const path = `/api/pictures/${info.id}`;
    const same = (key) => before && before.id === info.id && before[key] === info[key];
    info.shownKey = `${info.steps.length}-${info.shown}-${JSON.stringify(info.shown_state)}`;
    const images = { preview: this.previewed === info.version ? this.stage.preview : null };
    const isNew = !before || before.id !== info.id;
    // Nothing is fetched twice: what is shown is often the original, or the current state.
    const original = isNew ? image(`${path}/original.png`) : this.stage.original;
    const map = same("version") ? this.stage.map : thingMap(`${path}/map.png?position=${info.position}`);
    const kept = same("shownKey");
    const result = kept ? this.stage.result : info.shown ? image(`${path}/image.png?v=${info.shown}`) : original;
    const isCurrent = info.shown === info.position;
    const shownMap = kept ? this.stage.shownMap : isCurrent ? map : thingMap(`${path}/map.png?position=${info.shown}`);
    const found = await Promise.all([original, result, map, shownMap]);
    if (ticket !== this.ticket) return;
    const listed = this.session.pictures.find((picture) => picture.id === info.id);
    if (listed) listed.thumbnail = info.thumbnail;
    ["original", "result", "map", "shownMap"].forEach((name, i) => (images[name] = found[i]));
    Object.assign(info, pendingOf(info));
    this.info = info;
    if (!same("version")) this.loadCutouts(info);
    this.stage.set(info, images, { fit: fit || isNew });
    this.update();
  }

  loadCutouts(info) {
    this.stage.cutouts = new Map();
    for (const { number } of info.things) {
      image(`/api/pictures/${info.id}/things/${number}.png?v=${info.version}`)
        .then((bitmap) => {
          if (this.info !== info) return;
          this.stage.cutouts.set(number, bitmap);
          this.stage.draw();
        })
        .catch((error) => this.fail(error));
    }
  }

  /** Bring all panels and buttons in line with what is shown. */
  update() {
    const { info, session } = this;
    drawPictures(this);
    drawThings(this);
    drawHistory(this);
    this.palette.drawThings();
    const selected = this.stage.selection.size;
    const edits = Boolean(info) && session.can_edit;
    $("undo").disabled = !info || info.position === 0;
    $("redo").disabled = !info || info.position === info.steps.length - 1;
    $("run").disabled = !edits || info.painted;
    for (const button of document.querySelectorAll("[data-op]")) {
      const op = button.dataset.op;
      const frames = ["copy", "smaller", "larger"].includes(op);
      const one = ["exchange", "mix"].includes(op);
      button.disabled =
        !edits ||
        (["remove", "copy", "smaller", "larger"].includes(op) && !selected) ||
        (frames && !session.has_frames) ||
        (one && (selected !== 1 || !this.palette.chosen));
      if (frames && session && !session.has_frames) {
        button.title = "The slots of this model have no place and size of their own.";
      }
    }
    for (const id of ["steps", "guidance", "invert", "resample"]) $(id).disabled = !edits;
    if (!info) return;
    const { sampling, invert } = info.state;
    $("steps").value = sampling.num_inference_steps;
    $("steps-value").value = sampling.num_inference_steps;
    $("guidance").value = sampling.guidance_scale;
    $("guidance-value").value = sampling.guidance_scale.toFixed(1);
    $("invert").checked = invert;
    for (const link of document.querySelectorAll("[data-save]")) {
      link.href = `/api/pictures/${info.id}/saved/${link.dataset.save}`;
    }
  }

  // What people do

  select(numbers) {
    this.stage.selection = new Set(numbers);
    this.stage.draw();
    this.update();
    if (numbers.length) this.say(numbers.length === 1 ? `Thing ${numbers[0]} is selected.` : `${numbers.length} things are selected.`);
  }

  hovered(number) {
    for (const button of document.querySelectorAll("#things button")) {
      button.toggleAttribute("data-hovered", Number(button.dataset.number) === number);
    }
  }

  /** Select the next thing, or the one before. */
  cycle(direction) {
    if (!this.info) return;
    const numbers = this.info.things.map((thing) => thing.number);
    const at = numbers.findIndex((number) => this.stage.selection.has(number));
    const next = at < 0 ? (direction > 0 ? 0 : numbers.length - 1) : (at + direction + numbers.length) % numbers.length;
    this.select([numbers[next]]);
  }

  edit(body, { preview = true } = {}) {
    if (!this.info) return this.work;
    this.flushNudge();
    const { id } = this.info;
    return this.queue(async () => {
      this.fail(null);
      const info = await call("POST", `/api/pictures/${id}/edit`, body);
      if (this.target !== id) return;
      if (body.operation === "remove") this.stage.selection.clear(); // numbers behind it change
      await this.show(info);
      if (preview) this.autoPreview();
    });
  }

  go(step) {
    this.flushNudge();
    this.stage.cancelDrag();
    if (!this.info) return this.work;
    const { id } = this.info;
    return this.queue(async () => {
      if (this.info.id !== id) return;
      const position = this.info.position + step;
      if (position < 0 || position >= this.info.steps.length) return;
      await this.goTo(position);
    });
  }

  async goTo(position) {
    this.fail(null);
    await this.show(await call("POST", `/api/pictures/${this.info.id}/go`, { position }));
    this.say(position ? `State ${position}: ${this.info.steps[position]}.` : "The picture as it was.");
  }

  run(preview = false) {
    this.flushNudge();
    if (!this.info || !this.session.can_edit) return this.work;
    const { id } = this.info;
    return this.queue(async () => {
      if (this.info?.id !== id || (this.info.painted && !preview)) return;
      this.fail(null);
      const job = await call("POST", `/api/pictures/${id}/run`, { preview });
      if (preview) this.waiting = { job: job.id, version: this.info.version };
      else if (job.state === "waiting") this.jobEvent(job);
    });
  }

  autoPreview() {
    if (!$("auto-preview").checked || !this.quick || this.info.painted || this.busy) return;
    if (!this.info.pending.length && !this.info.pending_removed.length && !this.info.pending_ground) return;
    this.run(true);
  }

  jobEvent(job) {
    if (this.ended.has(job.id)) return; // an answer that was overtaken by the event of its end
    const ended = ["done", "failed", "canceled"].includes(job.state);
    if (ended) this.ended.add(job.id);
    if (ended) this.jobs.delete(job.id);
    else this.jobs.set(job.id, job);
    const shown = [...this.jobs.values()].find((one) => one.kind !== "preview");
    $("job").hidden = !shown;
    if (shown) {
      const names = { run: "Painting", recompose: "Composing", batch: "Painting all" };
      $("job-text").textContent = `${names[shown.kind]} ${shown.done}/${shown.total || "…"}`;
      $("job-progress").max = shown.total || 1;
      $("job-progress").value = shown.done;
      $("job-cancel").dataset.job = shown.id;
    }
    if (!ended) return;
    if (job.state === "failed") this.fail(new Refused(`${job.error}.`.replace(/\.\.$/, ".")));
    else if (job.state === "canceled") this.say("Canceled.");
    else if (job.kind === "preview") this.previewDone(job);
    else if (job.kind === "run") this.runDone(job);
    else if (job.kind === "recompose") this.open(job.result.picture);
    else if (job.kind === "batch") {
      this.say(`${job.result.done} pictures were painted into ${job.result.folder}.`);
      if (job.result.problems.length) this.fail(new Refused(job.result.problems.join("; ")));
      this.loadSession();
    }
  }

  runDone(job) {
    this.queue(() => this.refresh(job.subject));
    this.say(`Painted in ${job.seconds.toFixed(1)} s.`);
  }

  previewDone(job) {
    this.quick = job.seconds * 1000 < QUICK;
    if (job.subject !== this.info?.id || job.id !== this.waiting?.job) return;
    const { version } = this.waiting;
    image(`/api/pictures/${job.subject}/image.png?key=${job.result.key}`)
      .then((bitmap) => {
        if (this.info.version !== version || this.info.painted) return;
        this.previewed = version;
        this.stage.preview = bitmap;
        this.stage.draw();
        this.say("This is a preview: press Run (Enter) to paint.");
      })
      .catch((error) => this.fail(error));
  }

  copyThings() {
    for (const thing of this.stage.selection) {
      const [left, top, right, bottom] = this.stage.thing(thing).box ?? [];
      if (left === undefined) continue;
      const step = (this.info.square[2] - this.info.square[0]) / 10;
      const inside = (value, from, to) => Math.round(Math.min(to - 1, Math.max(from, value)));
      this.edit({
        operation: "add",
        source: { picture: this.info.id, thing },
        x: inside((left + right) / 2 + step, this.info.square[0], this.info.square[2]),
        y: inside((top + bottom) / 2 + step, this.info.square[1], this.info.square[3]),
      });
    }
  }

  exchange() {
    const [thing] = this.stage.selection;
    this.edit({ operation: "exchange", things: [thing], source: this.palette.chosen });
  }

  mix() {
    const [thing] = this.stage.selection;
    const dialog = $("mix-dialog");
    dialog.onclose = () => {
      if (dialog.returnValue !== "ok") return;
      const weight = Number($("mix-weight").value);
      this.edit({ operation: "mix", things: [thing], source: this.palette.chosen, weight });
    };
    dialog.returnValue = "";
    dialog.showModal();
  }

  chooseArea() {
    this.stage.choosingArea = !this.stage.choosingArea;
    this.stage.square = this.stage.choosingArea ? [...this.info.square] : null;
    this.stage.draw();
    this.say(this.stage.choosingArea ? "Draw a square around what is to be edited, or move it by arrows, scale it by + and -, and press Enter; a click brings the central square back." : "");
  }

  setArea(square) {
    this.stage.choosingArea = false;
    this.stage.square = null;
    const area = square[2] - square[0] < 8 ? null : square;
    this.edit({ operation: "area", area }, { preview: false });
  }

  editAll() {
    const dialog = $("all-dialog");
    $("all-text").textContent = `Each of the ${this.session.pictures.length} pictures is edited and painted, and the results are also written into a folder. Every picture can be undone.`;
    $("all-remove").disabled = this.stage.selection.size !== 1;
    dialog.returnValue = "cancel";
    dialog.onclose = () => {
      const operation = dialog.returnValue;
      if (operation === "cancel" || !operation) return;
      const [thing] = this.stage.selection;
      const body = operation === "background" ? { picture: this.info.id } : { source: { picture: this.info.id, thing } };
      this.queue(async () => this.jobEvent(await call("POST", "/api/batch", { operation, ...body })));
    };
    dialog.showModal();
  }

  /** Do what a button of the toolbar does, if that is possible now. */
  act(op) {
    const things = [...this.stage.selection];
    const acts = {
      remove: () => this.edit({ operation: "remove", things }),
      copy: () => this.copyThings(),
      smaller: () => this.edit({ operation: "scale", things, factor: 1 / 1.1 }),
      larger: () => this.edit({ operation: "scale", things, factor: 1.1 }),
      exchange: () => this.exchange(),
      mix: () => this.mix(),
      area: () => this.chooseArea(),
      all: () => this.editAll(),
      reset: () => this.edit({ operation: "reset" }),
    };
    if (!document.querySelector(`[data-op="${op}"]`).disabled) acts[op]();
  }

  /** Move the selected things by keys; several strokes become one move. */
  nudge(x, y) {
    if (!this.info?.has_frames || !this.stage.selection.size) return;
    const things = [...this.stage.selection];
    this.nudged = { things, x: (this.nudged?.x ?? 0) + x, y: (this.nudged?.y ?? 0) + y };
    this.stage.drag = { kind: "move", ...this.nudged };
    this.stage.draw();
    clearTimeout(this.nudging);
    this.nudging = setTimeout(() => this.flushNudge(), 350);
  }

  /** Make the move that keys have asked for so far. */
  flushNudge() {
    clearTimeout(this.nudging);
    const { nudged } = this;
    this.nudged = null;
    if (nudged && this.stage.cancelDrag()) this.edit({ operation: "move", ...nudged });
  }

  resample() {
    const { resample, sampling } = this.info.state;
    this.edit({ operation: "sampling", resample: ((resample ?? sampling.seed) + 1) % 2 ** 32 });
  }

  setMode(mode) {
    document.querySelector(`[name="mode"][value="${mode}"]`).checked = true;
    this.stage.setMode(mode);
  }
}

const isOld = !window.OffscreenCanvas || !window.HTMLDialogElement || !CSS.supports("color", "color-mix(in srgb, red, blue)");
$("old-browser").hidden = !isOld;
if (!isOld) {
  const editor = new Editor();
  window.editor = editor; // for tests and the curious
  editor.loadSession().catch((error) => editor.fail(error));
}
