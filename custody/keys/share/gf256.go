package share

// Arithmetic in GF(2^8) with the polynomial of AES, x^8+x^4+x^3+x+1 (FIPS 197,
// section 4.2). Secrets pass through here, so there are no tables, whose
// cache lines would show an index, and no branches on data.

// mul multiplies in GF(2^8).
func mul(a, b byte) byte {
	var p byte
	for range 8 {
		p ^= a & -(b & 1)     // add a where b's low bit is set
		carry := -(a >> 7)    // 0xff where a's high bit falls out
		a = a<<1 ^ 0x1b&carry // times x, reduced
		b >>= 1
	}
	return p
}

// inv returns a^254, the inverse of a (and 0 for 0): the group has order 255.
func inv(a byte) byte {
	r := byte(1)
	for range 7 { // 254 = 0b11111110: seven ones, then a zero
		r = mul(mul(r, r), a)
	}
	return mul(r, r)
}

// eval computes the polynomial with coefficients c, lowest first, at x.
func eval(c []byte, x byte) byte {
	var y byte
	for i := len(c) - 1; i >= 0; i-- {
		y = mul(y, x) ^ c[i]
	}
	return y
}

// weights returns Lagrange's coefficients for the value at `at` of the
// polynomial through the points with the distinct abscissae xs.
func weights(xs []byte, at byte) []byte {
	w := make([]byte, len(xs))
	for i, xi := range xs {
		num, den := byte(1), byte(1)
		for j, xj := range xs {
			if j == i { // an index, not a secret
				continue
			}
			num = mul(num, at^xj)
			den = mul(den, xi^xj)
		}
		w[i] = mul(num, inv(den))
	}
	return w
}
