// A metalm.v1.Batch of one sample, out of its protobuf bytes: 15 bytes a token with all that is told
// of it, where JSON takes 20, and no text to be parsed.

const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
const DTYPES = { 1: Uint8Array, 2: Uint16Array, 3: Int32Array };

// {number: [value, …]} of a message: bytes where they are length-delimited, BigInt else.
function fields(bytes) {
  const found = {};
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined || shift > 63n) throw new Error("the answer is no batch");
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = Number(varint());
    let value;
    if ((key & 7) === 0) value = varint();
    else if ((key & 7) === 1) {
      value = new DataView(bytes.buffer, bytes.byteOffset + at, 8).getBigUint64(0, true);
      at += 8;
    } else {
      const length = Number(varint());
      if ((key & 7) !== 2 || at + length > bytes.length) throw new Error("the answer is no batch");
      value = bytes.subarray(at, at + length);
      at += length;
    }
    (found[key >> 3] ??= []).push(value);
  }
  return found;
}

function array(Type, bytes = new Uint8Array()) {
  if (!LITTLE_ENDIAN) throw new Error("this machine's numbers are the wrong way round");
  return new Type(bytes.slice().buffer);
}

export function decode(buffer) {
  const batch = fields(new Uint8Array(buffer));
  const Tokens = DTYPES[Number(batch[7][0])];
  const told = fields(batch[9][0]);
  const language = fields(told[5][0]);
  return {
    x: array(Tokens, batch[10][0]),
    y: array(Tokens, batch[11][0]),
    separator: Number(fields(batch[2][0])[1][0]) + 1,
    digest: batch[8][0].toString(16).padStart(16, "0"),
    element: array(Int32Array, told[1][0]),
    offset: array(Int32Array, told[2][0]),
    exposure: array(Int32Array, told[3][0]),
    corruption: array(Uint8Array, told[4][0]),
    lengths: array(Int32Array, language[1]?.[0]),
    tokens: array(Tokens, language[2]?.[0]),
  };
}
