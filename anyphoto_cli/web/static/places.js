// Five points of a face: moved, scaled, turned. px of the picture; the template is ArcFace's.

const TEMPLATE = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];
export const TOKEN = 16;

export const middleOf = (points) => [0, 1].map((k) => points.reduce((sum, point) => sum + point[k], 0) / points.length);

export function heightOf(points) {
  const eyes = middleOf(points.slice(0, 2));
  const mouth = middleOf(points.slice(3));
  return Math.max(3 * Math.hypot(eyes[0] - mouth[0], eyes[1] - mouth[1]), 1e-6);
}

export const angleOf = (points) => Math.atan2(points[1][1] - points[0][1], points[1][0] - points[0][0]);

const rounded = (points) => points.map(([x, y]) => [Math.round(x * 10) / 10, Math.round(y * 10) / 10]);

export const moved = (points, dx, dy) => rounded(points.map(([x, y]) => [x + dx, y + dy]));

// Scaled by `factor` and turned by `angle` radians around their middle.
export function changed(points, factor, angle) {
  const [cx, cy] = middleOf(points);
  const [c, s] = [Math.cos(angle) * factor, Math.sin(angle) * factor];
  return rounded(points.map(([x, y]) => [cx + c * (x - cx) - s * (y - cy), cy + s * (x - cx) + c * (y - cy)]));
}

export function upright(x, y, height) {
  const [cx, cy] = middleOf(TEMPLATE);
  const factor = height / heightOf(TEMPLATE);
  return rounded(TEMPLATE.map(([px, py]) => [x + (px - cx) * factor, y + (py - cy) * factor]));
}

// Middles of faces are at least so many heights apart, and so many from the edges; as `layout arrange` has it.
const APART = 1.35;
const EDGE = 0.65;

// Where a new face goes: near the middle where it touches nobody, smaller if need be; else where it touches least.
export function freeSpot(document) {
  const { width, height } = document;
  const spots = [0.26, 0.2, 0.15].map((share) => bestSpot(document, share * Math.min(width, height)));
  const { x, y, size } = spots.find((spot) => spot.gap >= APART) ?? spots.reduce((a, b) => (b.gap > a.gap ? b : a));
  return upright(x, y, size);
}

function bestSpot(document, size) {
  const { width, height, faces } = document;
  const margin = EDGE * size;
  let best = null;
  for (let row = 0; row <= 12; row++) {
    for (let column = 0; column <= 12; column++) {
      const x = margin + (column / 12) * (width - 2 * margin);
      const y = margin + (row / 12) * (height - 2 * margin);
      const gap = Math.min(APART, ...faces.map(({ landmarks }) => {
        const [there, down] = middleOf(landmarks);
        return Math.hypot(x - there, y - down) / ((size + heightOf(landmarks)) / 2);
      }));
      const away = Math.hypot(x - width / 2, y - height * 0.42);
      if (!best || gap > best.gap || (gap === best.gap && away < best.away)) best = { x, y, size, gap, away };
    }
  }
  return best;
}
