// A chosen file as an image that the gateway accepts.

import { Failure } from "./failure.js";

const ACCEPTED = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff"];

const UNREADABLE = "This file is not an image that can be read. Choose a JPEG, PNG, WebP, GIF, BMP or TIFF file.";

// Returns {blob, url, caption}; `url` is null if the browser cannot show the image, as TIFF in most. An image that is
// over the limits is scaled down, and one in another format that the browser can show is sent as JPEG; others are sent
// as they are. Raises Failure.
export async function prepare(file, limits) {
  const url = URL.createObjectURL(file);
  const image = await load(url);
  const known = ACCEPTED.includes(file.type);
  if (!image) {
    URL.revokeObjectURL(url);
    if (!known) throw new Failure(UNREADABLE);
    if (file.size > limits.image_bytes) throw new Failure(tooLarge(file, limits));
    return { blob: file, url: null, caption: `${file.name}, ${size(file.size)}; this browser cannot show it` };
  }
  const { naturalWidth: width, naturalHeight: height } = image;
  const small = file.size <= limits.image_bytes && width * height <= limits.image_pixels;
  if (known && small) return { blob: file, url, caption: `${file.name}, ${width} × ${height}, ${size(file.size)}` };
  try {
    const { blob, ...scaled } = await redraw(image, limits);
    const what = small ? "sent as JPEG" : `scaled down from ${width} × ${height}`;
    return { blob, url, caption: `${file.name}, ${scaled.width} × ${scaled.height}, ${size(blob.size)}; ${what}` };
  } catch (error) {
    URL.revokeObjectURL(url);
    throw error;
  }
}

async function load(url) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return image;
  } catch {
    return null;
  }
}

async function redraw(image, limits) {
  let scale = Math.min(1, Math.sqrt(limits.image_pixels / (image.naturalWidth * image.naturalHeight)));
  // each time a quarter of the pixels; a JPEG of one pixel fits any limit
  for (; scale * Math.max(image.naturalWidth, image.naturalHeight) >= 1; scale /= 2) {
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.floor(image.naturalWidth * scale));
    canvas.height = Math.max(1, Math.floor(image.naturalHeight * scale));
    const context = canvas.getContext("2d");
    // JPEG has no transparency, and black would hide dark drawings
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    // null: the canvas is larger than the browser can hold
    if (blob && blob.size <= limits.image_bytes) return { blob, width: canvas.width, height: canvas.height };
  }
  throw new Failure(UNREADABLE);
}

function tooLarge(file, limits) {
  return `The image has ${size(file.size)}; ${size(limits.image_bytes)} are allowed. Choose a smaller one.`;
}

function size(bytes) {
  const kilobytes = bytes / 1000;
  return kilobytes < 1000 ? `${Math.max(1, Math.round(kilobytes))} kB` : `${(kilobytes / 1000).toFixed(1)} MB`;
}
