// What the buttons of the page do.

import { Refused, call } from "/api.js";

const $ = (id) => document.getElementById(id);

export function bindButtons(editor) {
  $("undo").onclick = () => editor.go(-1);
  $("redo").onclick = () => editor.go(1);
  $("run").onclick = () => editor.run();
  $("job-cancel").onclick = () => call("POST", `/api/jobs/${$("job-cancel").dataset.job}/cancel`).catch((error) => editor.fail(error));
  $("help").onclick = () => $("keys").showModal();
  for (const button of document.querySelectorAll("[data-op]")) {
    button.onclick = (event) => {
      if (event.detail) $("stage").focus(); // by the pointer: keys go to the picture again
      editor.act(button.dataset.op);
    };
  }
  for (const radio of document.querySelectorAll('[name="mode"]')) radio.onchange = () => editor.setMode(radio.value);
  const sampling = (body) => editor.edit({ operation: "sampling", ...body }, { preview: false });
  $("steps").oninput = () => ($("steps-value").value = $("steps").value);
  $("steps").onchange = () => sampling({ num_inference_steps: Number($("steps").value) });
  $("guidance").oninput = () => ($("guidance-value").value = Number($("guidance").value).toFixed(1));
  $("guidance").onchange = () => sampling({ guidance_scale: Number($("guidance").value) });
  $("invert").onchange = () => sampling({ invert: $("invert").checked });
  $("mix-weight").oninput = () => ($("mix-value").value = $("mix-weight").value);
  $("resample").onclick = () => editor.resample();
  $("copy-picture").onclick = () => copyPicture(editor);
  $("copy-command").onclick = () => copyCommand(editor, false);
  $("copy-batch").onclick = () => copyCommand(editor, true);
  for (const menu of document.querySelectorAll(".menu")) {
    menu.addEventListener("click", (event) => event.target.closest(".items") && (menu.open = false));
    menu.addEventListener("focusout", (event) => menu.contains(event.relatedTarget) || (menu.open = false));
  }
}

export async function copyPicture(editor) {
  try {
    const { id } = editor.info;
    const blob = fetch(`/api/pictures/${id}/saved/picture`, { headers: { "x-latentslots": "1" } }).then((answer) => answer.blob());
    await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
    editor.say("The picture was copied.");
  } catch {
    editor.fail(new Refused("The browser does not allow the page to copy pictures: save it instead."));
  }
}

function copyCommand(editor, folder) {
  return editor.queue(async () => {
    const { command } = await call("GET", `/api/pictures/${editor.info.id}/command${folder ? "?folder=1" : ""}`);
    editor.say(command);
    try {
      await navigator.clipboard.writeText(command);
    } catch {
      editor.fail(new Refused("The browser does not allow the page to copy: the command stands below the picture."));
    }
  });
}
