// Requests to the server, and events from it.

const HEADER = { "x-latentslots": "1" };

export class Refused extends Error {}

/** Send a request; `body` is a Blob, a value for JSON, or nothing. Throws `Refused` with a sentence. */
export async function call(method, path, body) {
  const options = { method, headers: { ...HEADER } };
  if (body instanceof Blob) {
    options.body = body;
  } else if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused("The server of the editor does not answer: is it still running?");
  }
  let content;
  try {
    content = await answer.json();
  } catch {
    throw new Refused(`The server answered ${answer.status}, which the page does not understand.`);
  }
  if (!answer.ok) throw new Refused(sentence(content.error ?? `The server answered ${answer.status}`));
  return content;
}

/** Fetch an image; `exact` keeps the values of its pixels. */
export async function image(path, { exact = false } = {}) {
  let answer;
  try {
    answer = await fetch(path, { headers: HEADER });
  } catch {
    throw new Refused("The server of the editor does not answer: is it still running?");
  }
  if (!answer.ok) throw new Refused(sentence((await answer.json()).error));
  const options = exact ? { colorSpaceConversion: "none", premultiplyAlpha: "none" } : {};
  return createImageBitmap(await answer.blob(), options);
}

/** Fetch a map of things: its side, and the number of the thing in each pixel. */
export async function thingMap(path) {
  const bitmap = await image(path, { exact: true });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const ids = new Uint8Array(bitmap.width * bitmap.height);
  for (let i = 0; i < ids.length; i++) ids[i] = data[4 * i];
  return { side: bitmap.width, ids };
}

/** Listen to events; `handlers` are functions by the names of events, and `lost` and `found`. */
export function listen(handlers) {
  const source = new EventSource("/api/events");
  let lost = false;
  source.onerror = () => {
    if (!lost) handlers.lost();
    lost = true;
  };
  source.onopen = () => {
    if (lost) handlers.found();
    lost = false;
  };
  for (const name of ["job", "picture", "pictures", "reload"]) {
    source.addEventListener(name, (event) => handlers[name](JSON.parse(event.data)));
  }
}

function sentence(text) {
  const clean = String(text).trim();
  return clean.charAt(0).toUpperCase() + clean.slice(1) + (/[.!?]$/.test(clean) ? "" : ".");
}
