#!/usr/bin/python3
"""Combine recovery shares and open a Strongroom capsule.

Written from section 10 of repo/FORMAT.md, RFC 9180, draft-ietf-hpke-pq and FIPS 203 alone, with
Debian's python3 and python3-cryptography, so that a capsule can be opened without
Strongroom. Not constant time: use it on a machine that nobody else is using.

  capsule.py [--share FILE]... [--seed FILE] --kit FILE
      prints the tenant's seed and the canary's proof
  capsule.py [--share FILE]... [--seed FILE] --capsule FILE PURPOSE TENANT [DATASET GENERATION]
      prints what the capsule holds, in hex

The seed is made of the shares, or read as hex from a file: save the tenant's seed
of the first form, and the second opens generations (purpose 2) with it.
"""
import argparse, base64, hashlib, hmac, json, sys
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

sha256 = lambda b: hashlib.sha256(b).digest()

# ---- base32 with checked lines -------------------------------------------------
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

def base32(b):
    bits = "".join(f"{x:08b}" for x in b)
    bits += "0" * (-len(bits) % 5)
    return "".join(ALPHABET[int(bits[i:i + 5], 2)] for i in range(0, len(bits), 5))

def unbase32(chars, n):
    bits = "".join(f"{ALPHABET.index(c):05b}" for c in chars)
    out = bytes(int(bits[i:i + 8], 2) for i in range(0, 8 * n, 8))
    assert base32(out) == chars, "wrong length, or bits left over"
    return out

line_check = lambda tag, number, chars: base32(sha256(f"strongroom line v1\0{tag}\0{number}\0{chars}".encode()))[:4]

def read_lines(tag, lines, n):
    chars = ""
    for number, line in enumerate(lines, 1):
        words = line.upper().replace("-", " ").split()
        if words[0].isdigit() and len(words[0]) < 4:
            words = words[1:]
        text = "".join(words).translate(str.maketrans("ILO", "110"))
        if line_check(tag, number, text[:-4]) != text[-4:]:
            sys.exit(f"line {number} is mistyped: {line}")
        chars += text[:-4]
    return unbase32(chars, n)

# ---- Shamir's scheme over GF(2^8), polynomial 0x11b ------------------------------
def gmul(a, b):
    p = 0
    while b:
        if b & 1:
            p ^= a
        a = a << 1 ^ (0x11b if a & 0x80 else 0)
        b >>= 1
    return p

ginv = lambda a: next(b for b in range(1, 256) if gmul(a, b) == 1)

def read_share(path):
    lines = open(path, encoding="utf-8").read().split("\n")
    if lines[0] == "STRONGROOM RECOVERY SHARE 1":
        lines = lines[lines.index("") + 1:]
    b = read_lines("share", [l for l in lines if l.strip()], 75)
    if sha256(b"strongroom share v1\0" + b[:66])[:9] != b[66:]:
        sys.exit(f"{path}: checksum of the whole share does not fit")
    assert b[0] == 1, "version of the share"
    return {"set": b[1:5] + b[6:34], "k": b[3], "n": b[4], "index": b[5], "prefix": b[14:34], "y": b[34:66]}

def combine(paths):
    shares = [read_share(p) for p in paths]
    first, used = shares[0], shares[:shares[0]["k"]]
    if any(s["set"] != first["set"] for s in shares):
        sys.exit("the shares are not of one set")
    if len({s["index"] for s in used}) < first["k"]:
        sys.exit(f"{first['k']} different shares are needed")
    seed = bytearray(32)
    for s in used:
        weight = 1
        for o in used:
            if o is not s:
                weight = gmul(weight, gmul(o["index"], ginv(o["index"] ^ s["index"])))
        for i in range(32):
            seed[i] ^= gmul(weight, s["y"][i])
    if fingerprint(public_key(bytes(seed)))[:20] != first["prefix"]:
        sys.exit("the shares do not give the key they name")
    return bytes(seed)

# ---- ML-KEM-1024 (FIPS 203): k=4, eta1=eta2=2, du=11, dv=5 -----------------------
Q, N, K, DU, DV = 3329, 256, 4, 11, 5
BITREV = [int(f"{i:07b}"[::-1], 2) for i in range(128)]
ZETAS = [pow(17, r, Q) for r in BITREV]
GAMMAS = [pow(17, 2 * r + 1, Q) for r in BITREV]

def encode(f, d):  # algorithm 5, ByteEncode
    return sum(c << (d * i) for i, c in enumerate(f)).to_bytes(32 * d, "little")

def decode(b, d):  # algorithm 6, ByteDecode
    x = int.from_bytes(b, "little")
    return [(x >> (d * i) & ((1 << d) - 1)) % (Q if d == 12 else 1 << d) for i in range(N)]

compress = lambda f, d: [((c << d) + Q // 2) // Q % (1 << d) for c in f]
decompress = lambda f, d: [(c * Q + (1 << (d - 1))) >> d for c in f]

def sample_ntt(seed):  # algorithm 7
    stream, out = hashlib.shake_128(seed).digest(3 * 1024), []
    for i in range(0, len(stream), 3):
        a, b, c = stream[i:i + 3]
        out += [d for d in (a + 256 * (b % 16), b // 16 + 16 * c) if d < Q]
    return out[:N]

def sample_cbd(seed, nonce):  # algorithm 8 on PRF_2
    x = int.from_bytes(hashlib.shake_256(seed + bytes([nonce])).digest(128), "little")
    bit = lambda i: x >> i & 1
    return [(bit(4 * i) + bit(4 * i + 1) - bit(4 * i + 2) - bit(4 * i + 3)) % Q for i in range(N)]

def ntt(f):  # algorithm 9
    f, i, size = list(f), 1, 128
    while size >= 2:
        for start in range(0, N, 2 * size):
            for j in range(start, start + size):
                t = ZETAS[i] * f[j + size]
                f[j], f[j + size] = (f[j] + t) % Q, (f[j] - t) % Q
            i += 1
        size //= 2
    return f

def inverse_ntt(f):  # algorithm 10
    f, i, size = list(f), 127, 2
    while size <= 128:
        for start in range(0, N, 2 * size):
            for j in range(start, start + size):
                a, b = f[j], f[j + size]
                f[j], f[j + size] = (a + b) % Q, ZETAS[i] * (b - a) % Q
            i -= 1
        size *= 2
    return [c * 3303 % Q for c in f]

add = lambda *polys: [sum(c) % Q for c in zip(*polys)]

def dot(us, vs):  # sum of products in the NTT domain, algorithms 11 and 12
    out = [0] * N
    for u, v in zip(us, vs):
        for i in range(128):
            a, b, c, d = u[2 * i], u[2 * i + 1], v[2 * i], v[2 * i + 1]
            out[2 * i] = (out[2 * i] + a * c + b * d * GAMMAS[i]) % Q
            out[2 * i + 1] = (out[2 * i + 1] + a * d + b * c) % Q
    return out

matrix = lambda rho: [[sample_ntt(rho + bytes([j, i])) for j in range(K)] for i in range(K)]

def mlkem_keygen(d):  # algorithm 13; returns the encapsulation key and s
    g = hashlib.sha3_512(d + bytes([K])).digest()
    a = matrix(g[:32])
    s = [ntt(sample_cbd(g[32:], i)) for i in range(K)]
    e = [ntt(sample_cbd(g[32:], K + i)) for i in range(K)]
    t = [add(dot(a[i], s), e[i]) for i in range(K)]
    return b"".join(encode(p, 12) for p in t) + g[:32], s

def pke_encrypt(ek, m, r):  # algorithm 14
    t = [decode(ek[384 * i:384 * (i + 1)], 12) for i in range(K)]
    a = matrix(ek[384 * K:])
    y = [ntt(sample_cbd(r, i)) for i in range(K)]
    u = [add(inverse_ntt(dot([a[j][i] for j in range(K)], y)), sample_cbd(r, K + i)) for i in range(K)]
    v = add(inverse_ntt(dot(t, y)), sample_cbd(r, 2 * K), decompress(decode(m, 1), 1))
    return b"".join(encode(compress(p, DU), DU) for p in u) + encode(compress(v, DV), DV)

def mlkem_decaps(d, z, c):  # algorithms 15 and 18
    ek, s = mlkem_keygen(d)
    u = [ntt(decompress(decode(c[32 * DU * i:32 * DU * (i + 1)], DU), DU)) for i in range(K)]
    v = decompress(decode(c[32 * DU * K:], DV), DV)
    w = [(a - b) % Q for a, b in zip(v, inverse_ntt(dot(s, u)))]
    m = encode(compress(w, 1), 1)
    g = hashlib.sha3_512(m + hashlib.sha3_256(ek).digest()).digest()
    if pke_encrypt(ek, m, g[32:]) != c:
        return hashlib.shake_256(z + c).digest(32)
    return g[:32]

# ---- the hybrid KEM MLKEM1024-P384 and HPKE base mode ------------------------------
CURVE = ec.SECP384R1()
ORDER = 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973

def expand(seed):  # SHAKE256(seed) = d, z, then candidates for the P-384 scalar
    stream = hashlib.shake_256(seed).digest(64 + 48 * 16)
    scalars = (int.from_bytes(stream[i:i + 48], "big") for i in range(64, len(stream), 48))
    return stream[:32], stream[32:64], ec.derive_private_key(next(s for s in scalars if 0 < s < ORDER), CURVE)

point = lambda key: key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

def public_key(seed):
    d, _, p384 = expand(seed)
    return mlkem_keygen(d)[0] + point(p384.public_key())

fingerprint = lambda public: sha256(b"strongroom public key v1\0\x01" + public)

def hpke_open(seed, info, enc, ct):
    d, z, p384 = expand(seed)
    peer = ec.EllipticCurvePublicKey.from_encoded_point(CURVE, enc[1568:])
    shared = hashlib.sha3_256(mlkem_decaps(d, z, enc[:1568]) + p384.exchange(ec.ECDH(), peer) + enc[1568:]
                              + point(p384.public_key()) + b"MLKEM1024-P384").digest()
    suite = b"HPKE" + bytes.fromhex("005100020002")

    def extract(salt, label, ikm):
        return hmac.new(salt or bytes(48), b"HPKE-v1" + suite + label + ikm, "sha384").digest()

    def derive(prk, label, context, n):  # n is at most one block of HKDF-Expand
        text = n.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context
        return hmac.new(prk, text + b"\x01", "sha384").digest()[:n]

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    return AESGCM(derive(secret, b"key", context, 32)).decrypt(derive(secret, b"base_nonce", context, 12), ct, None)

def open_capsule(seed, capsule, purpose, tenant, dataset=bytes(16), generation=bytes(16)):
    assert capsule[0] == 1, "suite of the capsule"
    assert len(tenant) == len(dataset) == len(generation) == 16, "length of an id"
    info = b"strongroom capsule v1" + bytes([1, purpose]) + tenant + dataset + generation
    return hpke_open(seed, info, capsule[1:1666], capsule[1666:])

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--share", action="append", default=[])
    args.add_argument("--seed")
    args.add_argument("--kit")
    args.add_argument("--capsule", nargs="+")
    a = args.parse_args()
    seed = combine(a.share) if a.share else bytes.fromhex(open(a.seed).read().strip())
    if a.capsule:
        path, purpose, *ids = a.capsule
        print(open_capsule(seed, open(path, "rb").read(), int(purpose), *map(bytes.fromhex, ids)).hex())
    if a.kit:
        text = open(a.kit, "rb").read()
        title, body, last = text[:17], text[17:-72], text[-72:]
        assert title == b"strongroom kit 1\n", "not a kit"
        assert last == b"sha256 " + sha256(title + body).hex().encode() + b"\n", "the kit is damaged"
        kit = json.loads(body)
        tenant, key = bytes.fromhex(kit["tenant_id"]), kit["tenant_key"]
        t = open_capsule(seed, base64.b64decode(key["capsule"]), 1, tenant)
        assert public_key(t) == base64.b64decode(key["public"]), "the capsule holds another tenant key"
        canary = open_capsule(t, base64.b64decode(key["canary"]), 3, tenant)
        proof = base32(sha256(b"strongroom canary proof v1\0" + tenant + fingerprint(public_key(t)) + canary)[:12])
        proof += line_check("proof", 1, proof)
        print("tenant seed", t.hex())
        print("canary proof", " ".join(proof[i:i + 4] for i in range(0, 24, 4)))

if __name__ == "__main__":
    main()
