/** Reads safetensors files: a length (8 bytes), a JSON header, and the tensors' bytes. */

/** Tensors by name, { shape, values: Float32Array }; of the types, F32 and F16. */
export const readTensors = (buffer) => {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { __metadata__: _, ...entries } = header;
  return Object.fromEntries(
    Object.entries(entries).map(([name, { dtype, shape, data_offsets: [start, stop] }]) => {
      const bytes = buffer.slice(8 + length + start, 8 + length + stop);
      if (dtype !== "F32" && dtype !== "F16") throw new TypeError(`${name} is ${dtype}, neither F32 nor F16`);
      return [name, { shape, values: dtype === "F32" ? new Float32Array(bytes) : widen(new Uint16Array(bytes)) }];
    }),
  );
};

/** Half precision, IEEE 754, as single precision. */
const widen = (halves) =>
  Float32Array.from(halves, (half) => {
    const sign = half >> 15 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * (1 + fraction / 1024) * 2 ** (exponent - 15) : sign * fraction * 2 ** -24;
  });
