package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// epoch is when the company began; its first dump is of launch.
var (
	epoch  = time.Date(2021, 3, 1, 6, 0, 0, 0, time.UTC)
	launch = time.Date(2026, 1, 5, 6, 0, 0, 0, time.UTC)
)

const week = 7 * 24 * time.Hour

// A table is one of the CRM's.
type table struct {
	name string
	rows int // of the first week, for a dump of about 1,000 MB
	// row appends the row of a number. at is when it came to be.
	row func(w *writer, id int64, at time.Time, customers int64)
}

// tables are what the CRM has. Customers and orders change; the others grow.
var tables = []table{
	{"customers", 350_000, customerRow},
	{"orders", 950_000, orderRow},
	{"payments", 1_200_000, paymentRow},
	{"activities", 1_060_000, activityRow},
	{"documents", 21_000, documentRow},
}

const schema = `
CREATE TABLE customers (id bigint PRIMARY KEY, company text NOT NULL, first_name text, last_name text, email text, phone text, street text,
  postcode text, city text, country char(2), segment text, status text, credit_limit numeric(12,2), balance numeric(12,2),
  created timestamptz, updated timestamptz, attributes jsonb);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, number text, placed timestamptz, updated timestamptz, status text,
  currency char(3), net numeric(12,2), tax numeric(12,2), ship_city text, lines jsonb);
CREATE TABLE payments (id bigint PRIMARY KEY, customer_id bigint NOT NULL, booked timestamptz, amount numeric(12,2), method text, reference text);
CREATE TABLE activities (id bigint PRIMARY KEY, customer_id bigint NOT NULL, author text, at timestamptz, kind text, subject text, body text);
CREATE TABLE documents (id bigint PRIMARY KEY, customer_id bigint NOT NULL, name text, mime text, uploaded timestamptz, content bytea);`

const indexes = `
CREATE INDEX customers_email ON customers (email);
CREATE INDEX orders_customer ON orders (customer_id);
CREATE INDEX activities_customer ON activities (customer_id, at);
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE activities ADD FOREIGN KEY (customer_id) REFERENCES customers;`

var (
	segments   = []string{"retail", "wholesale", "industry", "public", "startup"}
	statuses   = []string{"active", "active", "active", "prospect", "dormant", "blocked"}
	orderStati = []string{"open", "paid", "paid", "packed", "shipped", "shipped", "delivered", "returned", "cancelled"}
	methods    = []string{"transfer", "transfer", "card", "debit", "cash"}
	kinds      = []string{"call", "mail", "mail", "visit", "note", "ticket"}
	countries  = []string{"DE", "DE", "FR", "AT", "CH", "NL", "PL", "GB", "IT"}
)

func customerRow(w *writer, id int64, at time.Time, _ int64) {
	given, family, company := pick(w, w.givens), pick(w, w.families), pick(w, w.companies)
	w.number(id)
	w.text(company)
	w.text(given)
	w.text(family)
	domain := strings.ToLower(strings.NewReplacer(" ", "", "&", "and").Replace(company))
	w.text(strings.ToLower(given+"."+family) + "@" + domain + ".example")
	w.phone()
	w.text(pick(w, w.streets) + " " + strconv.Itoa(1+w.IntN(220)))
	w.text(strconv.Itoa(10000 + w.IntN(89999)))
	w.text(pick(w, w.cities))
	w.text(pick(w, countries))
	w.text(pick(w, segments))
	w.text(pick(w, statuses))
	w.money(int64(w.IntN(200)) * 50_000)
	w.money(int64(w.IntN(2_000_000)))
	w.time(at)
	w.time(at.Add(time.Duration(w.Int64N(int64(90 * week)))))
	w.attributes()
	w.end()
}

func (w *writer) phone() {
	w.text(fmt.Sprintf("+%d %d %07d", 30+w.IntN(20), 30+w.IntN(900), w.IntN(10_000_000)))
}

func (w *writer) attributes() {
	w.text(fmt.Sprintf(`{"score": %d, "owner": "agent%d", "language": "%s", "newsletter": %t, "tags": ["%s", "%s"]}`, w.IntN(1000), w.IntN(140),
		strings.ToLower(pick(w, countries)), w.IntN(2) == 0, w.words[w.zipf[w.Uint32()>>16]], w.words[w.zipf[w.Uint32()>>16]]))
}

func orderRow(w *writer, id int64, at time.Time, customers int64) {
	w.number(id)
	w.number(w.customer(customers))
	w.text(fmt.Sprintf("A-%d-%06d", at.Year(), id%1_000_000))
	w.time(at)
	w.time(at.Add(time.Duration(w.Int64N(int64(3 * week)))))
	w.text(pick(w, orderStati))
	w.text("EUR")
	net := int64(w.IntN(300_000)) + 500
	w.money(net)
	w.money(net * 19 / 100)
	w.text(pick(w, w.cities))
	w.b = append(w.b, '[')
	for i := range 1 + w.IntN(3) {
		if i > 0 {
			w.b = append(w.b, ", "...)
		}
		w.b = fmt.Appendf(w.b, `{"sku": "%s", "qty": %d, "price": %d.%02d}`, pick(w, w.skus), 1+w.IntN(12), w.IntN(900), w.IntN(100))
	}
	w.b = append(w.b, "]\t"...)
	w.end()
}

// customer is somebody; a few are there far more often than most.
func (w *writer) customer(customers int64) int64 {
	f := w.Float64()
	return 1 + int64(f*f*float64(customers))
}

func paymentRow(w *writer, id int64, at time.Time, customers int64) {
	w.number(id)
	w.number(w.customer(customers))
	w.time(at)
	w.money(int64(w.IntN(300_000)) + 500)
	w.text(pick(w, methods))
	w.text(fmt.Sprintf("RF%02d %04d %04d %04d", w.IntN(98), w.IntN(10000), w.IntN(10000), w.IntN(10000)))
	w.end()
}

func activityRow(w *writer, id int64, at time.Time, customers int64) {
	w.number(id)
	w.number(w.customer(customers))
	w.text("agent" + strconv.Itoa(w.IntN(140)))
	w.time(at)
	w.text(pick(w, kinds))
	w.sentence()
	w.b = append(w.b, '\t')
	w.body(1+w.IntN(9), `\n`)
	w.b = append(w.b, '\t')
	w.end()
}

// documentRow holds a scan, which no program compresses, or a letter.
func documentRow(w *writer, id int64, at time.Time, customers int64) {
	w.number(id)
	w.number(w.customer(customers))
	scan := w.IntN(5) < 3
	name, mime := "letter", "text/html"
	if scan {
		name, mime = "scan", "image/jpeg"
	}
	w.text(fmt.Sprintf("%s-%s-%d", name, w.words[w.zipf[w.Uint32()>>16]], id))
	w.text(mime)
	w.time(at)
	content := w.content(scan)
	w.b = append(w.b, `\\x`...)
	const digits = "0123456789abcdef"
	for _, c := range content {
		w.b = append(w.b, digits[c>>4], digits[c&15])
	}
	w.b = append(w.b, '\t')
	w.end()
}

func (w *writer) content(scan bool) []byte {
	if !scan {
		inner := writer{lexicon: w.lexicon, Rand: w.Rand}
		inner.b = append(inner.b, "<html><body><p>"...)
		inner.body(20+w.IntN(40), "</p>\n<p>")
		return append(inner.b, "</p></body></html>\n"...)
	}
	out := make([]byte, 1000+w.IntN(5000))
	copy(out, "\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01")
	for i := 12; i < len(out); i++ {
		out[i] = byte(w.Uint32())
	}
	return out
}

// A crm makes rows for one size and seed.
type crm struct {
	lex  *lexicon
	seed uint64
	size int // MB of the first dump, about
}

func newCRM(seed uint64, size int) *crm { return &crm{newLexicon(seed), seed, size} }

// first is how many rows a table has in week 1, and added by how many it grows
// a week: 3 % of those of week 1.
func (c *crm) first(t table) int64 { return max(int64(t.rows)*int64(c.size)/1000, 100) }
func (c *crm) added(t table) int64 { return c.first(t) * 3 / 100 }

// last is the highest number that a table's rows have had by a week.
func (c *crm) last(t table, week int) int64 { return c.first(t) + c.added(t)*int64(week-1) }

// rows calls emit with the rows that a table gains in a week, some at a time.
func (c *crm) rows(t table, w int, emit func([]byte) error) error {
	from, to := int64(1), c.first(t)
	begin, span := epoch, launch.Sub(epoch)
	if w > 1 {
		from, to = c.last(t, w-1)+1, c.last(t, w)
		begin, span = launch.Add(time.Duration(w-2)*week), week
	}
	out := newWriter(c.lex, c.seed, t.name, w)
	customers := c.last(tables[0], w)
	for id := from; id <= to; id++ {
		at := begin.Add(time.Duration(float64(span) * float64(id-from) / float64(to-from+1))).Add(time.Duration(out.IntN(1e9)))
		t.row(out, id, at, customers)
		if len(out.b) > 1<<16 || id == to {
			if err := emit(out.b); err != nil {
				return err
			}
			out.b = out.b[:0]
		}
	}
	return nil
}

// A change is what happens to old rows in a week, as rows of COPY for tables
// that hold the changes.
type change struct {
	customers, orders, deleted []byte
}

// changes returns week w's: 2 % of the customers and 1 % of the orders get new
// values in some columns, 0.3 % of the orders go.
func (c *crm) changes(w int) change {
	out := newWriter(c.lex, c.seed, "changes", w)
	now := launch.Add(time.Duration(w-2) * week)
	sample := func(t table, permille int64, row func(id int64)) []byte {
		last, seen := c.last(t, w-1), map[int64]bool{}
		out.b = nil
		for range last * permille / 1000 {
			if id := 1 + out.Int64N(last); !seen[id] {
				seen[id] = true
				row(id)
			}
		}
		return out.b
	}
	moment := func() time.Time { return now.Add(time.Duration(out.Int64N(int64(week)))) }
	var ch change
	ch.customers = sample(tables[0], 20, func(id int64) {
		out.number(id)
		out.text(pick(out, statuses))
		out.money(int64(out.IntN(2_000_000)))
		out.time(moment())
		out.phone()
		out.attributes()
		out.end()
	})
	ch.orders = sample(tables[1], 10, func(id int64) {
		out.number(id)
		out.text(pick(out, orderStati))
		out.time(moment())
		out.end()
	})
	ch.deleted = sample(tables[1], 3, func(id int64) { out.number(id); out.end() })
	return ch
}
