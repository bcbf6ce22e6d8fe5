/** Pixels: what the page does to an image before it is sent, and with one that was answered. */

import { ApiError } from "./api.js";

const LONGEST = 2048; // side of an image that is sent as it is, in pixels; larger ones only take longer to send

/**
 * An image file, and its pixels: { file, bitmap }. A large one is shrunk; its file then has an `origin`, which says so.
 */
export const openImage = async (file) => {
  const bitmap = await createImageBitmap(file).catch(() => {
    const message = `${file.name} cannot be read as an image.`;
    throw new ApiError(message, "Choose a PNG, JPEG, WebP, GIF, BMP or AVIF file.", { status: 422, code: "invalid_image" });
  });
  const share = LONGEST / Math.max(bitmap.width, bitmap.height);
  if (share >= 1) return { file, bitmap };
  const [width, height] = [bitmap.width, bitmap.height].map((length) => Math.max(1, Math.round(share * length)));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d"); // with transparency, which the service refuses
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const small = await encode(canvas, file.name.replace(/(\.\w+)?$/, "-shrunk.png"));
  const origin = `${file.name}, shrunk from ${bitmap.width} × ${bitmap.height} to ${width} × ${height} pixels`;
  return { file: Object.assign(small, { origin }), bitmap: await createImageBitmap(canvas) };
};

/** A file, or an <img>, as a model takes it: RGBA of the input's size, opaque. */
export const readPixels = async (image, { width, height }) => {
  const bitmap = await createImageBitmap(image);
  const context = openContext(width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
};

/** The image turned by degrees, clockwise, what comes in from outside being black. */
export const rotate = (pixels, degrees) => {
  if (degrees % 360 === 0) return pixels;
  const { width, height } = pixels;
  const context = openContext(width, height);
  context.translate(width / 2, height / 2);
  context.rotate((degrees * Math.PI) / 180);
  context.drawImage(toCanvas(pixels), -width / 2, -height / 2);
  return context.getImageData(0, 0, width, height);
};

/** A share of another image in place of this one's. */
export const blend = (pixels, other, share) =>
  mapPixels(pixels, (value, index) => (1 - share) * value + share * other.data[index]);

/** Plus normal noise of a standard deviation, as a share of the pixels' range; grey, and the same each time. */
export const addNoise = (pixels, deviation) => {
  const noise = drawNormal(pixels.data.length / 4);
  return mapPixels(pixels, (value, index) => value + 255 * deviation * noise[index >> 2]);
};

/** What one image has more than another, times a factor, around grey. */
export const magnify = (before, after, factor) =>
  mapPixels(after, (value, index) => 128 + factor * (value - before.data[index]));

export const largestDifference = (before, after) =>
  after.data.reduce((largest, value, index) => Math.max(largest, Math.abs(value - before.data[index])), 0);

export const toFile = (pixels, name) => encode(toCanvas(pixels), name);

const encode = async (canvas, name) => {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], name, { type: "image/png" });
};

export const show = (canvas, pixels) => {
  Object.assign(canvas, { width: pixels.width, height: pixels.height });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
};

/** A file as the content of an <img>; its address. */
export const showFile = (image, file) => {
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.hidden = false;
  return image.src;
};

export const hideFile = (image) => {
  URL.revokeObjectURL(image.src);
  image.removeAttribute("src");
  image.hidden = true;
};

/** A PNG file from the base64 of its bytes. */
export const decodeFile = (text, name) =>
  new File([Uint8Array.from(atob(text), (character) => character.charCodeAt(0))], name, { type: "image/png" });

const mapPixels = ({ data, width, height }, change) =>
  new ImageData(data.map((value, index) => (index % 4 === 3 ? 255 : change(value, index))), width, height);

const toCanvas = (pixels) => {
  const canvas = openContext(pixels.width, pixels.height).canvas;
  show(canvas, pixels);
  return canvas;
};

const openContext = (width, height) => {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return canvas.getContext("2d", { alpha: false, willReadFrequently: true });
};

/** Normal numbers by Box and Muller's transform, from a generator (mulberry32) that always starts alike. */
const drawNormal = (count) => {
  let state = 1;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
};
