package drill

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"

	"strongroom/custody/receipt"
)

// An Assertion is a question to the restored copy and what its answer has to be:
// one row of one column. Expect is a value, or one of = != < <= > >= and a value.
type Assertion struct {
	Name    string
	SQL     string
	Expect  string
	Timeout time.Duration // 0: DefaultAssertTime
}

// DefaultAssertTime is how long an assertion may take that says nothing.
const DefaultAssertTime = 30 * time.Second

func (a Assertion) limit() time.Duration {
	if a.Timeout == 0 {
		return DefaultAssertTime
	}
	return a.Timeout
}

func (a Assertion) check() receipt.Check {
	op, value := a.operator()
	return receipt.Check{Name: a.Name, Expected: strings.TrimPrefix(op+" "+value, "= ")}
}

// mariaSyntax is MariaDB's number of an error of syntax.
const mariaSyntax = 1064

func (a Assertion) failed(err error) receipt.Check {
	c := a.check()
	if e, ok := errors.AsType[*mysql.MySQLError](err); !ok || e.Number != mariaSyntax { // it quotes the assertion itself
		err = silent(err)
	}
	c.Actual = "error: " + err.Error()
	return c
}

// silent leaves out of a server's error what may quote data: a receipt goes to
// people who must not see any.
func silent(err error) error {
	message := ""
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && (strings.HasPrefix(e.Code, "22") || strings.HasPrefix(e.Code, "23") || e.Code == "P0001") {
		message = e.Message
	}
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok && !slices.Contains(mariaNames, e.Number) {
		message = e.Message
	}
	if message == "" {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), message, "its message is left out, it may quote data"))
}

// mariaNames are MariaDB's numbers of errors that quote names at most: rights,
// missing databases, tables, columns, routines and definers, what is not
// installed, no room, time that is over.
var mariaNames = []uint16{1021, 1041, 1044, 1049, 1050, 1054, 1071, 1114, 1115, 1118, 1142, 1143, 1146, 1205, 1227, 1273, 1286, 1298, 1305, 1356, 1370, 1419, 1449, 1577, 1792, 1969}

// nothing is an assertion that would hold of any copy, also of none.
func (a Assertion) nothing(why string) receipt.Check {
	c := a.check()
	c.Actual = "it compares nothing: " + why
	return c
}

var expectation = regexp.MustCompile(`^(=|!=|<=|>=|<|>)?\s*(.*)$`)

func (a Assertion) operator() (op, value string) {
	m := expectation.FindStringSubmatch(strings.TrimSpace(a.Expect))
	if m[1] == "" {
		m[1] = "="
	}
	return m[1], m[2]
}

// judge compares the answer: nil is NULL.
func (a Assertion) judge(rows [][][]byte) receipt.Check {
	op, want := a.operator()
	c := a.check()
	switch {
	case want == "":
		return a.nothing("it expects nothing")
	case len(rows) != 1:
		return a.nothing(fmt.Sprintf("it returned %d rows: want one", len(rows)))
	case len(rows[0]) != 1:
		return a.nothing(fmt.Sprintf("it returned %d columns: want one", len(rows[0])))
	case rows[0][0] == nil:
		return a.nothing("it returned NULL")
	}
	c.Actual = string(rows[0][0])
	got, ok1 := number(c.Actual)
	expected, ok2 := number(want)
	var order int
	switch {
	case ok1 && ok2:
		order = got.Cmp(expected)
	case op == "=" || op == "!=":
		order = strings.Compare(c.Actual, want)
	case ok1 != ok2:
		c.Actual = "a number and a text have no order"
		return c
	default: // dates and times in ISO form
		order = strings.Compare(c.Actual, want)
	}
	c.OK = map[string]bool{"=": order == 0, "!=": order != 0, "<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[op]
	if !ok1 && !plain.MatchString(c.Actual) && c.Actual != want {
		c.Actual = fmt.Sprintf("another text, of %d bytes", len(c.Actual)) // which may be a person's name
	}
	return c
}

// number reads a decimal number exactly. Others that big.Rat knows, such as
// fractions and those with huge exponents, are texts.
func number(s string) (*big.Rat, bool) {
	if len(s) > 100 || !decimal.MatchString(s) {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

// plain is what says nothing about anybody: truth values, dates and times.
var plain = regexp.MustCompile(`^(t|f|true|false|[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9:.+-]{5,30})?)$`)

var decimal = regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]+)?$`)

// assertions asks all of them.
func (r *run) assertions(ctx context.Context) {
	if len(r.Assertions) == 0 {
		r.steps[receipt.Assertions] = receipt.Step{Name: receipt.Assertions, Status: receipt.Absent, Why: "none are configured"}
		return
	}
	var out []receipt.Check
	for _, a := range r.Assertions {
		out = append(out, r.engine.assert(ctx, a))
	}
	if !r.box.Alive() {
		r.set(receipt.Assertions, out, here("the sandbox died"))
		return
	}
	slices.SortStableFunc(out, func(a, b receipt.Check) int { return last(a.OK) - last(b.OK) })
	r.set(receipt.Assertions, out, nil)
}
