#!/usr/bin/python3
"""Restore a Strongroom snapshot from its stores and the key of its generation.

Written from FORMAT.md (sections 1 to 7, which the comments name) with Debian's python3, python3-cryptography and
python3-zstandard alone. It refuses what that page does not allow, and a file gets its name only when its hash fits.

  restore.py --store DIR... --tenant ID [--box KEY[:FIRST-LAST]]... [--catalogue-key FILE]     lists the snapshots
      --key FILE --to DIR [--stream NAME]     restores all streams or one, with the generation's key G
      --capsule FILE                          writes the capsule that holds G, for capsule.py (section 10)
      --snapshot GENERATION/SEQUENCE          which, if not the newest

Keys are hex in a file, or - for standard input. --box names the box keys of the kit: without them a signature shows
that a manifest is whole, not who made it. A DIR is a directory store, or a bucket copied to one.
"""
import argparse, collections, functools, glob, hashlib, itertools, json, os, pathlib, re, struct, sys, urllib.parse
from array import array
import zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

class Refused(Exception): """Something is not as the page says."""

def must(holds, *what):
    if not holds:
        raise Refused(" ".join(map(str, what)))

read_file = lambda path: pathlib.Path(path).read_bytes()
warn = lambda *what: print("warning:", *what, file=sys.stderr)
sha256 = lambda b: hashlib.sha256(b).digest()
number = lambda b: int.from_bytes(b, "big")
up = lambda a, b: -(-a // b)  # division, rounded up

class Fields:
    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what
    def take(self, n):
        self.at += n
        must(self.at <= len(self.data), self.what, "is too short")
        return self.data[self.at - n:self.at]
    def unpack(self, layout):
        return struct.unpack(layout, self.take(struct.calcsize(layout)))
# ---- section 3: keys of objects; section 4: FLOE messages --------------------------------------------------------
SEGMENT, OVERHEAD, PACK, PART1, PART2 = 65536, 32, 1, 2, 3  # the last three: kinds of objects
def open_object(secret, kind, m, ident, header, segments):
    """The plaintext of a pack or sealed part; `segments` has the length that the manifest gives."""
    key = HKDF(SHA384(), 32, None, b"strongroom/1" + bytes([kind]) + m.generation + ident).derive(secret)
    aad = b"strongroom\0\1" + bytes([kind]) + m.tenant + m.generation + ident + b"\0\0"
    must(len(header) == 74 and header[:10] == bytes.fromhex("00000001000000000020"), "FLOE header: parameters")
    kdf = lambda k, purpose, n: HKDFExpand(SHA384(), n, header[:42] + purpose + aad).derive(k)
    must(kdf(key, b"HEADER_TAG:", 32) == header[42:], "FLOE header: damaged, or the key is another's")
    count, plain = max(1, up(len(segments), SEGMENT)), []  # at most 64 MiB: one DEK serves all segments
    dek = AESGCM(kdf(kdf(key, b"MESSAGE_KEY:", 48), b"DEK:" + bytes(8), 32))
    for n in range(count):
        seg, last = segments[n * SEGMENT:(n + 1) * SEGMENT], n == count - 1
        must(len(seg) >= OVERHEAD + (n > 0), "FLOE segment", n, "is too short")
        must(number(seg[:4]) == (len(seg) if last else 0xffffffff), "FLOE segment", n, "has a wrong length word")
        plain.append(dek.decrypt(seg[4:16], seg[16:], n.to_bytes(8, "big") + bytes([last])))
    return b"".join(plain)

def padme(n):
    drop = max(0, n.bit_length() - 1 - (n.bit_length() - 1).bit_length())
    return up(n, 1 << drop) << drop
# ---- section 5: packs and blocks ---------------------------------------------------------------------------------
BLOCK_MAX, PACK_MAX = 1 << 20, 512 * (SEGMENT - OVERHEAD)
Entry = collections.namedtuple("Entry", "index offset stored raw codec")
def checked(e):
    must(1 <= e.stored <= e.raw <= BLOCK_MAX and 0 <= e.offset <= PACK_MAX - e.stored and e.codec in (0, 1)
         and (e.codec == 1 or e.stored == e.raw), "block entry", e)
    return e

def read_table(table):
    """Entries, None for a number that was not used."""
    must(len(table) % 16 == 0, "table of blocks: length")
    for b in (table[i:i + 16] for i in range(0, len(table), 16)):
        must(b[15] == 0, "table of blocks: last byte of an entry")
        yield checked(Entry(*map(number, (b[:4], b[4:8], b[8:11], b[11:14], b[14:15])))) if any(b) else None

def check_pack(plain):
    """What stands at a pack's end. No restore needs it, but it has to be right."""
    must(32 <= len(plain) == min(padme(len(plain)), PACK_MAX), "pack: length")
    magic, count, crc, zeros = struct.unpack(">8sII16s", plain[-32:])
    top, at = len(plain) - 32 - 16 * count, 0
    must((magic, zeros) == (b"SRPKEND1", bytes(16)) and top >= 0 and crc32c(plain[top:-32]) == crc, "footer of a pack")
    for e in read_table(plain[top:-32]):
        must(e and e.offset == at, "table of a pack: order", e)
        at += e.stored
    must(at <= top and not any(plain[at:top]), "pack: zeros before its table")
    return plain

def decode(e, stored):
    if e.codec == 0:
        return stored
    frame, decoder = zstandard.get_frame_parameters(stored), zstandard.ZstdDecompressor().decompressobj()
    must(frame.dict_id == 0 and frame.window_size <= BLOCK_MAX, "block: dictionary or window", e)
    raw = decoder.decompress(stored)
    must(len(raw) == e.raw and decoder.eof and not decoder.unused_data, "block: not exactly one frame", e)
    return raw

def crc32c(data):
    return functools.reduce(lambda crc, byte: CRC[(crc ^ byte) & 0xff] ^ crc >> 8, data, 0xffffffff) ^ 0xffffffff

CRC = [functools.reduce(lambda c, _: c >> 1 ^ (0x82f63b78 if c & 1 else 0), range(8), n) for n in range(256)]
# ---- section 6: shards, and Reed-Solomon over GF(2^8) ------------------------------------------------------------
EXP = [1]
while len(EXP) < 510:
    EXP.append(EXP[-1] << 1 ^ (0x11d if EXP[-1] & 0x80 else 0))
LOG = {v: i for i, v in enumerate(EXP[:255])}
mul = lambda a, b: EXP[LOG[a] + LOG[b]] if a and b else 0

def slices(k, have):
    """The k slices from k payloads by index: shard i is at i what the polynomial is whose values at 0 … k-1 are the slices."""
    for i in range(k):
        total = 0
        for j, payload in have.items():
            factor = functools.reduce(mul, (mul(i ^ o, EXP[255 - LOG[j ^ o]]) for o in have if o != j), 1)
            total ^= int.from_bytes(payload.translate(bytes(mul(factor, v) for v in range(256))), "big")
        yield have[i] if i in have else total.to_bytes(len(payload), "big")

def payload_of(shard, pack, i):
    """What a shard carries, when all of it is as the page and the manifest say."""
    c = up(up(pack.length, SEGMENT), pack.k)  # whole segments in each slice
    header = b"SRSHARD1\0\1" + bytes([pack.k, i, 0, 0, 0, 0]) + pack.id + pack.encode + struct.pack(
        ">QQ", pack.length, c * SEGMENT) + pack.header + bytes(86)
    must(shard[:256] == shard[-256:] == header + sha256(header) and len(shard) == 512 + c * (SEGMENT + 4), "shard: header")
    columns = [shard[256 + j * SEGMENT:256 + (j + 1) * SEGMENT] for j in range(c)]
    must(shard[256 + c * SEGMENT:-256] == struct.pack(f">{c}I", *map(crc32c, columns)), "shard: CRC")
    return b"".join(columns)

def fetch_pack(found, m, pack):
    """A pack's plaintext from any k of its shards, each of them identified by its SHA-256."""
    have = {}
    for i, want in enumerate(pack.hashes):
        for path in found[m.generation.hex(), f"s-{pack.id.hex()}-{pack.encode.hex()}-{i:02x}"]:
            if i not in have and len(have) < pack.k:
                shard = read_file(path)
                if sha256(shard) == want:
                    have[i] = payload_of(shard, pack, i)
                else:
                    warn(path, "is damaged")
    must(len(have) == pack.k, f"pack {pack.number} needs {pack.k} shards, found are {len(have)}")
    joined = b"".join(slices(pack.k, have))
    must(not any(joined[pack.length:]), "pack", pack.number, "has something behind its last segment")
    return check_pack(open_object(m.key, PACK, m, pack.id, pack.header, joined[:pack.length]))
# ---- section 7: manifests ----------------------------------------------------------------------------------------
Pack = collections.namedtuple("Pack", "number id encode length k n header hashes")
class Manifest:
    """A manifest whose signature is good, by the key that it names itself."""
    def __init__(self, data):
        outer = Fields(data, "manifest")
        magic, size = outer.unpack(">8sI")
        f = Fields(outer.take(size), "manifest")
        signed, signature = b"strongroom manifest 1\n" + data[:outer.at], outer.take(64)
        version, self.tenant, self.dataset, self.generation, self.epoch, self.sequence = f.unpack(">4s16s16s16sII")
        must((magic, version) == (b"SRMANIF1", b"\0\1\0\0"), "manifest: magic or format")
        self.box, self.incarnation, self.time, self.keep, _, _ = f.unpack(">32sIQQ32s32s")
        length1, hash1, length2, hash2, n = f.unpack(">I32sI32sH")
        (self.capsule, count), self.packs, last = f.unpack(f">{n}sI"), {}, -1
        must(n <= 8192 and count <= 1 << 20, "manifest: capsule or list of packs is too long")
        for _ in range(count):
            p = Pack(*f.unpack(">I16s16sIBB74s"), [])
            p.hashes.extend(f.take(32) for _ in range(p.n))
            must(last < p.number and 1 <= p.k <= 32 and p.k <= p.n <= 255, "manifest: order, k or n of pack", p.number)
            must(64 <= p.length <= 512 * SEGMENT and not 0 < p.length % SEGMENT <= OVERHEAD, "manifest: length of pack", p.number)
            self.packs[p.number], last = p, p.number
        must(self.epoch and self.sequence and 1 <= self.time <= 1 << 40 >= self.keep, "manifest: epoch, sequence or time")
        must(size <= 64 << 20 and length1 <= 4 << 20 and length2 <= 64 << 20, "manifest: clear or sealed part is too long")
        Ed25519PublicKey.from_public_bytes(self.box).verify(signature, signed)
        self.part1, self.part2 = outer.take(length1), outer.take(length2)
        must(f.at == size and outer.at == len(data), "manifest: something behind its end")
        must((sha256(self.part1), sha256(self.part2)) == (hash1, hash2), "manifest: hash of a sealed part")
        self.name = f"{self.generation.hex()}/{self.sequence:08x}"

def open_part(m, secret, kind, part):
    plain = open_object(secret, kind, m, bytes(12) + struct.pack(">I", m.sequence), part[:74], part[74:])
    text = plain.rstrip(b" ")
    must(len(plain) == padme(len(plain)) and text[:1] + text[-1:] == b"{}", "sealed part: padding")
    return json.loads(text.decode("utf-8"))

def objects(stores, tenant):
    """(generation, name without the attempt) → paths, over all stores."""
    found = collections.defaultdict(list)
    for path in (p for s in stores for p in sorted(glob.glob(os.path.join(glob.escape(s), tenant.hex(), "*", "*")))):
        generation, name = path.split(os.sep)[-2:]
        found[generation, re.sub("^(s-.{68})-[0-9a-f]{2}$", r"\1", name)].append(path)
    return found

def manifests(found, tenant, boxes):
    """Acceptable manifests, oldest first; more than one of a name only where different ones were signed."""
    accepted = {}
    for place, path in ((place, p) for place in found if re.fullmatch("m-[0-9a-f]{8}", place[1]) for p in found[place]):
        try:
            data = read_file(path)
            m = Manifest(data)
            must((m.tenant, m.generation.hex(), f"m-{m.sequence:08x}") == (tenant, *place), "the name is another's")
            must(not boxes or any(m.box == b and low <= m.incarnation <= high for b, low, high in boxes), "signed by another box")
            accepted[data] = m
        except (Refused, InvalidSignature, OSError) as err:
            warn(f"{path}: {str(err) or 'bad signature'}")
    return sorted(accepted.values(), key=lambda m: (m.dataset, m.epoch, m.sequence))
# ---- BLAKE3 (its paper, section 2): many nodes at once, each in a 64-bit lane of long integers --------------------
IV = (0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19)
START, END, PARENT, ROOT, ORDER = 1, 2, 4, 8, (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
QUARTERS = [(i, 4 + (i + d) % 4, 8 + (i + 2 * d) % 4, 12 + (i + 3 * d) % 4) for d in (0, 1) for i in range(4)]
lanes = lambda numbers: int.from_bytes(array("Q", numbers), "little")
unlanes = lambda n, words: list(zip(*(memoryview(w.to_bytes(8 * n, "little")).cast("Q") for w in words)))

def compress(n, cv, m, counter, length, flags):
    ones = lanes([1] * n)
    mask = ones * 0xffffffff
    v = [*cv, *(w * ones for w in IV[:4]), counter & mask, counter >> 32 & mask, length * ones, flags * ones]
    for _ in range(7):
        for j, (a, b, c, d) in enumerate(QUARTERS):
            for word, left1, left2 in ((m[2 * j], 16, 20), (m[2 * j + 1], 24, 25)):
                v[a] = v[a] + v[b] + word & mask
                t = v[d] ^ v[a]
                v[d] = (t << left1 | t >> 32 - left1) & mask
                v[c] = v[c] + v[d] & mask
                t = v[b] ^ v[c]
                v[b] = (t << left2 | t >> 32 - left2) & mask
        m = [m[i] for i in ORDER]
    return [v[i] ^ v[i + 8] for i in range(8)]

def leaves(data, n, first, root):
    """The chaining values of n chunks of equal length; the first has the number `first`."""
    words, size = memoryview(data.ljust(n * 1024, b"\0")).cast("I"), len(data) // n
    cv, blocks, counter = [w * lanes([1] * n) for w in IV], max(1, up(size, 64)), lanes(range(first, first + n))
    for b in range(blocks):
        flags = START * (b == 0) | (END | ROOT * root) * (b == blocks - 1)
        cv = compress(n, cv, [lanes(words[16 * b + w::256]) for w in range(16)], counter, min(64, size - 64 * b), flags)
    return unlanes(n, cv)

def join(nodes, root):
    """The chaining value over nodes: neighbours in pairs, an odd one rises as it is."""
    while len(nodes) > 1:
        pairs = [left + right for left, right in zip(nodes[::2], nodes[1::2])]
        n, flags = len(pairs), PARENT | ROOT * (root and len(nodes) == 2)
        parents = compress(n, [w * lanes([1] * n) for w in IV], [lanes(w) for w in zip(*pairs)], 0, 64, flags)
        nodes = unlanes(n, parents) + nodes[2 * n:]
    return nodes[0]

class Blake3:
    def __init__(self):
        self.trees, self.rest = [], b""  # nodes over 1 MiB each; what may be the end, at most 1 MiB
    def update(self, data):
        self.rest += data
        while len(self.rest) > 1 << 20:
            self.trees.append(join(leaves(self.rest[:1 << 20], 1024, len(self.trees) << 10, False), False))
            self.rest = self.rest[1 << 20:]
    def hexdigest(self):
        first, n = len(self.trees) << 10, max(0, len(self.rest) - 1) >> 10  # n chunks and the last one
        nodes = leaves(self.rest[:n << 10], n, first, False) if n else []
        nodes += leaves(self.rest[n << 10:], 1, first + n, first + n == 0)
        return struct.pack("<8I", *join(self.trees + [join(nodes, False)] if self.trees else nodes, True)).hex()
# ---- section 7, sealed part 2: from contents to bytes ---------------------------------------------------------------
def extents_of(listed, count):
    """Groups of up to 16,384 records, each as eleven planes of bytes; yields block, offset and length."""
    for at in range(0, count, 16384):
        n, recent = min(16384, count - at), []  # recent: block and end, last used first
        for rank, *r in zip(*(listed[11 * at + n * j:11 * at + n * (j + 1)] for j in range(11))):
            known, block = rank < len(recent), number(r[:4])
            must(known and block == 0 or rank == 255 and block not in (b for b, _ in recent), "extent list: rank", rank)
            block, end = recent.pop(rank) if known else (block, 0)
            offset, length = (end + number(r[4:7])) % (1 << 24), number(r[7:])
            recent = [(block, offset + length), *recent[:254]]
            yield block, offset, length

class Snapshot:
    def __init__(self, found, m, key):
        m.key, self.m = key, m
        self.pack = functools.lru_cache(4)(lambda n: fetch_pack(found, m, m.packs[n]))
        self.block = functools.lru_cache(64)(self.read_block)
        c = open_part(m, key, PART2, m.part2)
        must(c.keys() - {"description", "detail"} == {"streams", "extent_list", "block_table", "roots"}, "part 2: fields")
        self.places = {r["block"]: checked(Entry(r["pack"], r["offset"], r["stored"], r["raw"], r["codec"])) for r in c["roots"]}
        must(len(self.places) == len(c["roots"]), "roots: a block twice")
        table, listed = (b"".join(self.read(c[n], c[n]["extents"], n)) for n in ("block_table", "extent_list"))
        self.places = {**{n: e for n, e in enumerate(read_table(table)) if e}, **self.places}
        starts = [0, *itertools.accumulate(11 * s["extents"] for s in c["streams"])]
        must(len(listed) == starts[-1], "extent list: length")
        self.streams = [(s, list(extents_of(listed[at:], s["extents"]))) for s, at in zip(c["streams"], starts)]
        must(all(s.keys() - {"page_size", "packed", "facts"} == {"name", "kind", "length", "blake3", "extents"} for s in c["streams"])
             and len({s["name"] for s in c["streams"]} - {""}) == len(c["streams"]), "streams: fields, or not each its own name")

    def read_block(self, n):
        must(n in self.places, "there is no block", n)
        e = self.places[n]
        must(e.index in self.m.packs, "block", n, "lies in a pack that the manifest does not list")
        plain = self.pack(e.index)
        must(e.offset + e.stored <= len(plain), "block", n, "lies behind the end of its pack")
        return decode(e, plain[e.offset:e.offset + e.stored])

    def read(self, s, extents, what):
        """Yields the bytes of a stream or list piece by piece, and at the end compares its length and hash."""
        length, h = 0, Blake3()
        for block, offset, size in extents:
            must(size >= 1 and offset >= 0 and offset + size <= len(self.block(block)), what, "extent outside its block")
            piece = self.block(block)[offset:offset + size]
            length += size
            h.update(piece)
            yield piece
        must(length == s["length"] and h.hexdigest() == s["blake3"], what, "length or hash is not the one recorded")

def restore(snapshot, target, only):
    must(only in [None, *(s["name"] for s, _ in snapshot.streams)], "the snapshot has no such stream")
    os.makedirs(target, exist_ok=True)
    for i, (s, extents) in enumerate(snapshot.streams):
        if only in (None, s["name"]):
            path = os.path.join(target, f"{i:04d}-" + urllib.parse.quote(s["name"], safe="")[:200])
            with open(path + ".unchecked", "xb") as file:
                file.writelines(snapshot.read(s, extents, f"stream {s['name']!r}"))
            os.rename(path + ".unchecked", path)
            print(s["length"], path, json.dumps(s["name"]))

def read_key(path):
    return bytes.fromhex(re.fullmatch("([0-9a-f]{64})\n?", (sys.stdin.buffer.read() if path == "-" else read_file(path)).decode())[1])

def box_key(text):
    key, first, last = re.fullmatch("([0-9a-f]{64})(?::([0-9]+)-([0-9]+))?", text).groups("0")
    return bytes.fromhex(key), int(first), int(last) or 0xffffffff  # 0: no end

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--store", "--box", "--tenant", "--catalogue-key", "--key", "--to", "--snapshot", "--stream", "--capsule"):
        args.add_argument(flag, **({"action": "append", "default": []} if flag in ("--store", "--box") else {}))
    a = args.parse_args()
    found = objects(a.store, tenant := bytes.fromhex(a.tenant))
    listed = manifests(found, tenant, [box_key(b) for b in a.box])
    catalogue = a.catalogue_key and read_key(a.catalogue_key)
    if not (a.key or a.capsule):
        for m in listed:
            print(m.name, "dataset", m.dataset.hex(), "epoch", m.epoch, "time", m.time, "box", m.box.hex(),
                  json.dumps(open_part(m, catalogue, PART1, m.part1)) if catalogue else "")
        return
    chosen = [m for m in listed if a.snapshot in (None, m.name)]
    must(len({m.dataset for m in chosen}) == 1, "no such snapshot on these stores, or several datasets: name one's")
    must([m.name for m in chosen].count(chosen[-1].name) == 1, "two different manifests have the name", chosen[-1].name)
    if a.capsule:
        pathlib.Path(a.capsule).write_bytes(chosen[-1].capsule)
    if a.key:
        restore(Snapshot(found, chosen[-1], read_key(a.key)), a.to, a.stream)

FAULTS = (Refused, InvalidTag, zstandard.ZstdError, KeyError, TypeError, ValueError, OSError)
if __name__ == "__main__":
    try:
        main()
    except FAULTS as err:
        sys.exit(f"restore.py: {type(err).__name__}: {err}")
