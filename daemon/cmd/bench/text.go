package main

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// lexicon is what the texts of a seed are made of. It is read-only once made.
type lexicon struct {
	words                               []string // by rank
	zipf                                [1 << 16]uint16
	givens, families, cities, companies []string
	streets                             []string
	skus                                []string
}

// common are the first ranks: what business letters are full of.
const common = "the to and of a in for is we on that you with be this it as are have please our your not will at by from has was can " +
	"customer order invoice delivery payment called again price offer contract about week they more if when which would been after " +
	"question answer sent received confirmed date meeting phone mail address change wrong missing late amount tax discount quantity " +
	"warehouse shipment replacement broken warranty agreed yesterday tomorrow morning branch number account manager team project issue " +
	"open closed waiting request copy document signed returned refund stock item euro total month year next last new old first second"

// newLexicon makes some 4,000 words, whose frequencies fall as Zipf's law says,
// and the names that go with them.
func newLexicon(seed uint64) *lexicon {
	r := rand.New(rand.NewPCG(seed, 0x1e81c0))
	l := &lexicon{words: strings.Fields(common)}
	for seen := map[string]bool{}; len(l.words) < 4000; {
		if w := syllables(r, 1+r.IntN(3)+len(l.words)/2000); len(w) > 2 && !seen[w] {
			seen[w] = true
			l.words = append(l.words, w)
		}
	}
	sum, total := 0.0, 0.0
	weight := func(rank int) float64 { return math.Pow(float64(rank)+2.7, -1.02) }
	for rank := range l.words {
		total += weight(rank)
	}
	for i, rank := 0, 0; i < len(l.zipf); i++ {
		for rank < len(l.words)-1 && (sum+weight(rank))/total < float64(i)/float64(len(l.zipf)) {
			sum += weight(rank)
			rank++
		}
		l.zipf[i] = uint16(rank)
	}
	names := func(n, min, spread int, tails ...string) (out []string) {
		for range n {
			w := syllables(r, min+r.IntN(spread))
			out = append(out, strings.ToUpper(w[:1])+w[1:]+tails[r.IntN(len(tails))])
		}
		return out
	}
	l.givens = names(180, 2, 2, "", "a", "o", "n")
	l.families = names(1500, 2, 2, "", "er", "sen", "mann", "ski", "s")
	l.cities = names(400, 2, 2, "", "ford", " am See", "ville", "burg", " Regis")
	l.streets = names(900, 2, 2, " Street", " Lane", "weg", "strasse", " Road")
	l.companies = names(2500, 2, 3, " Ltd", " GmbH", " & Sons", " Group", " SA", " Logistics")
	for range 3000 {
		l.skus = append(l.skus, strings.ToUpper(syllables(r, 1))+"-"+strconv.Itoa(1000+r.IntN(90000)))
	}
	return l
}

func syllables(r *rand.Rand, n int) string {
	var b strings.Builder
	for range n {
		b.WriteByte("bcdfghklmnprstvwz"[r.IntN(17)])
		b.WriteByte("aeiouaeio"[r.IntN(9)])
		if r.IntN(3) == 0 {
			b.WriteByte("nrstlm"[r.IntN(6)])
		}
	}
	return b.String()
}

// A writer appends random columns of COPY's text format to a row.
type writer struct {
	*lexicon
	*rand.Rand
	b []byte
}

// newWriter's output depends on the seed, the name and the number alone.
func newWriter(l *lexicon, seed uint64, name string, n int) *writer {
	h := seed
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return &writer{lexicon: l, Rand: rand.New(rand.NewPCG(h, uint64(n)))}
}

func pick[T any](w *writer, from []T) T { return from[w.IntN(len(from))] }

func (w *writer) text(s string) { w.b = append(append(w.b, s...), '\t') }

func (w *writer) number(n int64) { w.b = append(strconv.AppendInt(w.b, n, 10), '\t') }

// money writes an amount of cents.
func (w *writer) money(cents int64) {
	w.b = strconv.AppendInt(w.b, cents/100, 10)
	w.b = append(w.b, '.', byte('0'+cents/10%10), byte('0'+cents%10), '\t')
}

// time writes a moment with microseconds.
func (w *writer) time(t time.Time) {
	w.b = append(t.AppendFormat(w.b, "2006-01-02 15:04:05.000000+00"), '\t')
}

// end makes the last column's tab the end of the row.
func (w *writer) end() { w.b[len(w.b)-1] = '\n' }

// sentence appends a sentence without a column's end.
func (w *writer) sentence() {
	for i, n := 0, 5+w.IntN(12); i < n; i++ {
		word := w.words[w.zipf[w.Uint32()>>16]]
		switch {
		case i == 0:
			w.b = append(w.b, word[0]-'a'+'A')
			word = word[1:]
		case w.IntN(14) == 0:
			w.b = append(w.b, ", "...)
		default:
			w.b = append(w.b, ' ')
		}
		w.b = append(w.b, word...)
		if w.IntN(24) == 0 {
			w.b = append(w.b, ' ')
			w.b = strconv.AppendInt(w.b, int64(w.IntN(100_000)), 10)
		}
	}
	w.b = append(w.b, '.')
}

// body writes some sentences, now and then with a new paragraph; newline is how
// the format writes it.
func (w *writer) body(sentences int, newline string) {
	for i := range sentences {
		if i > 0 && w.IntN(5) == 0 {
			w.b = append(w.b, newline...)
		} else if i > 0 {
			w.b = append(w.b, ' ')
		}
		w.sentence()
	}
}
