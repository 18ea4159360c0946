#!/usr/bin/env python3
"""Pictures in encodings that common writers do not offer, drawn at random: for compare_preprocessing.py.

    odd_pictures.py OUT N [--seed S]

writes N files to OUT. JPEGs with any sampling, four inks, restarts, several scans, odd markers; GIFs with partial, interlaced and
transparent frames; PNGs of every colour type, depth and filter with transparency and ancillary chunks; WebPs lossy, lossless,
animated; TIFFs, BMPs and PNMs. All are valid files. Needs Pillow and numpy.
"""
import argparse
import io
import os
import random
import struct
import zlib

import numpy as np
from PIL import Image
from make_image_fixtures import ADAM7, exif_bytes, picture, tiff_bytes

ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
DCT = np.array([[(0.5 if u else 0.5 / np.sqrt(2)) * np.cos((2 * x + 1) * u * np.pi / 16) for x in range(8)] for u in range(8)])


class Bits:
    """Bits of a scan, most significant first, with a zero byte stuffed after 0xFF."""

    def __init__(self):
        self.data, self.value, self.count = bytearray(), 0, 0

    def put(self, value, count):
        self.value, self.count = self.value << count | value, self.count + count
        while self.count >= 8:
            byte = self.value >> (self.count - 8) & 255
            self.data += b"\xff\0" if byte == 255 else bytes((byte,))
            self.count -= 8
            self.value &= (1 << self.count) - 1

    def flush(self):
        if self.count:
            self.put((1 << (8 - self.count)) - 1, 8 - self.count)


def magnitude(v):
    """Number of bits of a coefficient, and the bits."""
    n = int(abs(v)).bit_length()
    return n, int(v) if v >= 0 else int(v) + (1 << n) - 1


# Codes of one length each, which any decoder takes: 12 symbols of 4 bits, 162 of 8.
DC_SYMBOLS = list(range(12))
AC_SYMBOLS = [0x00, 0xF0] + [run << 4 | size for run in range(16) for size in range(1, 11)]


def put_block(bits, block, previous, first, last):
    """Coefficients first..last of a block in zigzag order; returns its DC."""
    if first == 0:
        size, extra = magnitude(block[0] - previous)
        bits.put(DC_SYMBOLS.index(size), 4)
        bits.put(extra, size)
    run = 0
    for k in range(max(1, first), last + 1):
        if block[k] == 0:
            run += 1
            continue
        while run > 15:
            bits.put(AC_SYMBOLS.index(0xF0), 8)
            run -= 16
        size, extra = magnitude(block[k])
        bits.put(AC_SYMBOLS.index(run << 4 | size), 8)
        bits.put(extra, size)
        run = 0
    if run and last > 0:
        bits.put(AC_SYMBOLS.index(0x00), 8)
    return block[0]


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg_bytes(planes, sampling, ids, width, height, progressive=False, interleaved=True, restart=0, step=6, markers=b""):
    """planes: one array a component, of any size (resized to what its sampling needs); sampling: (h, v) a component."""
    hmax, vmax = max(h for h, _ in sampling), max(v for _, v in sampling)
    mcus_x, mcus_y = -(-width // (8 * hmax)), -(-height // (8 * vmax))
    blocks = []  # a component: [rows, columns, 64]
    for plane, (h, v) in zip(planes, sampling):
        w, t = -(-width * h // hmax), -(-height * v // vmax)
        image = np.asarray(Image.fromarray(plane).resize((w, t), Image.BILINEAR)).astype(np.float64) - 128
        padded = np.pad(image, ((0, mcus_y * v * 8 - t), (0, mcus_x * h * 8 - w)), mode="edge")
        tiles = padded.reshape(mcus_y * v, 8, mcus_x * h, 8).transpose(0, 2, 1, 3)
        coefficients = np.round(DCT @ tiles @ DCT.T / step).astype(np.int64).reshape(mcus_y * v, mcus_x * h, 64)
        blocks.append(np.clip(coefficients, -1000, 1000)[:, :, ZIGZAG])

    def scan(components, first, last):
        bits, out, since = Bits(), bytearray(), 0
        previous = [0] * len(planes)
        if len(components) == 1:  # without the padding of whole units
            (c,) = components
            h, v = sampling[c]
            rows, columns = -(--(-height * v // vmax) // 8), -(--(-width * h // hmax) // 8)
            units = [[(c, y, x)] for y in range(rows) for x in range(columns)]
        else:
            units = [[(c, my * sampling[c][1] + y, mx * sampling[c][0] + x) for c in components for y in range(sampling[c][1])
                      for x in range(sampling[c][0])] for my in range(mcus_y) for mx in range(mcus_x)]
        for n, unit in enumerate(units):
            if restart and n and n % restart == 0:
                bits.flush()
                out += bits.data + bytes((0xFF, 0xD0 + since % 8))
                bits, previous, since = Bits(), [0] * len(planes), since + 1
            for c, y, x in unit:
                previous[c] = put_block(bits, blocks[c][y, x], previous[c], first, last)
        bits.flush()
        header = bytes((len(components),)) + b"".join(bytes((ids[c], 0)) for c in components) + bytes((first, last, 0))
        return segment(0xDA, header) + bytes(out) + bytes(bits.data)

    frame = struct.pack(">BHHB", 8, height, width, len(planes)) + b"".join(
        bytes((i, h << 4 | v, 0)) for i, (h, v) in zip(ids, sampling))
    out = b"\xff\xd8" + markers + segment(0xDB, b"\0" + bytes([step] * 64)) + segment(0xC2 if progressive else 0xC0, frame)
    out += segment(0xC4, b"\0" + bytes([0, 0, 0, 12] + [0] * 12) + bytes(DC_SYMBOLS))
    out += segment(0xC4, b"\x10" + bytes([0] * 7 + [len(AC_SYMBOLS)] + [0] * 8) + bytes(AC_SYMBOLS))
    if restart:
        out += segment(0xDD, struct.pack(">H", restart))
    everything = list(range(len(planes)))
    if progressive:
        out += scan(everything, 0, 0)
        out += b"".join(scan([c], a, b) for c in everything for a, b in ((1, 5), (6, 63)))
    elif interleaved:
        out += scan(everything, 0, 63)
    else:
        out += b"".join(scan([c], 0, 63) for c in everything)
    return out + b"\xff\xd9"


def odd_jpeg(rng):
    width, height = rng.choice(((rng.randint(1, 70), rng.randint(1, 70)), (rng.randint(1, 9), rng.randint(1, 40))))
    components = rng.choice((1, 3, 3, 3, 3, 3, 4, 4))
    source = np.concatenate([picture(width, height, rng.randint(0, 999)), picture(width, height, rng.randint(0, 999))], -1)
    planes = [np.ascontiguousarray(source[:, :, c]) for c in range(components)]
    luma = rng.choice(((1, 1), (2, 1), (2, 2), (1, 2), (4, 1), (1, 4), (4, 2), (2, 4)))
    chroma = rng.choice(((1, 1), (1, 1), (1, 1), luma, (luma[0], 1), (1, luma[1])))
    sampling = [luma] + [chroma] * (components - 1)
    if components == 4:
        sampling[3] = luma
    if sum(h * v for h, v in sampling) > 10 or components == 1:
        sampling = [(1, 1) if components > 1 else rng.choice(((1, 1), (2, 2), (1, 2)))] * components
    ids = rng.choice(([1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3], [82, 71, 66, 65], [7, 5, 9, 1]))[:components]
    markers = b""
    if rng.random() < 0.5:
        markers += segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    if rng.random() < 0.5:
        markers += segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, rng.choice((0, 1, 2))))
    if rng.random() < 0.3:
        markers += segment(0xE1, exif_bytes(rng.randint(0, 9)))
    if rng.random() < 0.2:
        markers += segment(0xFE, b"a comment") + segment(0xE2, b"MPF\0nothing") + segment(0xED, b"Photoshop 3.0\0")
    return "jpg", jpeg_bytes(planes, sampling, ids, width, height, progressive=rng.random() < 0.3, interleaved=rng.random() < 0.7,
                             restart=rng.choice((0, 0, 1, 3, 9)), step=rng.choice((1, 3, 6, 20, 90)), markers=markers)


def lzw(indices, bits):
    """GIF's compression with a clear code before the codes would grow."""
    clear, out, value, count = 1 << bits, bytearray(), 0, 0
    codes = []
    for i, index in enumerate(indices):
        if i % max(1, (1 << bits) - 2) == 0:
            codes.append(clear)
        codes.append(int(index))
    codes.append(clear + 1)
    for code in codes:
        value |= code << count
        count += bits + 1
        while count >= 8:
            out.append(value & 255)
            value, count = value >> 8, count - 8
    if count:
        out.append(value)
    return bytes((bits,)) + b"".join(bytes((len(out[i:i + 255]),)) + out[i:i + 255] for i in range(0, len(out), 255)) + b"\0"


def odd_gif(rng):
    draw = np.random.default_rng(rng.randint(0, 1 << 30))
    screen = rng.randint(1, 40), rng.randint(1, 40)
    palette = lambda bits: (np.repeat(draw.integers(0, 256, 1 << bits, dtype=np.uint8), 3) if rng.random() < 0.2 else  # noqa: E731
                            np.repeat(np.arange(1 << bits, dtype=np.uint8), 3) if rng.random() < 0.2 else
                            draw.integers(0, 256, 3 << bits, dtype=np.uint8)).tobytes()
    shared = rng.randint(1, 8) if rng.random() < 0.8 else 0
    out = rng.choice((b"GIF87a", b"GIF89a")) + struct.pack("<HHBBB", *screen, (0x80 | shared - 1 if shared else 0) | 0x70,
                                                           rng.randint(0, 255) if rng.random() < 0.5 else 0, 0)
    out += palette(shared) if shared else b""
    if rng.random() < 0.3:
        out += b"\x21\xfe\x09a comment\0"
    if rng.random() < 0.3:
        out += b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    for _ in range(rng.choice((1, 1, 2))):
        own = rng.randint(1, 8) if rng.random() < 0.4 or not shared else 0
        bits = own or shared
        if rng.random() < 0.5:
            flags = rng.randint(0, 1) | rng.randint(0, 3) << 2
            out += b"\x21\xf9\x04" + struct.pack("<BHBB", flags, 10, rng.randint(0, (1 << bits) - 1), 0)
        if rng.random() < 0.5:
            left, top, width, height = 0, 0, *screen
        else:
            left, top = rng.randint(0, 20), rng.randint(0, 20)
            width, height = rng.randint(1, 40), rng.randint(1, 40)
        interlaced = rng.random() < 0.4
        out += b"," + struct.pack("<HHHHB", left, top, width, height, (0x80 | own - 1 if own else 0) | 0x40 * interlaced)
        out += palette(own) if own else b""
        beyond = rng.choice((bits, bits, max(2, bits), 8))  # indices that the palette does not have
        out += lzw(draw.integers(0, 1 << beyond, width * height), max(2, beyond))
    return "gif", out + b";"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(rows, pixel_bytes, rng):
    """PNG's filters, one a row at random."""
    out, above = bytearray(), np.zeros(rows.shape[1], np.int64)
    for row in rows.astype(np.int64):
        kind = rng.randint(0, 4)
        left = np.concatenate([np.zeros(pixel_bytes, np.int64), row])[:len(row)]
        corner = np.concatenate([np.zeros(pixel_bytes, np.int64), above])[:len(row)]
        p = left + above - corner
        a, b, c = abs(p - left), abs(p - above), abs(p - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        guess = (0 * row, left, above, (left + above) // 2, paeth)[kind]
        out += bytes((kind,)) + ((row - guess) & 255).astype(np.uint8).tobytes()
        above = row
    return bytes(out)


def odd_png(rng):
    draw = np.random.default_rng(rng.randint(0, 1 << 30))
    color, depth = rng.choice([(0, d) for d in (1, 2, 4, 8, 16)] + [(2, 8), (2, 16)] + [(3, d) for d in (1, 2, 4, 8)] +
                              [(4, 8), (4, 16), (6, 8), (6, 16)])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    width, height = rng.randint(1, 35), rng.randint(1, 35)
    colors = rng.randint(1, 1 << depth) if color == 3 else 0
    top = colors or rng.choice((1 << depth, 1 << depth, min(1 << depth, 700)))
    samples = draw.integers(0, top, (height, width, channels))
    interlaced = rng.random() < 0.4

    def packed(part):
        rows = part.reshape(part.shape[0], -1)
        if depth == 16:
            return rows.astype(">u2").view(np.uint8).reshape(len(rows), -1)
        if depth == 8:
            return rows.astype(np.uint8)
        bits = (rows[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
        return np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)

    parts = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    raw = b"".join(filtered(packed(p), max(1, depth * channels // 8), rng) for p in parts if p.size)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced))
    if rng.random() < 0.3:
        out += chunk(b"gAMA", struct.pack(">I", rng.choice((45455, 100000, 22000))))
    if rng.random() < 0.2:
        out += chunk(b"sBIT", bytes([min(depth, 8)] * (3 if color == 3 else channels)))
    if rng.random() < 0.2:
        out += chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
    if colors:
        out += chunk(b"PLTE", draw.integers(0, 256, 3 * colors, dtype=np.uint8).tobytes())
    elif color in (2, 6) and rng.random() < 0.2:
        out += chunk(b"PLTE", draw.integers(0, 256, 30, dtype=np.uint8).tobytes())
    if color in (0, 2, 3) and rng.random() < 0.5:
        value = struct.pack(f">{channels}H", *(int(v) for v in samples[0, 0]))
        out += chunk(b"tRNS", draw.integers(0, 256, rng.randint(1, colors), dtype=np.uint8).tobytes() if colors else value)
    if color == 3 and rng.random() < 0.2:
        out += chunk(b"bKGD", b"\0")
    if rng.random() < 0.3:
        out += chunk(b"eXIf", exif_bytes(rng.randint(1, 8))[6:])
    data = zlib.compress(raw, rng.choice((0, 1, 9)))
    cut = rng.randint(0, len(data))
    out += chunk(b"IDAT", data[:cut]) + chunk(b"IDAT", data[cut:])
    if rng.random() < 0.2:
        out += chunk(b"tEXt", b"Comment\0nothing") + chunk(b"tIME", struct.pack(">HBBBBB", 2020, 1, 2, 3, 4, 5))
    return "png", out + chunk(b"IEND", b"")


def odd_webp(rng):
    width, height = rng.randint(1, 60), rng.randint(1, 60)
    frames = []
    for _ in range(3):
        image = Image.fromarray(picture(width, height, rng.randint(0, 999))).convert("RGBA")
        image.putalpha(Image.fromarray(picture(width, height, rng.randint(0, 999))[:, :, 0]).point(lambda v: 0 if v < 90 else v))
        frames.append(image)
    if rng.random() < 0.5:
        frames = [f.convert("RGB") for f in frames]
    options = dict(quality=rng.choice((0, 10, 50, 80, 100)), method=rng.choice((0, 4, 6)), lossless=rng.random() < 0.4,
                   exact=rng.random() < 0.5, alpha_quality=rng.choice((10, 100)))
    if rng.random() < 0.3:
        options["exif"] = exif_bytes(rng.randint(1, 8))
    if rng.random() < 0.4:
        options.update(save_all=True, append_images=frames[1:], duration=50, minimize_size=rng.random() < 0.5,
                       background=(rng.randint(0, 255), 9, 200, rng.choice((0, 128, 255))), allow_mixed=rng.random() < 0.5)
    buffer = io.BytesIO()
    frames[0].save(buffer, format="WEBP", **options)
    return "webp", buffer.getvalue()


def odd_tiff(rng):
    draw = np.random.default_rng(rng.randint(0, 1 << 30))
    width, height, order = rng.randint(1, 40), rng.randint(1, 40), rng.choice("<>")
    photometric, samples, bits = rng.choice(((0, 1, 1), (1, 1, 1), (0, 1, 4), (1, 1, 4), (1, 1, 2), (0, 1, 8), (1, 1, 8), (1, 1, 16), (2, 3, 8), (2, 3, 16),
                                             (2, 4, 8), (5, 4, 8), (3, 1, 8), (3, 1, 4), (1, 2, 8)))
    tags = dict(bits=(bits,) * samples if samples > 1 else bits, photometric=photometric, samples=samples)
    if samples == 4 and photometric == 2:
        tags["extra"] = rng.choice((0, 1, 2))
    if photometric == 1 and samples == 2:
        tags["extra"] = rng.choice((1, 2))
    if photometric == 3:
        tags["colormap"] = draw.integers(0, 65536, 3 << bits).tolist()
    if rng.random() < 0.3:
        tags["orientation"] = rng.randint(1, 8)
    row = (width * samples * bits + 7) // 8
    high = 256 if bits != 16 else rng.choice((2, 256))
    rows = draw.integers(0, high, (height, row), dtype=np.int64).astype(np.uint8)
    per_strip = rng.choice((height, max(1, height // 3), 1))
    tags["rows"] = per_strip
    predicted = bits == 8 and rng.random() < 0.4
    compression = rng.choice((1, 1, 5, 8, 32773)) if not predicted else 8
    tags["compression"] = compression if compression != 5 else 1
    if predicted:
        tags["predictor"] = 2
        pixels = rows.reshape(height, width, samples).astype(np.int64)
        rows = (np.diff(pixels, axis=1, prepend=0) & 255).astype(np.uint8).reshape(height, row)
    strips = [rows[y:y + per_strip].tobytes() for y in range(0, height, per_strip)]
    if tags["compression"] == 8:
        strips = [zlib.compress(s) for s in strips]
    if tags["compression"] == 32773:
        strips = [b"".join(b"".join(bytes((len(r[i:i + 100]) - 1,)) + r[i:i + 100] for i in range(0, row, 100))
                           for r in (s[k:k + row] for k in range(0, len(s), row))) for s in strips]
    return "tif", tiff_bytes(width, height, strips, order, **tags)


def odd_bmp(rng):
    draw = np.random.default_rng(rng.randint(0, 1 << 30))
    width, height, bits = rng.randint(1, 40), rng.randint(1, 40), rng.choice((1, 4, 8, 16, 24, 32))
    size = rng.choice((12, 40, 108, 124)) if bits not in (16, 32) else rng.choice((40, 108, 124))
    compression, masks, header = 0, b"", b""
    if bits in (16, 32) and rng.random() < 0.7:
        compression = 3
        layouts = {16: ((0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0)),
                   32: ((0xFF0000, 0xFF00, 0xFF, 0), (0xFF000000, 0xFF0000, 0xFF00, 0), (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
                        (0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0xFF000000, 0xFF0000, 0xFF00, 0xFF))}[bits]
        masks = struct.pack("<4I", *rng.choice(layouts if size > 40 else layouts[:2]))
    colors = rng.choice((0, rng.randint(1, 1 << bits))) if bits <= 8 and size != 12 else 0
    palette = draw.integers(0, 256, (3 if size == 12 else 4) * (colors or 1 << bits), dtype=np.uint8).tobytes() if bits <= 8 else b""
    flipped = size != 12 and rng.random() < 0.3
    row = (width * bits + 31) // 32 * 4
    data = draw.integers(0, 256, row * height, dtype=np.uint8).tobytes()
    if size == 12:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        header = struct.pack("<IiiHHIIiiII", size, width, -height if flipped else height, 1, bits, compression, len(data), 2835, 2835,
                             colors, 0)
        if size == 40:
            header += masks[:12] if compression else b""
        else:
            header += (masks or b"\0" * 16).ljust(size - 40, b"\0")
    offset = 14 + len(header) + len(palette)
    return "bmp", b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + palette + data


def odd_pnm(rng):
    draw = np.random.default_rng(rng.randint(0, 1 << 30))
    width, height, kind = rng.randint(1, 30), rng.randint(1, 30), rng.randint(1, 6)
    top = rng.choice((1, 31, 100, 255, 256, 1000, 65535))
    count = width * height * (3 if kind in (3, 6) else 1)
    space = lambda: rng.choice((b" ", b"\n", b"\t", b" # noted\n", b"\r\n"))  # noqa: E731
    out = b"P%d" % kind + space() + b"%d" % width + space() + b"%d" % height + (b"\n" if kind in (1, 4) else space() + b"%d\n" % top)
    values = draw.integers(0, min(top + 1, rng.choice((2, 300, 70000))), count)
    if kind == 1:
        return "pbm", out + rng.choice((b"", b" ")).join(b"%d" % (v % 2) for v in values)
    if kind in (2, 3):
        return "pnm", out + b" ".join(b"%d" % v for v in values) + b"\n"
    if kind == 4:
        return "pbm", out + draw.integers(0, 256, (width + 7) // 8 * height, dtype=np.uint8).tobytes()
    return "pnm", out + values.astype(">u2" if top > 255 else "u1").tobytes()


MAKERS = (odd_jpeg, odd_jpeg, odd_jpeg, odd_gif, odd_gif, odd_png, odd_png, odd_webp, odd_tiff, odd_bmp, odd_pnm)


def write_pictures(folder, count, seed=0):
    rng = random.Random(seed)
    for i in range(count):
        extension, data = MAKERS[i % len(MAKERS)](rng)
        with open(os.path.join(folder, f"odd_{seed}_{i}.{extension}"), "wb") as f:
            f.write(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    write_pictures(args.out, args.count, args.seed)


if __name__ == "__main__":
    main()
