package keys

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strings"
	"time"

	"strongroom/custody/keys/paper"
)

//go:embed kit.html
var kitText string

//go:embed sheet.html
var sheetText string

var (
	kitPage   = template.Must(template.New("kit").Parse(kitText))
	sheetPage = template.Must(template.New("sheet").Parse(sheetText))
)

const (
	kitQRPrefix  = "STRONGROOM:KIT:1:"
	capsuleTag   = "capsule"
	catalogueTag = "catalogue"
)

// Page returns the printable page of one copy: everything the file holds that
// a person may have to type or compare.
func (k Kit) Page() ([]byte, error) {
	file, err := k.Encode()
	if err != nil {
		return nil, err
	}
	code, err := paper.QR(kitQRPrefix + strings.ToUpper(k.ID.String()) + ":" + paper.Encode(k.Key.Capsule))
	if err != nil {
		return nil, fmt.Errorf("print kit: %w", err)
	}
	return render(kitPage, struct {
		Kit
		Title                   string
		QR                      template.HTML
		Capsule, CatalogueLines []string
		CopyCode                string
		Style                   template.CSS
	}{
		k, fmt.Sprintf("Recovery kit of %s, copy %d", k.Tenant, k.Copy), code,
		paper.Lines(capsuleTag, k.Key.Capsule), paper.Lines(catalogueTag, k.Catalogue.Reveal()), CopyCode(file), paper.Style,
	})
}

// Sheet is what an organisation keeps beside its kits: how to recover, and by
// which keys, without any capsule.
type Sheet struct {
	Organisation string
	Recovery     []Recovery
	Boxes        BoxKeys
	Binary       Hash
	Created      time.Time
}

// Page returns the printable sheet.
func (s Sheet) Page() ([]byte, error) {
	return render(sheetPage, struct {
		Sheet
		Style template.CSS
	}{s, paper.Style})
}

func render(t *template.Template, data any) ([]byte, error) {
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("print %s: %w", t.Name(), err)
	}
	return out.Bytes(), nil
}
