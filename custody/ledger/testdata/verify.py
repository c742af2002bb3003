#!/usr/bin/python3
"""A second verifier, by the format alone. KEY is that of the box, or several, KEY,KEY, of one that was rebuilt.

verify.py ledger DIR KEY [CHECKPOINT...]   a ledger's directory
verify.py copies DIR KEY [CHECKPOINT...]   the copies in a store, as far as they are not sealed
verify.py proof FILE KEY
verify.py -                                lines of these
"""
import base64, hashlib, json, os, re, struct, sys
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAGIC = b"strongroom ledger segment 1\n"
NAME = "strongroom-box"


def need(ok, what):
    if not ok:
        raise ValueError(what)


def sha(b):
    return hashlib.sha256(b).digest()


def tree(hashes, lo, hi, memo):
    """RFC 6962, section 2.1, as it is written there; full subtrees, which stay as they are, are kept."""
    if hi - lo == 1:
        return hashes[lo]
    if (lo, hi) not in memo:
        k = 1 << (hi - lo - 1).bit_length() - 1
        h = sha(b"\1" + tree(hashes, lo, lo + k, memo) + tree(hashes, lo + k, hi, memo))
        if hi - lo == 2 * k:
            memo[lo, hi] = h
        return h
    return memo[lo, hi]


def b64(s, n=None):
    raw = base64.b64decode(s, validate=True)
    need(base64.b64encode(raw).decode() == s, "base64 has other bits")
    need(n is None or len(raw) == n, "length of base64")
    return raw


def checkpoint(note, keys):
    text, sep, sigs = note.decode().partition("\n\n")
    m = re.fullmatch("\u2014 " + NAME + " ([A-Za-z0-9+/=]+)\n", sigs)
    need(sep and m, "note has not the one signature")
    raw, text = b64(m[1], 68), text + "\n"
    key = [k for k in keys if raw[:4] == sha(NAME.encode() + b"\n\1" + k)[:4]]
    need(len(key) == 1, "note is signed by another key")
    key = key[0]
    Ed25519PublicKey.from_public_bytes(key).verify(raw[4:], text.encode())
    m = re.fullmatch("strongroom/ledger/([0-9a-f]{32})/(system|[0-9a-f]{32})\n([1-9][0-9]*)\n(.{44})\nincarnation ([1-9][0-9]*)\n", text)
    need(m, "text of note")
    return m[1], m[2], int(m[3]), b64(m[4], 32), int(m[5])


def frames(b):
    """Yields the frames of a segment."""
    while b:
        need(len(b) >= 12, "segment ends in a frame")
        n = struct.unpack(">I", b[:4])[0]
        body = b[4 : 4 + n]
        need(b[4 + n : 12 + n] == sha(body)[:8], "frame is damaged")
        yield body
        b = b[12 + n :]


def bundle(b):
    while b:
        (n,) = struct.unpack(">H", b[:2])
        need(len(b) >= 2 + n, "bundle ends in an entry")
        yield b[2 : 2 + n]
        b = b[2 + n :]


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def tile_name(level, n):
    s, n = "%03d" % (n % 1000), n // 1000
    while n:
        s, n = "x%03d/%s" % (n % 1000, s), n // 1000
    return "tile/8/%s/%s" % (level, s)


class Log:
    """Reads a whole log and holds hashes, entries and checkpoints together."""

    def __init__(self, dir, name, key):
        at = os.path.join(dir, name)
        names = [n for n in os.listdir(at) if re.fullmatch("segment[.][1-9][0-9]*", n)]
        need(names, name + ": no segment")
        raw = read(at, max(names, key=lambda n: int(n[8:])))
        need(raw.startswith(MAGIC), name + ": segment does not begin as one")
        first, *records = list(frames(raw[len(MAGIC) :]))
        header = json.loads(first)
        self.name, self.leaves, self.entries, self.heads, self.memo = name, [], [], [], {}
        for n in range(header["base"] // 256):
            entries = list(bundle(read(at, tile_name("data", n))))
            need(len(entries) == 256, "tile has not 256 entries")
            self.add(entries)
            need(b"".join(self.leaves[-256:]) == read(at, tile_name(0, n)), "hash tile is not of the entries")
        level, row = 1, [tree(self.leaves, i, i + 256, {}) for i in range(0, len(self.leaves), 256)]
        while len(row) >= 256:
            for n in range(len(row) // 256):
                need(b"".join(row[256 * n : 256 * n + 256]) == read(at, tile_name(level, n)), "hash tile")
            level, row = level + 1, [tree(row, i, i + 256, {}) for i in range(0, len(row) // 256 * 256, 256)]
        if header["base"]:
            self.head(header["checkpoint"].encode(), key)
        need(header["pending"] == self.pending(), "header: pending intents")
        need({l["tenant"]: (l["size"], l["root"]) for l in header["links"]} == dict(self.links()), "header: links")
        for r in records:
            (n,) = struct.unpack(">H", r[:2])
            self.add([r[2 : 2 + n]])
            self.head(r[2 + n :], key)
        need(self.heads, name + ": no checkpoint")

    def add(self, entries):
        for raw in entries:
            e = json.loads(raw)
            need(e["number"] == len(self.entries) and e.get("tenant", "system") == self.name, "entry is in another place")
            again = json.dumps(e, separators=(",", ":"), ensure_ascii=False).encode()
            need(again == raw, "entry is not in its one encoding")
            self.leaves.append(sha(b"\0" + raw))
            self.entries.append(e)

    def head(self, note, key):
        ledger, name, size, root, inc = checkpoint(note, key)
        need(name == self.name and size == len(self.leaves) and root == tree(self.leaves, 0, size, self.memo), "checkpoint is not of the entries")
        need(not self.heads or self.heads[-1][0] == ledger and self.heads[-1][1] <= inc, "checkpoint of another ledger")
        self.heads.append((ledger, inc))

    def pending(self):
        open = []
        for e in self.entries:
            if e["phase"] == "intent":
                open.append(e["number"])
            elif e["phase"] == "outcome":
                need(e["intent"] in open and self.entries[e["intent"]]["act"] == e["act"], "outcome of no open intent")
                open.remove(e["intent"])
        return open

    def links(self):
        for e in self.entries:
            if e["act"] == "ledger-link":
                yield e["fields"]["log"], (int(e["fields"]["size"]), e["fields"]["root"])


def verify_ledger(dir, key, known):
    system, last = Log(dir, "system", key), {}
    logs = {n: Log(dir, n, key) for n in os.listdir(dir) if re.fullmatch("[0-9a-f]{32}", n)}
    lost = {e["fields"]["log"]: int(e["fields"]["to"]) for e in system.entries if e["act"] == "ledger-gap" and e["fields"]["from"] == "0"}
    for name, (size, root) in system.links():
        if name not in logs:
            need(size <= lost.get(name, 0), name + " is gone")
            continue
        need(last.get(name, 0) < size <= len(logs[name].leaves), "%s is behind its link, or that goes back" % name)
        need(tree(logs[name].leaves, 0, size, logs[name].memo).hex() == root, "%s is not what was linked" % name)
        last[name] = size
    for name, log in logs.items():
        need(log.heads[-1][0] == system.heads[-1][0], "log of another ledger")
        need(last.get(name) == len(log.leaves), "%s: last entry is not linked" % name)
    system.pending()
    logs["system"] = system
    for file in known:
        ledger, name, size, root, _ = checkpoint(read(file), key)
        need(ledger == system.heads[-1][0] and name in logs, "checkpoint of another ledger")
        need(size <= len(logs[name].leaves), "checkpoint is ahead")
        need(tree(logs[name].leaves, 0, size, logs[name].memo) == root, "checkpoint is of another history")
    return "ok " + " ".join("%s=%d" % (n, len(logs[n].leaves)) for n in sorted(logs))


def copied(dir, log, inc, level, n, size):
    """One tile of a tree of that size, as a store has it."""
    width = min(256, size - 256 * n)
    name = os.path.join(dir, "ledger", "tile", log, inc, tile_name(level, n)[5:])
    return read(name if width == 256 else "%s.p/%d" % (name, width))


def verify_copies(dir, key, known):
    top, logs, ledger, gaps = os.path.join(dir, "ledger", "checkpoint"), {}, None, 0
    for log in sorted(os.listdir(top)):
        before = []
        for inc in sorted(os.listdir(os.path.join(top, log))):
            sizes = sorted(os.listdir(os.path.join(top, log, inc)))
            size, leaves, memo = int(sizes[-1]), [], {}
            for n in range((size + 255) // 256):
                b = copied(dir, log, inc, 0, n, size)
                need(len(b) == 32 * min(256, size - 256 * n), log + ": hash tile has another length")
                leaves += [b[i : i + 32] for i in range(0, len(b), 32)]
                need(copied(dir, log, inc, "data", n, size), log + ": tile of entries is empty")
            for name in sizes:
                id, of, n, root, i = checkpoint(read(top, log, inc, name), key)
                need(of == log and "%020d" % n == name and "%010d" % i == inc, log + ": checkpoint under another name")
                need(root == tree(leaves, 0, n, memo), "%s: checkpoint of %d entries is not of the hashes" % (log, n))
                need(ledger in (None, id), log + ": of another ledger")
                ledger = id
            gaps += leaves[: len(before)] != before  # an entry of the system log, which is sealed, must admit it
            before = leaves
            logs[log] = (leaves, memo)
    need("system" in logs, "no system log")
    for file in known:
        id, log, size, root, _ = checkpoint(read(file), key)
        need(id == ledger and log in logs, "checkpoint of another ledger")
        leaves, memo = logs[log]
        need(size <= len(leaves), "checkpoint is ahead")
        need(tree(leaves, 0, size, memo) == root, "checkpoint is of another history")
    return "ok %s gaps=%d" % (" ".join("%s=%d" % (n, len(logs[n][0])) for n in sorted(logs)), gaps)


def verify_proof(file, key):
    body, sep, note = read(file).decode().partition("\n\n")
    lines = body.split("\n")
    need(sep and lines[0] == "c2sp.org/tlog-proof@v1" and lines[1].startswith("extra "), "form")
    raw, path = b64(lines[1][6:]), [b64(l, 32) for l in lines[3:]]
    _, name, size, root, _ = checkpoint(note.encode(), key)
    e = json.loads(raw)
    h, n, i, last = sha(b"\0" + raw), e["number"], e["number"], size - 1  # RFC 9162, section 2.1.3.2
    for p in path:
        need(last > 0, "path is too long")
        if i & 1 or i == last:
            h = sha(b"\1" + p + h)
            while not i & 1 and i:
                i, last = i >> 1, last >> 1
        else:
            h = sha(b"\1" + h + p)
        i, last = i >> 1, last >> 1
    need(lines[2] == "index %d" % n and n < size and e.get("tenant", "system") == name, "entry is of another place")
    need(last == 0 and h == root, "path does not lead to the root")
    return "ok %s %d" % (name, n)


def run(what, path, key, *known):
    try:
        verify = {"ledger": verify_ledger, "copies": verify_copies, "proof": verify_proof}[what]
        return verify(path, [bytes.fromhex(k) for k in key.split(",")], *([known] if what != "proof" else []))
    except (InvalidSignature, ValueError, KeyError, TypeError, IndexError, struct.error, OSError) as e:
        return "bad: " + repr(e)


if __name__ == "__main__":
    for line in sys.stdin if sys.argv[1:] == ["-"] else [" ".join(sys.argv[1:])]:
        out = run(*line.split())
        print(out, flush=True)
    sys.exit(sys.argv[1:] != ["-"] and out.startswith("bad"))
