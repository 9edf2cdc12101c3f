// Pictures, slots and sessions that are chosen, dropped or pasted.

import { Refused, call } from "/api.js";

const $ = (id) => document.getElementById(id);
const UPLOADABLE = /^image\//;

export function bindFiles(editor) {
  const pick = (id, use) => {
    $(id).onchange = () => {
      use([...$(id).files]);
      $(id).value = "";
    };
  };
  pick("file-pictures", (files) => upload(editor, files));
  pick("file-folder", (files) => upload(editor, files.filter((file) => UPLOADABLE.test(file.type))));
  pick("file-slots", ([file]) => giveSlots(editor, file));
  pick("file-session", ([file]) => openSession(editor, file));
  $("add-pictures").onclick = () => $("file-pictures").click();
  for (const button of document.querySelectorAll("[data-open]")) {
    button.onclick = () => $(`file-${button.dataset.open}`).click();
  }
  const carries = (event, kind) => event.dataTransfer?.types.includes(kind);
  addEventListener("dragover", (event) => {
    if (carries(event, "Files")) $("drop").hidden = false;
    if (carries(event, "Files") || carries(event, "application/x-thing")) event.preventDefault();
  });
  addEventListener("dragleave", (event) => event.relatedTarget || ($("drop").hidden = true));
  addEventListener("drop", (event) => {
    $("drop").hidden = true;
    if (carries(event, "Files")) {
      event.preventDefault();
      upload(editor, [...event.dataTransfer.files]);
    } else if (carries(event, "application/x-thing") && $("stage").contains(event.target)) {
      event.preventDefault();
      editor.palette.dropped(JSON.parse(event.dataTransfer.getData("application/x-thing")), editor.stage.point(event));
    }
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) upload(editor, files);
  });
}

function upload(editor, files) {
  return editor.queue(async () => {
    editor.fail(null);
    const problems = [];
    let last = null;
    for (const [i, file] of files.entries()) {
      editor.say(`Adding ${file.name} (${i + 1} of ${files.length})…`);
      try {
        last = await call("POST", `/api/pictures?name=${encodeURIComponent(file.name)}`, file);
      } catch (error) {
        problems.push(error.message);
      }
    }
    await editor.loadSession();
    if (last) editor.open(last.id);
    if (problems.length) editor.queue(async () => editor.fail(new Refused(problems.join(" "))));
  });
}

function giveSlots(editor, file) {
  if (!file || !editor.info) return;
  editor.queue(async () => {
    editor.fail(null);
    await editor.show(await call("POST", `/api/pictures/${editor.info.id}/slots`, file));
    editor.say(`The slots of ${file.name} are used; the history begins anew.`);
  });
}

function openSession(editor, file) {
  if (!file) return;
  editor.queue(async () => {
    editor.fail(null);
    const { added } = await call("POST", "/api/session", file);
    await editor.loadSession();
    editor.say(`${added.length} pictures were added.`);
    if (added.length) editor.open(added[0].id);
  });
}

export function discard(editor, id) {
  editor.queue(async () => {
    await call("DELETE", `/api/pictures/${id}`);
    if (editor.info?.id === id) editor.info = null;
    await editor.loadSession();
  });
}
