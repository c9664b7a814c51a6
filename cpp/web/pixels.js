// The pixels of a picture, as the browser decodes it.

import { SwinV2Error } from "./swinv2.js";

const BAD_IMAGE = -4; // of swinv2.h

// An encoded picture (a Blob, as a File is) -> { data, width, height }, upright as EXIF says, RGBA of a byte each.
// Opaque pixels are those that lie in the file, without the conversion to the colours of a screen: what the Python
// package sees as well. The rest comes on white, as there, where a browser may round a value by one.
// Throws a SwinV2Error for what is no picture.
export async function pixelsOf(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" }).catch(() => {
    throw new SwinV2Error("this is no picture that the browser can decode, or it is damaged", BAD_IMAGE);
  });
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
  if (canvas) {
    canvas.fillStyle = "white";
    canvas.fillRect(0, 0, width, height);
    canvas.drawImage(bitmap, 0, 0);
  }
  bitmap.close();
  try {
    return canvas.getImageData(0, 0, width, height);
  } catch {
    const size = `${width} x ${height} pixels`;
    throw new SwinV2Error(`${size} are more than this browser holds; make the picture smaller`, BAD_IMAGE);
  }
}
