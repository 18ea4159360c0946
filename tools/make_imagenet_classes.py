#!/usr/bin/env python3
"""Writes src/tasks/imagenet_classes.bin: the classes of ImageNet's common heads, from the lists in the timm package.

    make_imagenet_classes.py OUT

The lists are facts: which WordNet synsets a head has in which order (timm/data/_info/*_synsets.txt), and the words of each synset
(imagenet_synset_to_lemma.txt). OUT is one zlib stream of

    u32 synsets; for each, ascending: u32 by which its number ("n" and eight digits) is above the one before; for each: its words,
    UTF-8, ended by a newline
    u32 lists; for each: u32 classes, u32 of them that come first in an order of their own, these as u32 places among the synsets, and
    one bit a synset, lowest first, for the rest in ascending order; the list's name, ended by a newline

all little-endian. Needs timm.
"""
import argparse
import os
import struct
import zlib

import timm.data

LISTS = (("ImageNet-1k", "imagenet_synsets.txt"), ("ImageNet-22k", "imagenet22k_synsets.txt"),
         ("ImageNet-21k as Google has it", "imagenet21k_goog_synsets.txt"), ("ImageNet-22k as Microsoft has it", "imagenet22k_ms_synsets.txt"),
         ("ImageNet-12k", "imagenet12k_synsets.txt"), ("ImageNet-21k-P of fall 2011", "imagenet21k_miil_synsets.txt"),
         ("ImageNet-21k-P of winter 2021", "imagenet21k_miil_w21_synsets.txt"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    args = parser.parse_args()
    folder = os.path.join(os.path.dirname(timm.data.__file__), "_info")

    def lines(name):
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            return f.read().splitlines()

    words = dict(line.split("\t", 1) for line in lines("imagenet_synset_to_lemma.txt"))
    lists = [(title, lines(name)) for title, name in LISTS]
    synsets = sorted(words)
    place = {s: i for i, s in enumerate(synsets)}
    numbers = [0] + [int(s[1:]) for s in synsets]
    data = struct.pack("<I", len(synsets)) + b"".join(struct.pack("<I", b - a) for a, b in zip(numbers, numbers[1:]))
    data += b"".join(words[s].strip('"').encode() + b"\n" for s in synsets)
    data += struct.pack("<I", len(lists))
    for title, classes in lists:
        first = next((i for i in range(1, len(classes)) if classes[i] < classes[i - 1]), 0)
        assert classes[first:] == sorted(classes[first:]) and len(set(classes)) == len(classes)
        bits = bytearray((len(synsets) + 7) // 8)
        for s in classes[first:]:
            bits[place[s] // 8] |= 1 << place[s] % 8
        data += struct.pack("<II", len(classes), first) + b"".join(struct.pack("<I", place[s]) for s in classes[:first]) + bytes(bits)
        data += title.encode() + b"\n"
    with open(args.out, "wb") as f:
        f.write(struct.pack("<I", len(data)) + zlib.compress(data, 9))


if __name__ == "__main__":
    main()
