// Justified rows: every picture keeps its shape, every row but the last fills the width.

/**
 * Size pictures into rows.
 *
 * `shapes`: width / height of each picture. Returns one `{width, height}` in whole pixels for each.
 */
export function justifiedRows(shapes, { width, gap, height: wanted }) {
  const sizes = [];
  let row = [];
  let shapeSum = 0;
  const close = (height) => {
    let left = Math.floor(width - gap * (row.length - 1));
    row.forEach((shape, position) => {
      // The last of a full row takes what rounding left, so that right edges stand in one line.
      const isLastOfFull = position === row.length - 1 && height !== wanted;
      const own = isLastOfFull ? left : Math.min(left, Math.round(shape * height));
      sizes.push({ width: Math.max(1, own), height: Math.round(height) });
      left -= own;
    });
    row = [];
    shapeSum = 0;
  };
  for (const shape of shapes) {
    row.push(bounded(shape));
    shapeSum += bounded(shape);
    const fitting = (width - gap * (row.length - 1)) / shapeSum;
    if (fitting <= wanted) close(Math.max(fitting, wanted * 0.6));
  }
  if (row.length) close(wanted);
  return sizes;
}

// Panoramas and towers are cropped rather than let rule their row.
function bounded(shape) {
  return Math.min(2.8, Math.max(0.5, shape || 4 / 3));
}
