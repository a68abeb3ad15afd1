// Strokes of a sketch: simplified, drawn, and packed so that an address can hold them.
//
// A stroke is {width, points: [x0, y0, x1, y1, ...]} in thousandths of the paper's width; the paper is 1000 x 750.

export const PAPER = Object.freeze({ width: 1000, height: 750 });

const TOLERANCE = 1.5;
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const MAX_PACKED = 60000;

/** Leave out points that lie on the line between their neighbours (Ramer, Douglas and Peucker). */
export function simplified(points) {
  const last = points.length - 2;
  if (last < 4) return points.slice();
  const kept = new Set([0, last]);
  const open = [[0, last]];
  while (open.length) {
    const [start, end] = open.pop();
    let farthest = -1;
    let distance = TOLERANCE;
    for (let at = start + 2; at < end; at += 2) {
      const away = distanceToSegment(points, at, start, end);
      if (away > distance) [farthest, distance] = [at, away];
    }
    if (farthest < 0) continue;
    kept.add(farthest);
    open.push([start, farthest], [farthest, end]);
  }
  return [...kept].sort((a, b) => a - b).flatMap((at) => [points[at], points[at + 1]]);
}

function distanceToSegment(points, at, start, end) {
  const [x0, y0, x1, y1] = [points[start], points[start + 1], points[end], points[end + 1]];
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy;
  const along = length ? Math.min(1, Math.max(0, ((points[at] - x0) * dx + (points[at + 1] - y0) * dy) / length)) : 0;
  return Math.hypot(points[at] - x0 - along * dx, points[at + 1] - y0 - along * dy);
}

/** Draw strokes black on white, whatever the page's theme: it is paper, and it is what the service receives. */
export function drawStrokes(context, strokes, scale = 1) {
  context.save();
  context.fillStyle = "#fff";
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.scale(scale, scale);
  context.strokeStyle = "#111";
  context.lineCap = "round";
  context.lineJoin = "round";
  for (const { width, points } of strokes) {
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(points[0], points[1]);
    // A dot is a line to where it began.
    for (let at = points.length > 2 ? 2 : 0; at < points.length; at += 2) context.lineTo(points[at], points[at + 1]);
    context.stroke();
  }
  context.restore();
}

/** Strokes as text of letters that an address takes as they are: each number's difference to the one before. */
export function packStrokes(strokes) {
  let packed = "";
  let [x, y] = [0, 0];
  for (const { width, points } of strokes) {
    packed += unsigned(points.length / 2) + unsigned(Math.round(width));
    for (let at = 0; at < points.length; at += 2) {
      const [nextX, nextY] = [Math.round(points[at]), Math.round(points[at + 1])];
      packed += signed(nextX - x) + signed(nextY - y);
      [x, y] = [nextX, nextY];
    }
  }
  return packed;
}

/** Read `packStrokes`' text; anything else gives no strokes. */
export function unpackStrokes(packed) {
  if (packed.length > MAX_PACKED) return [];
  const numbers = readNumbers(packed);
  if (numbers === null) return [];
  const strokes = [];
  let at = 0;
  let [x, y] = [0, 0];
  while (at < numbers.length) {
    const [numPoints, width] = [numbers[at], numbers[at + 1]];
    at += 2;
    if (!numPoints || !width || at + 2 * numPoints > numbers.length) return [];
    const points = [];
    for (let point = 0; point < numPoints; point += 1, at += 2) {
      x += zigzag(numbers[at]);
      y += zigzag(numbers[at + 1]);
      points.push(x, y);
    }
    strokes.push({ width, points });
  }
  return strokes;
}

// Five bits a letter, the lowest first; the sixth says that more follow.
function unsigned(number) {
  let text = "";
  do {
    const bits = number & 31;
    number >>>= 5;
    text += ALPHABET[bits | (number ? 32 : 0)];
  } while (number);
  return text;
}

function signed(number) {
  return unsigned(number < 0 ? -2 * number - 1 : 2 * number);
}

function zigzag(number) {
  return number & 1 ? -(number + 1) / 2 : number / 2;
}

function readNumbers(text) {
  const numbers = [];
  let [number, shift] = [0, 0];
  for (const letter of text) {
    const bits = ALPHABET.indexOf(letter);
    if (bits < 0 || shift > 20) return null;
    number |= (bits & 31) << shift;
    shift += 5;
    if (bits < 32) {
      numbers.push(number);
      [number, shift] = [0, 0];
    }
  }
  return shift === 0 ? numbers : null;
}
