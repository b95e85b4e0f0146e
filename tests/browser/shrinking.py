"""PNG files of flat pages made a third as large: 256 colours, no filter, zlib's best."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

COLOURS = 256


def shrink(file: Path) -> None:
    """Rewrite a screenshot with a palette of its own most frequent colours."""
    import tensorflow as tf

    pixels = tf.io.decode_png(file.read_bytes(), channels=3).numpy().astype(np.int32)
    codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    found, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    colours = np.stack([found >> 16, (found >> 8) & 255, found & 255], axis=1)
    # The rare ones are shades at the edges of letters: the nearest frequent one is taken.
    chosen = np.argsort(-counts)[:COLOURS]
    palette = colours[chosen]
    nearest = np.empty(len(colours), np.uint8)
    for begin in range(0, len(colours), 2048):
        part = colours[begin : begin + 2048, None, :] - palette[None, :, :]
        nearest[begin : begin + 2048] = np.argmin((part**2).sum(axis=2), axis=1)
    rows = nearest[inverse.reshape(codes.shape)]
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    height, width = codes.shape
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + _chunk(b"PLTE", palette.astype(np.uint8).tobytes())
        + _chunk(b"IDAT", zlib.compress(raw, 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
