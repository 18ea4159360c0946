#!/usr/bin/env python3
"""Writes the image tests' fixtures: small files of every format and what Pillow makes of them.

    make_image_fixtures.py OUT [--robust DIR]

OUT/cases.tsv      one case a line; the CRC-32 is that of Pillow's pixels (RGB or grey bytes, or little-endian float32)
OUT/files/         the pictures
OUT/robust.tsv     with --robust: what Pillow makes of every file below DIR
Needs Pillow and numpy.
"""
import argparse
import io
import os
import random
import struct
import warnings
import zlib

import numpy as np
import PIL
from PIL import Image, ImageEnhance, ImageOps, features

FILTERS = {"nearest": Image.NEAREST, "box": Image.BOX, "bilinear": Image.BILINEAR, "hamming": Image.HAMMING,
           "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


def crc(data):
    return f"{zlib.crc32(data):08x}"


def picture(width, height, seed, noise=12):
    """RGB uint8 with smooth colours, hard edges and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.stack([127 + 120 * np.sin(x / 9 + seed), 127 + 120 * np.cos(y / 7 + x / 23), 255 * x / max(width, 1)], -1)
    for _ in range(6):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(2, max(3, width / 5))
        image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    image += rng.normal(0, noise, image.shape) if noise else 0
    return np.clip(image, 0, 255).astype(np.uint8)


class Writer:
    def __init__(self, out):
        self.out = out
        os.makedirs(os.path.join(out, "files"), exist_ok=True)
        self.lines = []

    def case(self, *fields):
        self.lines.append("\t".join(str(f) for f in fields))

    def add_file(self, name, data):
        path = os.path.join(self.out, "files", name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def decode(self, name, data):
        """The file and the RGB picture that Pillow decodes it to."""
        path = self.add_file(name, data)
        with open(path, "rb") as f, Image.open(f) as im:
            rgb = ImageOps.exif_transpose(im).convert("RGB")
        self.case("decode", name, rgb.width, rgb.height, crc(rgb.tobytes()))

    def save(self, name, image, **options):
        buffer = io.BytesIO()
        image.save(buffer, **options)
        self.decode(name, buffer.getvalue())


def exif_bytes(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif.tobytes()


XMP = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
       b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="8"/></rdf:RDF></x:xmpmeta>')


def jpegs(w):
    rgb = Image.fromarray(picture(37, 29, 1))
    for name, sampling in (("444", 0), ("422", 1), ("420", 2)):
        w.save(f"rgb_{name}.jpg", rgb, format="JPEG", quality=85, subsampling=sampling)
        w.save(f"rgb_{name}_progressive.jpg", rgb, format="JPEG", quality=60, subsampling=sampling, progressive=True)
    w.save("grey.jpg", rgb.convert("L"), format="JPEG", quality=80)
    w.save("grey_progressive.jpg", rgb.convert("L"), format="JPEG", quality=80, progressive=True)
    w.save("cmyk.jpg", rgb.convert("CMYK"), format="JPEG", quality=85)
    w.save("stored_as_rgb.jpg", rgb, format="JPEG", quality=85, keep_rgb=True)
    w.save("quality5.jpg", rgb, format="JPEG", quality=5)
    w.save("quality100.jpg", rgb, format="JPEG", quality=100)
    w.save("restarts.jpg", rgb, format="JPEG", quality=75, restart_marker_blocks=2)
    for width, height in ((1, 1), (2, 1), (1, 17), (16, 16), (17, 8), (8, 33)):
        w.save(f"size_{width}x{height}.jpg", Image.fromarray(picture(width, height, 2)), format="JPEG", subsampling=2)
    for orientation in range(1, 9):
        w.save(f"exif_{orientation}.jpg", Image.fromarray(picture(23, 14, 3)), format="JPEG", quality=90,
               exif=exif_bytes(orientation))
    w.save("exif_9_is_no_orientation.jpg", rgb, format="JPEG", exif=exif_bytes(9))
    w.save("xmp_8.jpg", rgb, format="JPEG", xmp=XMP)
    w.save("exif_before_xmp.jpg", rgb, format="JPEG", exif=exif_bytes(3), xmp=XMP)
    big_endian = (b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 0x112, 3, 1, 6, 0) + b"\0\0\0\0")
    w.save("exif_big_endian.jpg", rgb, format="JPEG", exif=big_endian)


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png_bytes(samples, depth, color_type, interlaced=False, chunks=()):
    """samples [height, width, channels] of `depth` bits."""
    height, width, channels = samples.shape

    def packed(rows):
        out = b""
        for row in rows:
            flat = row.reshape(-1)
            if depth == 16:
                data = flat.astype(">u2").tobytes()
            elif depth == 8:
                data = flat.astype(np.uint8).tobytes()
            else:
                bits = "".join(format(int(v), f"0{depth}b") for v in flat)
                bits += "0" * (-len(bits) % 8)
                data = bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))
            out += b"\0" + data
        return out

    if interlaced:
        raw = b"".join(packed(samples[y0::dy, x0::dx]) for x0, y0, dx, dy in ADAM7 if samples[y0::dy, x0::dx].size)
    else:
        raw = packed(samples)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(k, d) for k, d in chunks) +
            chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


def pngs(w):
    rng = np.random.default_rng(5)
    rgb8 = picture(19, 13, 4)
    rgb = Image.fromarray(rgb8)
    alpha = Image.fromarray(rng.integers(0, 256, (13, 19), dtype=np.uint8))
    w.save("rgb.png", rgb, format="PNG")
    w.save("grey.png", rgb.convert("L"), format="PNG")
    w.save("bilevel.png", rgb.convert("1"), format="PNG")
    rgba = rgb.convert("RGBA")
    rgba.putalpha(alpha)
    w.save("rgba.png", rgba, format="PNG")
    w.save("grey_alpha.png", rgba.convert("LA"), format="PNG")
    w.save("palette.png", rgb.quantize(200), format="PNG")
    for bits, colors in ((1, 2), (2, 4), (4, 16)):
        w.save(f"palette_{bits}bit.png", rgb.quantize(colors), format="PNG", bits=bits)
    w.save("palette_transparent.png", rgb.quantize(16), format="PNG", transparency=3)
    w.save("palette_alphas.png", rgb.quantize(16), format="PNG", transparency=bytes(range(0, 256, 16)))
    w.save("grey_transparent.png", rgb.convert("L"), format="PNG", transparency=100)
    w.save("rgb_transparent.png", rgb, format="PNG", transparency=(10, 20, 30))
    deep = rng.integers(0, 600, (13, 19, 1))
    deep[::3] = rng.integers(0, 65536, deep[::3].shape)
    for interlaced in (False, True):
        tail = "_interlaced" if interlaced else ""
        w.decode(f"grey_16bit{tail}.png", png_bytes(deep, 16, 0, interlaced))
        w.decode(f"rgb_16bit{tail}.png", png_bytes(rng.integers(0, 65536, (13, 19, 3)), 16, 2, interlaced))
        w.decode(f"grey_alpha_16bit{tail}.png", png_bytes(rng.integers(0, 65536, (13, 19, 2)), 16, 4, interlaced))
        w.decode(f"rgba_16bit{tail}.png", png_bytes(rng.integers(0, 65536, (13, 19, 4)), 16, 6, interlaced))
        for bits in (1, 2, 4):
            w.decode(f"grey_{bits}bit{tail}.png", png_bytes(rng.integers(0, 1 << bits, (13, 19, 1)), bits, 0, interlaced))
    w.decode("rgb_interlaced.png", png_bytes(rgb8, 8, 2, True))
    w.decode("one_pixel_interlaced.png", png_bytes(rgb8[:1, :1], 8, 2, True))
    short = ((b"PLTE", rng.integers(0, 256, 9, dtype=np.uint8).tobytes()),)
    w.decode("palette_short.png", png_bytes(rng.integers(0, 3, (5, 7, 1)), 8, 3, chunks=short))
    w.decode("palette_interlaced.png", png_bytes(rng.integers(0, 3, (9, 9, 1)), 2, 3, True, chunks=short))
    for orientation in (2, 5, 7):
        w.save(f"exif_{orientation}.png", rgb, format="PNG", exif=exif_bytes(orientation))
    hexed = exif_bytes(6).hex()
    profile = f"\nexif\n{len(hexed) // 2:8}\n{hexed}\n".encode()
    w.decode("raw_profile_text.png", png_bytes(rgb8, 8, 2, chunks=((b"tEXt", b"Raw profile type exif\0" + profile),)))
    w.decode("raw_profile_compressed.png",
             png_bytes(rgb8, 8, 2, chunks=((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),)))
    w.decode("xmp_8.png", png_bytes(rgb8, 8, 2, chunks=((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),)))


def webps(w):
    rgb = Image.fromarray(picture(33, 21, 6))
    rgba = rgb.convert("RGBA")
    rgba.putalpha(Image.fromarray(picture(33, 21, 7)[:, :, 0]))
    for quality in (10, 80):
        w.save(f"lossy_{quality}.webp", rgb, format="WEBP", quality=quality)
    w.save("lossless.webp", rgb, format="WEBP", lossless=True)
    w.save("lossy_alpha.webp", rgba, format="WEBP", quality=70)
    w.save("lossless_alpha.webp", rgba, format="WEBP", lossless=True, exact=True)
    w.save("one_pixel.webp", rgb.crop((0, 0, 1, 1)), format="WEBP")
    w.save("exif_6.webp", rgb, format="WEBP", exif=exif_bytes(6))
    w.save("xmp_8.webp", rgb, format="WEBP", xmp=XMP)
    w.save("animated.webp", rgba, format="WEBP", save_all=True, append_images=[rgba.rotate(90)], duration=100)


def gifs(w):
    rgb = Image.fromarray(picture(31, 22, 8))
    w.save("palette.gif", rgb.quantize(64), format="GIF", interlace=0)
    w.save("interlaced.gif", rgb.quantize(200), format="GIF", interlace=1)
    w.save("grey.gif", rgb.convert("L"), format="GIF")
    w.save("two_colours.gif", rgb.convert("1"), format="GIF")
    w.save("transparent.gif", rgb.quantize(16), format="GIF", transparency=5)
    w.save("animated.gif", rgb.quantize(8), format="GIF", save_all=True,
           append_images=[rgb.rotate(180).quantize(8)], duration=50)
    for name, options in (("larger_screen", {}), ("larger_screen_transparent", {"transparency": 2})):
        buffer = io.BytesIO()
        rgb.quantize(8).save(buffer, format="GIF", **options)
        data = bytearray(buffer.getvalue())
        struct.pack_into("<HH", data, 6, 40, 30)
        w.decode(f"{name}.gif", bytes(data))
        struct.pack_into("<HH", data, 6, 10, 9)
        w.decode(name.replace("larger", "smaller") + ".gif", bytes(data))


def tiff_bytes(width, height, blocks, order="<", **tags):
    """An uncompressed TIFF; `tags` by name; blocks are its strips, or its tiles if tile=(w, h)."""
    numbers = {"bits": 258, "compression": 259, "photometric": 262, "fill_order": 266, "orientation": 274, "samples": 277,
               "rows": 278, "planar": 284, "extra": 338, "format": 339, "colormap": 320, "predictor": 317}
    fields = {256: (4, [width]), 257: (4, [height])}
    tile = tags.pop("tile", None)
    for name, value in tags.items():
        fields[numbers[name]] = (3, list(value) if isinstance(value, (list, tuple)) else [value])
    offsets, position = [], 8
    for block in blocks:
        offsets.append(position)
        position += len(block) + len(block) % 2
    if tile:
        fields.update({322: (4, [tile[0]]), 323: (4, [tile[1]]), 324: (4, offsets), 325: (4, [len(b) for b in blocks])})
    else:
        fields.update({273: (4, offsets), 279: (4, [len(b) for b in blocks])})
    body = b"".join(b + b"\0" * (len(b) % 2) for b in blocks)
    directory = struct.pack(order + "H", len(fields))
    extra_at, extra = position + 2 + 12 * len(fields) + 4, b""
    for tag in sorted(fields):
        kind, values = fields[tag]
        data = struct.pack(order + ("H" if kind == 3 else "I") * len(values), *values)
        directory += struct.pack(order + "HHI", tag, kind, len(values))
        if len(data) <= 4:
            directory += data.ljust(4, b"\0")
        else:
            directory += struct.pack(order + "I", extra_at + len(extra))
            extra += data
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", position) + body + directory + b"\0\0\0\0" + extra


def tiffs(w):
    rng = np.random.default_rng(9)
    rgb8 = picture(27, 18, 10)
    rgb = Image.fromarray(rgb8)
    modes = {"1": rgb.convert("1"), "L": rgb.convert("L"), "P": rgb.quantize(100), "RGB": rgb,
             "RGBA": rgb.convert("RGBA"), "CMYK": rgb.convert("CMYK"), "LA": rgb.convert("LA")}
    modes["RGBA"].putalpha(Image.fromarray(rng.integers(0, 256, (18, 27), dtype=np.uint8)))
    for mode, image in modes.items():
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            w.save(f"{mode.lower()}_{compression or 'raw'}.tif", image, format="TIFF", compression=compression)
    w.save("1_group4.tif", modes["1"], format="TIFF", compression="group4")
    w.save("1_group3.tif", modes["1"], format="TIFF", compression="group3")
    w.save("rgb_jpeg.tif", rgb, format="TIFF", compression="jpeg", quality=80)
    w.save("grey_jpeg.tif", rgb.convert("L"), format="TIFF", compression="jpeg", quality=80)
    deep = rng.integers(0, 600, (18, 27)).astype(np.uint16)
    for compression in (None, "tiff_lzw"):
        w.save(f"grey16_{compression or 'raw'}.tif", Image.fromarray(deep), format="TIFF", compression=compression)
    w.save("grey32.tif", Image.fromarray(deep.astype(np.int32) - 100), format="TIFF")
    w.save("float.tif", Image.fromarray(deep.astype(np.float32) - 50.5), format="TIFF")
    for orientation in range(2, 9):
        w.save(f"orientation_{orientation}.tif", rgb, format="TIFF", tiffinfo={274: orientation},
               compression="tiff_lzw" if orientation % 2 else None)
    flat = rgb8.tobytes()
    half = 9 * 27 * 3
    w.decode("strips_big_endian.tif", tiff_bytes(27, 18, [flat[:half], flat[half:]], ">", bits=(8, 8, 8), photometric=2,
                                                 samples=3, rows=9))
    deep3 = rng.integers(0, 65536, (18, 27, 3))
    for order in "<>":
        end = "le" if order == "<" else "be"
        w.decode(f"rgb16_{end}.tif", tiff_bytes(27, 18, [deep3.astype(order + "u2").tobytes()], order, bits=(16, 16, 16),
                                                photometric=2, samples=3, rows=18))
        w.decode(f"grey16_{end}.tif", tiff_bytes(27, 18, [deep.astype(order + "u2").tobytes()], order, bits=16,
                                                 photometric=1, samples=1, rows=18))
        w.decode(f"grey16_signed_{end}.tif", tiff_bytes(27, 18, [(deep.astype(np.int64) - 300).astype(order + "i2").tobytes()],
                                                        order, bits=16, photometric=1, samples=1, rows=18, format=2))
    w.decode("grey16_white_is_zero.tif", tiff_bytes(27, 18, [deep.astype("<u2").tobytes()], bits=16, photometric=0,
                                                    samples=1, rows=18))
    padded = np.zeros((32, 32, 3), np.uint8)
    padded[:18, :27] = rgb8
    tiles = [padded[y:y + 16, x:x + 16].tobytes() for y in (0, 16) for x in (0, 16)]
    w.decode("tiles.tif", tiff_bytes(27, 18, tiles, bits=(8, 8, 8), photometric=2, samples=3, tile=(16, 16)))
    packed = [zlib.compress(t) for t in tiles]
    w.decode("tiles_deflate.tif", tiff_bytes(27, 18, packed, bits=(8, 8, 8), photometric=2, samples=3, tile=(16, 16),
                                             compression=8))
    planes = [rgb8[:, :, c].tobytes() for c in range(3)]
    w.decode("planes.tif", tiff_bytes(27, 18, planes, bits=(8, 8, 8), photometric=2, samples=3, rows=18, planar=2))
    w.decode("planes_deflate.tif", tiff_bytes(27, 18, [zlib.compress(p) for p in planes], bits=(8, 8, 8), photometric=2,
                                              samples=3, rows=18, planar=2, compression=8))
    planes16 = [zlib.compress(deep3[:, :, c].astype("<u2").tobytes()) for c in range(3)]
    w.decode("planes16_deflate.tif", tiff_bytes(27, 18, planes16, bits=(16, 16, 16), photometric=2, samples=3, rows=18,
                                                planar=2, compression=8))
    rgba = np.concatenate([rgb8, rng.integers(0, 256, (18, 27, 1), dtype=np.uint8)], -1)
    for extra in (0, 1, 2):
        w.decode(f"extra_{extra}.tif", tiff_bytes(27, 18, [rgba.tobytes()], bits=(8, 8, 8, 8), photometric=2, samples=4,
                                                  rows=18, extra=extra))
    rgba16 = rng.integers(0, 65536, (18, 27, 4)).astype("<u2")
    for extra in (1, 2):
        w.decode(f"extra16_{extra}.tif", tiff_bytes(27, 18, [rgba16.tobytes()], bits=(16,) * 4, photometric=2, samples=4,
                                                    rows=18, extra=extra))
    w.decode("cmyk16.tif", tiff_bytes(27, 18, [rgba16.tobytes()], bits=(16,) * 4, photometric=5, samples=4, rows=18))
    for photometric in (0, 1):
        for bits in (1, 2, 4, 8):
            row = (27 * bits + 7) // 8
            data = rng.integers(0, 256, row * 18, dtype=np.uint8).tobytes()
            w.decode(f"grey{bits}_photometric_{photometric}.tif",
                     tiff_bytes(27, 18, [data], bits=bits, photometric=photometric, samples=1, rows=18))
    w.decode("grey1_fill_order.tif", tiff_bytes(27, 18, [rng.integers(0, 256, 72, dtype=np.uint8).tobytes()], bits=1,
                                                photometric=1, samples=1, rows=18, fill_order=2))
    data12 = rng.integers(0, 256, (27 * 12 + 7) // 8 * 18, dtype=np.uint8)
    data12[::3] %= 32
    w.decode("grey12.tif", tiff_bytes(27, 18, [data12.tobytes()], bits=12, photometric=1, samples=1, rows=18))
    for bits in (1, 2, 4):
        colors = rng.integers(0, 65536, 3 << bits).tolist()
        data = rng.integers(0, 256, (27 * bits + 7) // 8 * 18, dtype=np.uint8).tobytes()
        w.decode(f"palette{bits}.tif", tiff_bytes(27, 18, [data], bits=bits, photometric=3, samples=1, rows=18,
                                                  colormap=colors))


def bmps(w):
    rng = np.random.default_rng(11)
    rgb8 = picture(21, 15, 12)
    rgb = Image.fromarray(rgb8)
    for mode in ("1", "L", "RGB", "RGBA"):
        w.save(f"{mode.lower()}.bmp", rgb.convert(mode), format="BMP")
    w.save("palette.bmp", rgb.quantize(90), format="BMP")

    def bmp(bits, data, height=15, compression=0, palette=b"", masks=b""):
        offset = 54 + len(masks) + len(palette)
        return (b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) +
                struct.pack("<IiiHHIIiiII", 40, 21, height, 1, bits, compression, len(data), 2835, 2835,
                            len(palette) // 4, 0) + masks + palette + data)

    palette = rng.integers(0, 256, 64, dtype=np.uint8).tobytes()
    w.decode("4bit.bmp", bmp(4, rng.integers(0, 256, 12 * 15, dtype=np.uint8).tobytes(), palette=palette))
    w.decode("1bit.bmp", bmp(1, rng.integers(0, 256, 4 * 15, dtype=np.uint8).tobytes(), palette=palette[:8]))
    w.decode("8bit_short_palette.bmp", bmp(8, rng.integers(0, 32, 24 * 15, dtype=np.uint8).tobytes(), palette=palette))
    w.decode("top_down.bmp", bmp(24, rng.integers(0, 256, 64 * 15, dtype=np.uint8).tobytes(), height=-15))
    sixteen = rng.integers(0, 256, 44 * 15, dtype=np.uint8).tobytes()
    w.decode("555.bmp", bmp(16, sixteen))
    w.decode("565.bmp", bmp(16, sixteen, compression=3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)))
    thirty_two = rng.integers(0, 256, 84 * 15, dtype=np.uint8).tobytes()
    w.decode("32bit.bmp", bmp(32, thirty_two))
    for name, masks in (("bgrx", (0xFF0000, 0xFF00, 0xFF)), ("xbgr", (0xFF000000, 0xFF0000, 0xFF00)),
                        ("bgxr", (0xFF000000, 0xFF00, 0xFF))):
        w.decode(f"fields_{name}.bmp", bmp(32, thirty_two, compression=3, masks=struct.pack("<III", *masks)))
    rle8 = b""
    for y in range(15):
        rle8 += bytes((7, y)) + bytes((0, 5, 1, 2, 3, 4, 5, 0)) + (bytes((9, 15 - y, 0, 0)) if y % 3 else bytes((0, 0)))
    rle8 = rle8[:-2] + bytes((0, 0, 0, 1))
    w.decode("rle8.bmp", bmp(8, rle8, compression=1, palette=palette))
    rle4 = b"".join(bytes((11, (y << 4 | 7) & 255, 0, 6, 0x12, 0x34, 0x56, 0, 4, 0x9A, 0, 0)) for y in range(14))
    w.decode("rle4.bmp", bmp(4, rle4 + bytes((0, 2, 3, 0, 18, 0x21, 0, 1)), compression=2, palette=palette))


def pnms(w):
    rng = np.random.default_rng(13)
    rgb8 = picture(17, 11, 14)
    rgb = Image.fromarray(rgb8)
    for mode in ("1", "L", "RGB"):
        w.save(f"{mode.lower()}.ppm", rgb.convert(mode), format="PPM")
    plain = " ".join(str(v) for v in rgb8.reshape(-1)).encode()
    w.decode("plain_rgb.ppm", b"P3\n# a comment\n17 11 # size\n255\n" + plain + b"\n")
    w.decode("plain_grey.pgm", b"P2 17 11 90\n" + b"\n".join(str(v).encode() for v in rng.integers(0, 91, 187)))
    w.decode("plain_grey_deep.pgm", b"P2 17 11 1000\n" + b" ".join(str(v).encode() for v in rng.integers(0, 12, 187)))
    w.decode("plain_bilevel.pbm", b"P1\n17 11\n" + b"".join(str(v).encode() for v in rng.integers(0, 2, 187)))
    w.decode("grey_maxval_100.pgm", b"P5 17 11 100\n" + rng.integers(0, 101, 187, dtype=np.uint8).tobytes())
    w.decode("grey_16bit.pgm", b"P5 17 11 65535\n" + rng.integers(0, 400, 187).astype(">u2").tobytes())
    w.decode("grey_12bit.pgm", b"P5 17 11 4095\n" + rng.integers(0, 30, 187).astype(">u2").tobytes())
    w.decode("rgb_16bit.ppm", b"P6 17 11 65535\n" + rng.integers(0, 65536, 561).astype(">u2").tobytes())
    w.decode("rgb_maxval_31.ppm", b"P6 17 11 31\n" + rng.integers(0, 32, 561, dtype=np.uint8).tobytes())


def sources(w):
    images = {}
    for name, image in (("rgb_61x47", Image.fromarray(picture(61, 47, 20))),
                        ("grey_53x38", Image.fromarray(picture(53, 38, 21)).convert("L")),
                        ("rgb_5x3", Image.fromarray(picture(5, 3, 22))),
                        ("rgb_211x160", Image.fromarray(picture(211, 160, 23, noise=0)))):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        w.add_file(f"source_{name}.png", buffer.getvalue())
        images[f"source_{name}.png"] = image
    return images


def odd(w):
    """Some of what odd_pictures.py draws: any sampling of JPEGs, partial frames of GIFs, every filter of PNGs."""
    import odd_pictures  # which needs this file
    rng = random.Random(7)
    for i in range(6 * len(odd_pictures.MAKERS)):
        extension, data = odd_pictures.MAKERS[i % len(odd_pictures.MAKERS)](rng)
        animated = "_animated" if getattr(Image.open(io.BytesIO(data)), "n_frames", 1) > 1 else ""
        if len(data) < 6000:
            w.decode(f"odd_{i}{animated}.{extension}", data)
    steps, others = b"".join(bytes((v, v, v)) for v in range(4)), bytes(range(100, 112))
    frame = b"," + struct.pack("<HHHHB", 0, 0, 5, 3, 0x81) + steps + odd_pictures.lzw([0, 1, 2, 3, 7] * 3, 3) + b";"
    w.decode("own_grey_steps.gif", b"GIF89a" + struct.pack("<HHBBB", 6, 4, 0x81, 0, 0) + others + frame)
    w.decode("own_grey_steps_alone.gif", b"GIF89a" + struct.pack("<HHBBB", 6, 4, 0, 0, 0) + frame)


def strips(w):
    """Shapes whose scaled size is large; preprocessing looks at a part of it."""
    for width, height in ((300, 2), (1, 170), (5, 400), (97, 3)):
        w.save(f"strip_{width}x{height}.png", Image.fromarray(picture(width, height, 24)), format="PNG")


def geometry(w, images):
    for name, image in images.items():
        grey = int(image.mode == "L")
        sizes = [(97, 101), (20, 13), (7, 5), (1, 1), (image.width, 20), (25, image.height), (image.width, image.height),
                 (200, 3), (2, 150)]
        for filter_name, resample in FILTERS.items():
            for size in sizes:
                w.case("resize", name, filter_name, grey, *size, "-", crc(image.resize(size, resample).tobytes()))
            box_sizes = (((0.5, 0.25, image.width - 0.75, image.height - 0.5), (31, 17)),
                         ((1, 1, image.width - 1, image.height - 1), (image.width - 2, image.height - 2)),
                         ((1.3, 0, 3.7, image.height), (9, image.height)),
                         ((0, 1, image.width, 2.5), (image.width, 5)))
            for box, size in box_sizes:
                text = ",".join(str(v) for v in box)
                w.case("resize", name, filter_name, grey, *size, text, crc(image.resize(size, resample, box=box).tobytes()))
    for name, image in images.items():
        grey = int(image.mode == "L")
        if not grey:
            w.case("grey", name, crc(image.convert("L").tobytes()))
        for kind, enhance in (("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast),
                              ("saturation", ImageEnhance.Color)):
            for factor in (0.0, 0.3, 0.77, 1.0, 1.4, 2.5):
                w.case("adjust", name, kind, grey, factor, crc(enhance(image).enhance(factor).tobytes()))
        for method, operation in (("flip", Image.FLIP_LEFT_RIGHT),):
            w.case(method, name, grey, crc(image.transpose(operation).tobytes()))


def robust(folder):
    lines = []
    for base, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            path = os.path.join(base, name)
            relative = os.path.relpath(path, folder)
            try:
                with Image.open(path) as im:
                    kind = im.format
                    rgb = ImageOps.exif_transpose(im).convert("RGB")
                lines.append(f"{relative}\t{kind}\t{rgb.width}\t{rgb.height}\t{crc(rgb.tobytes())}")
            except Exception as e:  # Pillow reports broken files by many types
                lines.append(f"{relative}\terror\t{type(e).__name__}")
    return sorted(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--robust")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    versions = ", ".join(f"{n} {features.version(n)}" for n in ("libjpeg_turbo", "libtiff", "webp", "zlib"))
    header = f"# Made by tools/make_image_fixtures.py with Pillow {PIL.__version__} ({versions}) and numpy {np.__version__}.\n"
    w = Writer(args.out)
    for make in (jpegs, pngs, webps, gifs, tiffs, bmps, pnms, strips, odd):
        make(w)
    geometry(w, sources(w))
    with open(os.path.join(args.out, "cases.tsv"), "w") as f:
        f.write(header + "".join(line + "\n" for line in w.lines))
    if args.robust:
        with open(os.path.join(args.out, "robust.tsv"), "w") as f:
            f.write(header + "".join(line + "\n" for line in robust(args.robust)))


if __name__ == "__main__":
    main()
