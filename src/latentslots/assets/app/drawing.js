// Drawing: the picture, outlines, what is about to change.

export const HANDLE = 6; // half the side of a handle, in CSS pixels
const SHARP = 2.5; // screen pixels per pixel of the picture from which they stay sharp

/** Draw the picture of a stage, and everything on it. */
export function paint(stage) {
  const { context, canvas } = stage;
  const ratio = devicePixelRatio;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!stage.info || !stage.original) return;
  context.scale(ratio, ratio);
  const height = stage.element.clientHeight;
  if (stage.mode === "side") {
    clipped(stage, 0, stage.width, height, () => drawImage(stage, stage.original));
    context.translate(stage.width, 0);
    clipped(stage, 0, stage.width, height, () => drawAll(stage));
    context.fillStyle = color("--line");
    context.fillRect(-1, 0, 2, height);
    return;
  }
  if (stage.holding) {
    drawImage(stage, stage.original);
    return;
  }
  drawAll(stage);
  if (stage.mode === "slider") {
    const x = stage.split * stage.width;
    clipped(stage, 0, x, height, () => drawImage(stage, stage.original));
    context.fillStyle = color("--accent");
    context.fillRect(x - 1, 0, 2, height);
    context.beginPath();
    context.arc(x, height / 2, 9, 0, 2 * Math.PI);
    context.fill();
  }
}

function clipped(stage, left, right, height, draw) {
  stage.context.save();
  stage.context.beginPath();
  stage.context.rect(left, 0, right - left, height);
  stage.context.clip();
  draw();
  stage.context.restore();
}

function drawImage(stage, bitmap) {
  const { scale, x, y } = stage.view;
  stage.context.imageSmoothingEnabled = (scale * devicePixelRatio * stage.info.width) / bitmap.width < SHARP;
  stage.context.imageSmoothingQuality = "high";
  stage.context.drawImage(bitmap, x, y, stage.info.width * scale, stage.info.height * scale);
}

function drawAll(stage) {
  drawImage(stage, stage.preview ?? stage.result ?? stage.original);
  if (!stage.map) return;
  const dragged = stage.drag?.kind === "move" || stage.drag?.kind === "scale" ? stage.drag.things : [];
  const changed = stage.preview ? [] : stage.info.pending;
  drawGone(stage, new Set([...changed, ...dragged]));
  for (const number of new Set([...changed, ...dragged])) drawGhost(stage, number, dragged.includes(number));
  for (const number of stage.selection) drawOutline(stage, number, color("--accent"), dragged.includes(number));
  if (stage.hovered !== null && !stage.drag) {
    drawOutline(stage, stage.hovered, "#ffffff", false);
    fillThing(stage, stage.hovered);
  }
  drawSquare(stage);
  if (stage.selection.size === 1 && stage.info.has_frames && !stage.drag) drawHandles(stage);
}

function onMap(stage, map, draw) {
  const { context } = stage;
  const [left, top, right] = stage.info.square;
  const unit = ((right - left) / map.side) * stage.view.scale;
  context.save();
  context.translate(stage.view.x + left * stage.view.scale, stage.view.y + top * stage.view.scale);
  context.scale(unit, unit);
  draw(unit);
  context.restore();
}

function fillThing(stage, number) {
  onMap(stage, stage.map, () => {
    stage.context.fillStyle = "rgb(255 255 255 / .22)";
    stage.context.fill(pathOf(stage, stage.map, number).area);
  });
}

function drawOutline(stage, number, stroke, dragged) {
  if (dragged) return;
  onMap(stage, stage.map, (unit) => {
    const { outline } = pathOf(stage, stage.map, number);
    stage.context.lineWidth = 4 / unit;
    stage.context.strokeStyle = "rgb(0 0 0 / .55)";
    stage.context.stroke(outline);
    stage.context.lineWidth = 2 / unit;
    stage.context.strokeStyle = stroke;
    stage.context.stroke(outline);
  });
}

/** Hatch where things were that have changed since the shown picture was painted. */
function drawGone(stage, numbers) {
  const gone = [...numbers, ...(stage.preview ? [] : stage.info.pending_removed)];
  if (!stage.shownMap || !gone.length) return;
  onMap(stage, stage.shownMap, (unit) => {
    const { context } = stage;
    for (const number of gone) {
      context.save();
      context.clip(pathOf(stage, stage.shownMap, number).area);
      context.fillStyle = color("--stage");
      context.globalAlpha = 0.75;
      context.fillRect(0, 0, stage.shownMap.side, stage.shownMap.side);
      context.globalAlpha = 1;
      context.strokeStyle = color("--soft");
      context.lineWidth = 1 / unit;
      const step = 8 / unit;
      context.beginPath();
      for (let i = -stage.shownMap.side; i < stage.shownMap.side; i += step) {
        line(context, i, 0, i + stage.shownMap.side, stage.shownMap.side);
      }
      context.stroke();
      context.restore();
    }
  });
}

/** Draw the cutout of a thing where it will be painted. */
function drawGhost(stage, number, dragged) {
  const box = stage.boxOf(number, dragged);
  const bitmap = stage.cutouts.get(number);
  if (!box || !bitmap) return;
  const { context } = stage;
  const { scale, x, y } = stage.view;
  const [left, top, right, bottom] = box;
  const place = [x + left * scale, y + top * scale, (right - left) * scale, (bottom - top) * scale];
  context.imageSmoothingEnabled = place[2] / bitmap.width < SHARP;
  context.globalAlpha = 0.9;
  context.drawImage(bitmap, ...place);
  context.globalAlpha = 1;
  context.setLineDash([5, 4]);
  context.strokeStyle = color("--accent");
  context.lineWidth = 1.5;
  context.strokeRect(...place);
  context.setLineDash([]);
}

function drawSquare(stage) {
  const { context } = stage;
  const { scale, x, y } = stage.view;
  const [left, top, right, bottom] = stage.drag?.kind === "area" ? stage.drag.square : stage.square ?? stage.info.square;
  if (!stage.choosingArea && stage.info.width === right - left && stage.info.height === bottom - top) return;
  context.strokeStyle = color("--accent");
  context.lineWidth = stage.choosingArea ? 2 : 1;
  context.setLineDash([6, 6]);
  context.strokeRect(x + left * scale, y + top * scale, (right - left) * scale, (bottom - top) * scale);
  context.setLineDash([]);
}

function drawHandles(stage) {
  const { context } = stage;
  for (const { x, y } of stage.handles()) {
    context.fillStyle = color("--panel");
    context.strokeStyle = color("--accent");
    context.lineWidth = 2;
    context.fillRect(x - HANDLE, y - HANDLE, 2 * HANDLE, 2 * HANDLE);
    context.strokeRect(x - HANDLE, y - HANDLE, 2 * HANDLE, 2 * HANDLE);
  }
}

/** Outline and area of a thing of a map, in units of the map. */
function pathOf(stage, map, number) {
  const key = `${map === stage.map ? "now" : "shown"} ${number}`;
  if (stage.paths.has(key)) return stage.paths.get(key);
  const { side, ids } = map;
  const outline = new Path2D();
  const area = new Path2D();
  const is = (row, column) =>
    row >= 0 && column >= 0 && row < side && column < side && ids[row * side + column] === number;
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      if (!is(row, column)) continue;
      let end = column;
      if (!is(row, column - 1)) {
        while (is(row, end)) end++;
        area.rect(column, row, end - column, 1);
        outline.moveTo(column, row);
        outline.lineTo(column, row + 1);
      }
      if (!is(row, column + 1)) line(outline, column + 1, row, column + 1, row + 1);
      if (!is(row - 1, column)) line(outline, column, row, column + 1, row);
      if (!is(row + 1, column)) line(outline, column, row + 1, column + 1, row + 1);
    }
  }
  const path = { outline, area };
  stage.paths.set(key, path);
  return path;
}

function line(path, x0, y0, x1, y1) {
  path.moveTo(x0, y0);
  path.lineTo(x1, y1);
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
