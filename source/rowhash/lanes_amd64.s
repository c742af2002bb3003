#include "go_asm.h"
#include "textflag.h"

// SHA-256 (FIPS 180-4) of 16 messages at once with AVX-512 F and BW. A lane is
// one of the 16 32-bit words of a register: lane i of every register belongs
// to message i. No lane ever looks at another one.
//
//	Z0  … Z7    a … h, the working variables
//	Z8  … Z23   the last 16 words of the message schedule; before that, the
//	            block of message i in Z(8+i), until they are transposed
//	Z24 … Z31   scratch
//	K3          lanes whose block is the last of its row
//	K4          lanes whose block is the first of its row
//
// A row lies in memory without padding. A block is loaded under a mask of the
// bytes that belong to the row, so that nothing behind it is touched, not
// even a page that is not there; the byte 0x80 is merged in under a mask of
// one bit, and the length is OR-ed into the last word of last blocks. Both
// masks come from a table by the number of bytes that are left: none, where
// only the length is still to come.
//
// A VPTERNLOGD takes its function as a table of 8 bits: 0x96 is x^y^z, 0xCA
// is x?y:z (Ch), 0xE8 the majority (Maj).

DATA swap<>+0(SB)/8, $0x0405060700010203
DATA swap<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swap<>(SB), RODATA|NOPTR, $16

// LOAD reads lane i's block.
#define LOAD(i, to) \
	MOVL (4*i)(SP), AX; \
	MOVQ (lanes_row+24*i)(DI), BX; \
	MOVL (lanes_off+4*i)(DI), CX; \
	KMOVQ (R10)(AX*1), K1; \
	KMOVQ 8(R10)(AX*1), K2; \
	VMOVDQU8.Z (BX)(CX*1), K1, to; \
	VMOVDQU8 Z30, K2, to

// QUADS makes of four blocks a, b, c, d, for j of 0 to 3, in a register each:
// words j, j+4, j+8, j+12 of all four, four words beside each other.
#define QUADS(a, b, c, d) \
	VPUNPCKLDQ b, a, Z24; \
	VPUNPCKHDQ b, a, Z25; \
	VPUNPCKLDQ d, c, Z26; \
	VPUNPCKHDQ d, c, Z27; \
	VPUNPCKLQDQ Z26, Z24, a; \
	VPUNPCKHQDQ Z26, Z24, b; \
	VPUNPCKLQDQ Z27, Z25, c; \
	VPUNPCKHQDQ Z27, Z25, d

// WORDS transposes the 128-bit parts of four such registers, which are of
// lanes 0 to 3, 4 to 7, 8 to 11, 12 to 15, and swaps the bytes of each word:
// words j, j+4, j+8, j+12 of all lanes.
#define WORDS(a, b, c, d) \
	VSHUFI32X4 $0x88, b, a, Z24; \
	VSHUFI32X4 $0xdd, b, a, Z25; \
	VSHUFI32X4 $0x88, d, c, Z26; \
	VSHUFI32X4 $0xdd, d, c, Z27; \
	VSHUFI32X4 $0x88, Z26, Z24, a; \
	VSHUFI32X4 $0x88, Z27, Z25, b; \
	VSHUFI32X4 $0xdd, Z26, Z24, c; \
	VSHUFI32X4 $0xdd, Z27, Z25, d; \
	VPSHUFB Z31, a, a; \
	VPSHUFB Z31, b, b; \
	VPSHUFB Z31, c, c; \
	VPSHUFB Z31, d, d

// ROUND is one round with word W and the constant k(R9); the next one has its
// letters shifted by one: what was d is e + …, what was h is a.
#define ROUND(a, b, c, d, e, f, g, h, W, k) \
	VPADDD.BCST (4*k)(R9), W, Z24; \
	VPRORD $6, e, Z25; \
	VPRORD $11, e, Z26; \
	VPRORD $25, e, Z27; \
	VMOVDQA32 e, Z28; \
	VPADDD Z24, h, h; \
	VPTERNLOGD $0xCA, g, f, Z28; \
	VPTERNLOGD $0x96, Z27, Z26, Z25; \
	VPRORD $2, a, Z29; \
	VPRORD $13, a, Z26; \
	VPRORD $22, a, Z27; \
	VPADDD Z28, h, h; \
	VMOVDQA32 a, Z28; \
	VPADDD Z25, h, h; \
	VPTERNLOGD $0xE8, c, b, Z28; \
	VPTERNLOGD $0x96, Z27, Z26, Z29; \
	VPADDD h, d, d; \
	VPADDD Z28, h, h; \
	VPADDD Z29, h, h

// NEXT replaces word w0 by the one of 16 rounds later; w1, w9, w14 are those
// 1, 9 and 14 words behind it.
#define NEXT(w0, w1, w9, w14) \
	VPRORD $7, w1, Z24; \
	VPRORD $18, w1, Z25; \
	VPSRLD $3, w1, Z26; \
	VPRORD $17, w14, Z27; \
	VPRORD $19, w14, Z28; \
	VPSRLD $10, w14, Z29; \
	VPADDD w9, w0, w0; \
	VPTERNLOGD $0x96, Z26, Z25, Z24; \
	VPTERNLOGD $0x96, Z29, Z28, Z27; \
	VPADDD Z24, w0, w0; \
	VPADDD Z27, w0, w0

#define STEP(a, b, c, d, e, f, g, h, k, w0, w1, w9, w14) \
	ROUND(a, b, c, d, e, f, g, h, w0, k); \
	NEXT(w0, w1, w9, w14)

// BEGIN loads a working variable; first blocks have it from the standard.
#define BEGIN(j, z) \
	VMOVDQU32 (lanes_h+64*j)(DI), z; \
	VPBROADCASTD (4*j)(R9), K4, z; \
	VMOVDQU32 z, (lanes_h+64*j)(DI)

// END adds it to what it was before the block.
#define END(j, z) \
	VPADDD (lanes_h+64*j)(DI), z, z; \
	VMOVDQU32 z, (lanes_h+64*j)(DI)

// func step(l *lanes, t *tables, busy, fresh uint16) (ended uint16)
TEXT ·step(SB), NOSPLIT, $64-26
	MOVQ    l+0(FP), DI
	MOVQ    t+8(FP), SI
	MOVWLZX busy+16(FP), R8
	MOVWLZX fresh+18(FP), AX
	KMOVW   AX, K4
	MOVL    $1024, DX
	LEAQ    tables_masks(SI), R10

block:
	// The mask of lane i is entry rem+1 of the table, rem kept in -1 … 64.
	VMOVDQU32       lanes_rem(DI), Z24
	MOVL            $56, AX
	VPBROADCASTD    AX, Z25
	VPCMPD          $1, Z25, Z24, K3 // rem < 56: room for 0x80 and the length
	MOVL            $64, AX
	VPBROADCASTD    AX, Z26
	VPTERNLOGD      $0xFF, Z27, Z27, Z27 // -1
	VPMINSD         Z26, Z24, Z28
	VPMAXSD         Z27, Z28, Z28
	VPSUBD          Z27, Z28, Z28
	VPSLLD          $4, Z28, Z28
	VMOVDQU32       Z28, (SP)
	VPSUBD          Z26, Z24, Z24
	VMOVDQU32       Z24, lanes_rem(DI)
	MOVL            $0x80, AX
	VPBROADCASTB    AX, Z30
	VBROADCASTI32X4 swap<>(SB), Z31

	LOAD(0, Z8)
	LOAD(1, Z9)
	LOAD(2, Z10)
	LOAD(3, Z11)
	QUADS(Z8, Z9, Z10, Z11)
	LOAD(4, Z12)
	LOAD(5, Z13)
	LOAD(6, Z14)
	LOAD(7, Z15)
	QUADS(Z12, Z13, Z14, Z15)
	LOAD(8, Z16)
	LOAD(9, Z17)
	LOAD(10, Z18)
	LOAD(11, Z19)
	QUADS(Z16, Z17, Z18, Z19)
	LOAD(12, Z20)
	LOAD(13, Z21)
	LOAD(14, Z22)
	LOAD(15, Z23)
	QUADS(Z20, Z21, Z22, Z23)
	WORDS(Z8, Z12, Z16, Z20)
	WORDS(Z9, Z13, Z17, Z21)
	WORDS(Z10, Z14, Z18, Z22)
	WORDS(Z11, Z15, Z19, Z23)

	// Rows are shorter than 2^29 bytes: the upper word of the length is 0.
	VMOVDQU32 lanes_bits(DI), Z24
	VPORD     Z24, Z23, K3, Z23

	MOVL         $64, AX
	VPBROADCASTD AX, Z24
	VPADDD       lanes_off(DI), Z24, Z24
	VMOVDQU32    Z24, lanes_off(DI)

	LEAQ  tables_start(SI), R9
	BEGIN(0, Z0)
	BEGIN(1, Z1)
	BEGIN(2, Z2)
	BEGIN(3, Z3)
	BEGIN(4, Z4)
	BEGIN(5, Z5)
	BEGIN(6, Z6)
	BEGIN(7, Z7)
	KXORW K4, K4, K4
	LEAQ  tables_constants(SI), R9
	MOVL  $3, CX

rounds:
	STEP(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, 0, Z8, Z9, Z17, Z22)
	STEP(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, 1, Z9, Z10, Z18, Z23)
	STEP(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, 2, Z10, Z11, Z19, Z8)
	STEP(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, 3, Z11, Z12, Z20, Z9)
	STEP(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, 4, Z12, Z13, Z21, Z10)
	STEP(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, 5, Z13, Z14, Z22, Z11)
	STEP(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, 6, Z14, Z15, Z23, Z12)
	STEP(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, 7, Z15, Z16, Z8, Z13)
	STEP(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, 8, Z16, Z17, Z9, Z14)
	STEP(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, 9, Z17, Z18, Z10, Z15)
	STEP(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, 10, Z18, Z19, Z11, Z16)
	STEP(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, 11, Z19, Z20, Z12, Z17)
	STEP(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, 12, Z20, Z21, Z13, Z18)
	STEP(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, 13, Z21, Z22, Z14, Z19)
	STEP(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, 14, Z22, Z23, Z15, Z20)
	STEP(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, 15, Z23, Z8, Z16, Z21)
	ADDQ $64, R9
	DECL CX
	JNZ  rounds

	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, 0)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z9, 1)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z10, 2)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z11, 3)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z12, 4)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z13, 5)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z14, 6)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z15, 7)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, 8)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, 9)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, 10)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, 11)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, 12)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, 13)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, 14)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, 15)

	END(0, Z0)
	END(1, Z1)
	END(2, Z2)
	END(3, Z3)
	END(4, Z4)
	END(5, Z5)
	END(6, Z6)
	END(7, Z7)

	KMOVW K3, AX
	ANDL  R8, AX
	JNZ   done
	DECL  DX
	JNZ   block

done:
	VZEROUPPER
	MOVW AX, ended+24(FP)
	RET
