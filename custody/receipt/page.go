package receipt

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"time"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("receipt").Funcs(template.FuncMap{
	"ms": func(n int64) string { return (time.Duration(n) * time.Millisecond).String() },
}).Parse(pageText))

// Page is the receipt for people, as one HTML file that loads nothing. It proves
// nothing itself: what is signed is the file it was made from.
func (r *Receipt) Page() ([]byte, error) {
	var b bytes.Buffer
	if err := page.Execute(&b, r); err != nil {
		return nil, fmt.Errorf("page of receipt %s: %w", r.ID, err)
	}
	return b.Bytes(), nil
}
