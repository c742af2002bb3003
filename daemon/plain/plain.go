// Package plain takes out of texts what may be a client's: what is left are words
// that this program and its libraries say by themselves, and names that it was
// given.
package plain

import (
	_ "embed"
	"regexp"
	"strings"
)

// The message of an error may quote anything: a value of a row that a server did
// not like, a path, what a client's program wrote before it failed. No pattern
// finds all of that. So it goes the other way round: a word stays only if it is
// on this list, which was made of the texts in our own code and of the errors of
// Linux, TLS, PostgreSQL, MariaDB and S3; what stands in quotes goes whatever it
// is. A text loses some of its sense, which an operator finds on the box.
//
//go:embed words.txt
var listed string

var vocabulary = func() map[string]bool {
	v := map[string]bool{}
	for _, w := range strings.Fields(listed) {
		v[w] = true
	}
	return v
}()

// A Filter reduces texts. It is safe for concurrent use.
type Filter struct {
	names map[string]string
}

// New makes a filter that lets names through, as what they are mapped to.
func New(names map[string]string) *Filter { return &Filter{names} }

// Named returns what a name is mapped to.
func (f *Filter) Named(name string) (string, bool) {
	to, ok := f.names[name]
	return to, ok
}

// gap stands for what was taken out.
const gap = "…"

var (
	// token is a name as the configuration has them, a word in any script, or one
	// other character.
	token = regexp.MustCompile(`[\p{L}\p{N}_][\p{L}\p{M}\p{N}._-]*[\p{L}\p{M}\p{N}_]|[\p{L}\p{N}_]|\s+|.`)
	part  = regexp.MustCompile(`[\p{L}\p{M}\p{N}]+|[^\p{L}\p{M}\p{N}]`)
	// telling are numbers that say which error it is.
	telling = regexp.MustCompile(`(?i)\b(sqlstate [0-9A-Z]{5}|(?:exit )?(?:status|code) [0-9]{1,3}|run [0-9]{1,7}|[0-9]{1,6} of [0-9]{1,6})\b`)
	gaps    = regexp.MustCompile(`…(?:[\s\-._/:@=,;+*&%#$!?~^|<>()\[\]{}…]*…)+`)
)

var quotes = map[rune]rune{'"': '"', '\'': '\'', '`': '`', '«': '»', '“': '”', '‘': '’', '„': '“', '‹': '›'}

// Text reduces a text to one line.
func (f *Filter) Text(s string) string {
	var b strings.Builder
	rest := []rune(s)
	for len(rest) > 0 {
		i := open(rest)
		f.words(&b, string(rest[:i]))
		if i == len(rest) {
			break
		}
		end := i + 1
		for end < len(rest) && rest[end] != quotes[rest[i]] {
			end++
		}
		// A quote that does not end hides all that follows.
		if to, ok := f.names[string(rest[i+1:end])]; ok {
			b.WriteString(string(rest[i]) + to + string(quotes[rest[i]]))
		} else {
			b.WriteString(gap)
		}
		rest = rest[min(end+1, len(rest)):]
	}
	return strings.TrimSpace(gaps.ReplaceAllString(b.String(), gap))
}

// open is where the next quotation begins; an apostrophe within a word begins
// none.
func open(s []rune) int {
	for i, r := range s {
		if _, ok := quotes[r]; ok && !(r == '\'' && i > 0 && i+1 < len(s) && isWord(s[i-1]) && isWord(s[i+1])) {
			return i
		}
	}
	return len(s)
}

func isWord(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

// words reduces what is not quoted.
func (f *Filter) words(b *strings.Builder, s string) {
	last := 0
	for _, m := range telling.FindAllStringIndex(s, -1) {
		f.tokens(b, s[last:m[0]])
		b.WriteString(s[m[0]:m[1]])
		last = m[1]
	}
	f.tokens(b, s[last:])
}

func (f *Filter) tokens(b *strings.Builder, s string) {
	for _, t := range token.FindAllString(s, -1) {
		if to, ok := f.names[t]; ok {
			b.WriteString(to)
			continue
		}
		for _, p := range part.FindAllString(t, -1) {
			to, named := f.names[p]
			switch {
			case named:
				b.WriteString(to)
			case vocabulary[strings.ToLower(p)], strings.TrimSpace(p) == "" && strings.Trim(p, " ") == "", p == "a":
				b.WriteString(p)
			case strings.TrimSpace(p) == "":
				b.WriteString(" ") // a line break
			case strings.ContainsAny(p, ".,:;/()[]-=%@_"):
				b.WriteString(p)
			default:
				b.WriteString(gap)
			}
		}
	}
}
