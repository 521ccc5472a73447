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

// Where a new face goes: as far from the others as can be, a little above the middle.
export function freeSpot(document) {
  const { width, height } = document;
  const size = 0.26 * Math.min(width, height);
  const taken = document.faces.map((face) => middleOf(face.landmarks));
  let best = [width / 2, height * 0.42];
  let far = -1;
  for (let row = 1; row < 8; row++) {
    for (let column = 1; column < 12; column++) {
      const spot = [(column * width) / 12, (row * height) / 9];
      const away = Math.min(...taken.map(([x, y]) => Math.hypot(x - spot[0], y - spot[1])), Math.min(width, height));
      const worth = away - 0.35 * Math.hypot(spot[0] - width / 2, spot[1] - height * 0.42);
      if (worth > far) [far, best] = [worth, spot];
    }
  }
  return upright(best[0], best[1], size);
}
